"""Exports a Hugging Face directory to GGUF: write, quantize with llama.cpp, compare tokenizers, describe the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.export import gguf_base, gguf_vocab, gguf_write
from distill2edge.export.gguf_compare import warn_of
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.gguf.ggml_types import BLOCK, falls_back_to
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.handover.write import form_for, hand_over
from distill2edge.quantize.schemes import ALL, Scheme
from distill2edge.util.files import scratch, sync
from distill2edge.util.progress import Progress

_SUPER_BLOCK = 256


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
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, used for every family; None: that of the pinned
            llama.cpp, for those that no writer here covers.
        rounding: what matrices are rounded by; None: the weights alone.

    Returns:
        what export.json holds: format, scheme, size_bytes, effective_bits, parameters, types, fallbacks, tokenizer,
        faithful, converter, and what `Rounding.write` says.

    Raises:
        UserError: unsupported architecture or tokenizer, token ids or logits that differ from the original's, or
            llama.cpp or its converter refused; its last words are in the message.
        EnvironmentFault: no disk space, llama-cpp-python is missing, or the converter cannot be fetched.
    """
    model_dir, work, rounding = Path(model_dir), Path(work), rounding or Rounding()
    _refuse(scheme, rounding)
    converter = gguf_base.converter_for(model_dir, scheme, converter, progress)
    tokenizer = gguf_vocab.load_tokenizer(model_dir)
    form = form_for(model_dir, meta, tokenizer)
    meta = {**meta, "input": form.dumps()}
    facts: dict[str, Any] = {"calibration": None, "trained": False}
    with scratch(work, "gguf") as directory:
        kind = scheme.base if scheme.precision == "lossless" else gguf_write.source_type(model_dir)
        base = part = directory / "base.gguf"
        compared = gguf_base.write(model_dir, base, kind, converter, tokenizer, form, meta, progress)
        if scheme.precision != "lossless":
            part = directory / "model.gguf"
            layout = gguf_base.layout_of_base(base, model_dir, converter) if rounding.by_name else None
            facts |= rounding.write(scheme, model_dir, layout, base, part, directory, progress)
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


def _refuse(scheme: Scheme, rounding: Rounding) -> None:
    given = scheme.mix is not None and (rounding.mix is not None or rounding.grid is not None)
    if scheme.format != "gguf" or (scheme.type is None and not given):
        known = ", ".join(str(each) for each in ALL if each.format == "gguf")
        raise UserError(f"{scheme} is not a GGUF scheme", fix=f"one of {known}")


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


def _settle(part: Path, target: Path) -> None:
    """Give a finished file its name, once its bytes are on the disk."""
    sync(part)
    part.replace(target)
