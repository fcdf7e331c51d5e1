"""Exports a Hugging Face directory to GGUF: write, quantize with llama.cpp, compare tokenizers, describe the file."""

from __future__ import annotations

import copy
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
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.gguf.ggml_types import BLOCK, GGML_TYPES, falls_back_to
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.handover.write import form_for, hand_over, template_for
from distill2edge.models.kinds import kind_of
from distill2edge.models.loading import read_config
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.quantize.schemes import ALL, Scheme
from distill2edge.util.files import scratch, sync
from distill2edge.util.progress import Progress

_SUPER_BLOCK = 256
_COMPARED: dict[tuple[str, ...], dict[str, Any]] = {}
"""What comparisons in this process said, by what they read."""


def export_gguf(
    model_dir: Path,
    scheme: Scheme,
    meta: dict[str, Any],
    work: Path,
    progress: Progress,
    *,
    converter: Path | None = None,
    rounding: Rounding | None = None,
) -> dict[str, Any]:
    """Write `model.gguf` and `export.json` into `work`.

    Args:
        model_dir: merged model, Hugging Face directory with safetensors and a fast tokenizer.
        scheme: one of the `gguf:` schemes.
        meta: name, licence, teacher, recipe, recipe_key, description; further keys are kept as distill2edge.KEY.
        work: directory to write into.
        progress: where to report.
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, used instead of the built-in writers.
        rounding: what matrices are rounded by; None: the weights alone.

    Returns:
        what export.json holds: format, scheme, size_bytes, effective_bits, parameters, types, fallbacks, tokenizer,
        faithful, converter, and what `Rounding.write` says.

    Raises:
        UserError: unsupported architecture or tokenizer, token ids or logits that differ from the original's, or
            llama.cpp refused; its last words are in the message.
        EnvironmentFault: no disk space, or llama-cpp-python is missing.
    """
    model_dir, work, rounding = Path(model_dir), Path(work), rounding or Rounding()
    _refuse(scheme, model_dir, converter, rounding)
    tokenizer = gguf_vocab.load_tokenizer(model_dir)
    form = form_for(model_dir, meta, tokenizer)
    meta = {**meta, "input": form.dumps()}
    facts: dict[str, Any] = {"calibration": None, "trained": False}
    with scratch(work, "gguf") as directory:
        kind = scheme.base if scheme.precision == "lossless" else gguf_write.source_type(model_dir)
        base = part = directory / "base.gguf"
        compared = _write_base(model_dir, base, kind, converter, tokenizer, form, meta, progress)
        if scheme.precision != "lossless":
            part = directory / "model.gguf"
            facts |= rounding.write(scheme, model_dir, base, part, directory, progress)
        _settle(part, work / "model.gguf")
    facts = describe(read_gguf(work / "model.gguf"), scheme) | compared | facts
    warn_of(str(scheme), facts["tokenizer"], progress)
    facts["handover"] = hand_over(work, form, tokenizer, model_dir, facts, str(meta.get("name") or "model"), progress)
    (work / "export.json").write_text(json.dumps(facts, indent=1) + "\n")
    if facts["fallbacks"]:
        progress.say(
            f"  {scheme}: {len(facts['fallbacks'])} tensors fell back to a larger type (rows that are not a multiple "
            f"of {BLOCK if scheme.mix else _SUPER_BLOCK}): {facts['effective_bits']:.2f} bits per weight"
        )
    return facts


def _refuse(scheme: Scheme, model_dir: Path, converter: Path | None, rounding: Rounding) -> None:
    given = scheme.mix is not None and (rounding.mix is not None or rounding.grid is not None)
    if scheme.format != "gguf" or (scheme.type is None and not given):
        known = ", ".join(str(each) for each in ALL if each.format == "gguf")
        raise UserError(f"{scheme} is not a GGUF scheme", fix=f"one of {known}")
    if converter is not None and not converter.is_file():
        raise UserError("no such converter", where=str(converter),
                        fix="give the path of convert_hf_to_gguf.py in a llama.cpp checkout")  # fmt: skip
    config = read_config(model_dir)
    support.refuse(config, kind_of(config), scheme, str(model_dir), converter=converter is not None)


def _write_base(
    model_dir: Path,
    base: Path,
    kind: str,
    converter: Path | None,
    tokenizer: Any,
    form: InputForm,
    meta: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """Write the unquantized GGUF, in numbers of type `kind`, and compare its tokenizer and its logits with the model's.

    Every scheme of one model is made from the same unquantized bytes, and comparing them takes longer than all the
    rest: once in a process is enough (docs/decisions/0017-one-comparison-for-all-schemes.md).

    Returns:
        for export.json: tokenizer, faithful, converter.
    """
    _room(model_dir, base.parent, kind)
    if converter is None:
        _write(model_dir, base, kind, tokenizer, form, meta, progress)
    else:
        _convert(converter, model_dir, base, kind, meta, template_for(form, tokenizer), base.parent)
    seen = _fingerprint(model_dir, base, converter)
    if seen in _COMPARED:
        progress.say("  the unquantized file is the one that was compared with PyTorch for another scheme")
    else:
        model = kind_of(read_config(model_dir)).name
        check = Check(model_dir, model, "llama.cpp", progress, str(GGML_TYPES[kind].dtype))
        _COMPARED[seen] = {
            "tokenizer": compare_tokenizers(tokenizer, read_gguf(base), form, strict=converter is None),
            "faithful": check.of(base, base.parent / "compare"),
        }
    return {**copy.deepcopy(_COMPARED[seen]), "converter": "built-in" if converter is None else converter.name}


def _fingerprint(model_dir: Path, base: Path, converter: Path | None) -> tuple[str, ...]:
    """Of what a comparison reads: the directory with its configuration and tokenizer, and every byte of the file."""
    small = sorted(path for pattern in ("*.json", "*.jinja", "*.txt", "*.model") for path in model_dir.glob(pattern))
    return (str(model_dir.resolve()), str(converter), *(sha256_of(path) for path in (base, *small)))


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
        quantized = scheme.precision != "lossless" and not scheme.mix and len(info.shape) > 1
        if quantized and info.shape[-1] % _SUPER_BLOCK and name != scheme.base and falls_back_to(name):
            fallbacks.append({"tensor": info.name, "wanted": falls_back_to(name), "used": name})
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
    base = stored * GGML_TYPES[kind].block_bytes // GGML_TYPES[gguf_write.source_type(model_dir)].block_bytes
    free = shutil.disk_usage(work).free
    if free < 2 * base:
        raise EnvironmentFault(f"{free >> 20} MiB free, about {2 * base >> 20} MiB needed", where=str(work),
                               fix="free some disk space, or move the store")  # fmt: skip
