"""Exports a Hugging Face directory to GGUF: write, quantize with llama.cpp, compare tokenizers, describe the file."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill2edge.data.model_inputs import InputForm
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export import gguf_vocab, gguf_write, support
from distill2edge.export.faithful import Check
from distill2edge.export.gguf_compare import compare_tokenizers, warn_of
from distill2edge.export.gguf_mix import MixExport, file_type
from distill2edge.export.gptq import round_again
from distill2edge.export.grid import packed
from distill2edge.gguf import llama_process
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.gguf.repack import repack
from distill2edge.handover.write import form_for, hand_over, template_for
from distill2edge.models.kinds import kind_of
from distill2edge.models.loading import read_config
from distill2edge.quantize.activations import Inputs
from distill2edge.quantize.schemes import GGUF, Scheme
from distill2edge.quantize.tensor_grids import load_grids
from distill2edge.util.files import scratch, sync
from distill2edge.util.progress import Progress
from distill2edge.util.threads import available_threads

PLAIN = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# llama.cpp's numbers of its file types (`enum llama_ftype` in llama.h).
FILE_TYPES = {
    "F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K_S": 11,
    "Q3_K_M": 12, "Q3_K_L": 13, "Q4_K_S": 14, "Q4_K_M": 15, "Q5_K_S": 16, "Q5_K_M": 17, "Q6_K": 18,
    "IQ4_NL": 25, "IQ4_XS": 30, "BF16": 32,
}  # fmt: skip
# What llama.cpp uses where a row is not a multiple of the wanted type's block of 256 weights.
_FALLBACK_OF = {"Q5_0": "Q4_K", "Q5_1": "Q5_K", "Q8_0": "Q6_K", "IQ4_NL": "Q2_K, Q3_K or IQ4_XS", "F16": "any"}
_SUPER_BLOCK = 256


def export_gguf(
    model_dir: Path,
    scheme: Scheme,
    meta: dict[str, Any],
    work: Path,
    progress: Progress,
    *,
    converter: Path | None = None,
    threads: int | None = None,
    imatrix: Path | None = None,
    gptq: Inputs | None = None,
    grid: Path | None = None,
    mix: MixExport | None = None,
) -> dict[str, Any]:
    """Write `model.gguf` and `export.json` into `work`.

    Args:
        model_dir: merged model, Hugging Face directory with safetensors and a fast tokenizer.
        scheme: one of the `gguf:` schemes.
        meta: name, licence, teacher, recipe, recipe_key, description; further keys are kept as distill2edge.KEY.
        work: directory to write into.
        progress: where to report.
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, used instead of the built-in writers.
        threads: threads for quantizing; None takes what this process may use.
        imatrix: importance matrix of this model, as the calibration stage writes it; None rounds without one.
        gptq: inputs on the calibration rows, to compensate the errors of rounding by; None leaves them.
        grid: directory of the grid that this model was trained on: the file gets its very scales, and no quantizer
            picks others.
        mix: of a scheme that is one: its limit, and what its types are chosen by.

    Returns:
        what export.json holds: format, scheme, size_bytes, effective_bits, parameters, types, fallbacks, tokenizer,
        calibration (`imatrix`, `gptq`, `sensitivity` or null), trained (on the grid); of a mix also what
        `MixExport.write` says.

    Raises:
        UserError: unsupported architecture or tokenizer, token ids or logits that differ from the original's, or
            llama.cpp refused; its last words are in the message.
        EnvironmentFault: no disk space, or llama-cpp-python is missing.
    """
    given = scheme.mix is not None and (mix is not None or grid is not None)
    if scheme.format != "gguf" or (scheme.base not in FILE_TYPES and not given):
        raise UserError(f"{scheme} is not a GGUF scheme", fix=f"one of {', '.join(f'gguf:{name}' for name in GGUF)}")
    model_dir, work = Path(model_dir), Path(work)
    if converter is not None and not converter.is_file():
        raise UserError("no such converter", where=str(converter),
                        fix="give the path of convert_hf_to_gguf.py in a llama.cpp checkout")  # fmt: skip
    config = read_config(model_dir)
    support.refuse(config, kind_of(config), scheme, str(model_dir), converter=converter is not None)
    tokenizer = gguf_vocab.load_tokenizer(model_dir)
    form = form_for(model_dir, meta, tokenizer)
    meta = {**meta, "input": form.dumps()}
    kind = scheme.name if scheme.name in PLAIN else gguf_write.source_type(model_dir)
    imatrix = imatrix if scheme.calibrates else None
    more: dict[str, Any] = {}
    with scratch(work, "gguf") as directory:
        _room(model_dir, work, kind)
        check = Check(model_dir, kind_of(config).name, "llama.cpp", progress, PLAIN[kind])
        base, part = directory / "base.gguf", directory / "model.gguf"
        if converter is None:
            _write(model_dir, base, kind, tokenizer, form, meta, progress)
        else:
            _convert(converter, model_dir, base, kind, meta, template_for(form, tokenizer), directory)
        ids = compare_tokenizers(tokenizer, read_gguf(base), form, strict=converter is None)
        faithful = check.of(base, directory / "compare")
        if scheme.name in PLAIN:
            part = base
        else:
            progress.say(f"  quantizing to {scheme}")
            if mix is not None:
                more = mix.write(model_dir, base, part, directory, progress)
            elif grid is not None:
                tensors = packed(load_grids(grid)[0], model_dir)
                repack(base, part, tensors, file_type=FILE_TYPES.get(scheme.base) or file_type(tensors))
            else:
                wanted = FILE_TYPES[scheme.base]
                llama_process.quantize(base, part, wanted, threads=threads or available_threads(), imatrix=imatrix)
                if gptq is not None:
                    round_again(part, part, model_dir, gptq, progress)
        target = work / "model.gguf"
        _settle(part, target)
    file = read_gguf(target)
    facts = describe(file, scheme)
    facts |= {"tokenizer": ids, "faithful": faithful}
    warn_of(str(scheme), facts["tokenizer"], progress)
    facts["calibration"] = None if imatrix is None else "imatrix" if gptq is None else "gptq"
    facts["trained"] = grid is not None
    facts["converter"] = "built-in" if converter is None else converter.name
    facts |= more
    facts["handover"] = hand_over(work, form, tokenizer, model_dir, facts, str(meta.get("name") or "model"), progress)
    (work / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    if facts["fallbacks"]:
        progress.say(
            f"  {scheme}: {len(facts['fallbacks'])} tensors fell back to a larger type (rows that are not a multiple "
            f"of {32 if scheme.mix else _SUPER_BLOCK}): {facts['effective_bits']:.2f} bits per weight"
        )
    return facts


def describe(file: GgufFile, scheme: Scheme) -> dict[str, Any]:
    """Facts of a written GGUF: size, effective bits per weight, the real histogram of types, the fallbacks.

    effective_bits counts the bytes of every tensor over the weights of every tensor, metadata left out. A fallback
    is a tensor whose row is not a multiple of 256, stored in the type that llama.cpp puts in place of a K-quant.
    """
    import gguf

    types: dict[str, dict[str, int]] = {}
    fallbacks: list[dict[str, str]] = []
    for info in file.tensors.values():
        name = gguf.GGMLQuantizationType(info.type).name
        entry = types.setdefault(name, {"tensors": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["bytes"] += info.size
        quantized = scheme.name not in PLAIN and not scheme.mix and len(info.shape) > 1
        if quantized and info.shape[-1] % _SUPER_BLOCK and name != scheme.base and name in _FALLBACK_OF:
            fallbacks.append({"tensor": info.name, "wanted": _FALLBACK_OF[name], "used": name})
    size = sum(info.size for info in file.tensors.values())
    weights = sum(info.elements for info in file.tensors.values())
    return {
        "schema_version": 1,
        "format": "gguf",
        "scheme": str(scheme),
        "size_bytes": file.size,
        "effective_bits": round(8 * size / weights, 4),
        "parameters": weights,
        "types": dict(sorted(types.items(), key=lambda item: -item[1]["bytes"])),
        "fallbacks": fallbacks,
    }


def _write(
    model_dir: Path,
    part: Path,
    kind: str,
    tokenizer: Any,
    form: InputForm,
    meta: dict[str, Any],
    progress: Progress,
) -> None:
    config, _ = gguf_write.load_config(model_dir)
    ends = [*form.stop, *_eos_ids(model_dir)]  # the first after EOS itself becomes the end of a turn
    vocabulary = gguf_vocab.vocabulary_of(tokenizer, config.vocab_size, ends, str(model_dir))
    vocabulary.chat_template = template_for(form, tokenizer)
    gguf_write.write_gguf(model_dir, part, kind, vocabulary, meta, progress)


def _eos_ids(model_dir: Path) -> list[int]:
    path = model_dir / "generation_config.json"
    found = json.loads(path.read_text()).get("eos_token_id") if path.is_file() else None
    return [] if found is None else list(found) if isinstance(found, list) else [found]


def _convert(
    converter: Path, model_dir: Path, part: Path, kind: str, meta: dict[str, Any], template: str | None, work: Path
) -> None:
    """Run a llama.cpp checkout's converter, then add our metadata to what it wrote."""
    raw = work / "converted.part"
    command = [sys.executable, str(converter), str(model_dir), "--outfile", str(raw), "--outtype", kind.lower()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 or not raw.is_file():
        words = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
        raise UserError(f"the converter failed: {words}", where=str(converter), fix="the words above say why")
    read_gguf(raw)
    _add_metadata(raw, part, meta, template)
    raw.unlink()


def _add_metadata(source: Path, target: Path, meta: dict[str, Any], template: str | None) -> None:
    """Copy a GGUF, its key-values and our own over them: also the chat template that the model was trained with."""
    import gguf

    reader = gguf.GGUFReader(source)
    ours = dict(gguf_write.metadata_fields(meta))
    named = "tokenizer.chat_template"
    if template:
        ours[named] = template
    writer = gguf.GGUFWriter(target, reader.fields["general.architecture"].contents(), use_temp_file=False)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", named) or key in ours:
            continue
        sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], sub_type=sub)
    for key, value in ours.items():
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    for tensor in reader.tensors:
        writer.add_tensor_info(
            tensor.name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def _settle(part: Path, target: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk."""
    sync(part)
    part.replace(target)


def _room(model_dir: Path, work: Path, kind: str) -> None:
    stored = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    width = {"F32": 4, "F16": 2, "BF16": 2}
    base = stored * width[kind] // width[gguf_write.source_type(model_dir)]
    free = shutil.disk_usage(work).free
    if free < 2 * base:
        raise EnvironmentFault(f"{free >> 20} MiB free, about {2 * base >> 20} MiB needed", where=str(work),
                               fix="free some disk space, or move the store")  # fmt: skip
