"""A GGUF teacher as a Hugging Face directory: dequantized once, tokenizer rebuilt and compared with llama.cpp."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.gguf import llama_process
from distill2edge.gguf.complete import check_complete
from distill2edge.gguf.corpus import TEXTS
from distill2edge.gguf.families import Family, by_architecture, supported
from distill2edge.gguf.fields import items
from distill2edge.gguf.finite import check_finite
from distill2edge.gguf.gguf_tokenizer import SpecialIds, build_tokenizer, special_ids
from distill2edge.gguf.hyperparameters import config_of
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.intake.tokenizer_files import check_template
from distill2edge.models.checkpoint import load_tokenizer

if TYPE_CHECKING:
    import torch

SHARD_BYTES = 2 << 30


def gguf_to_hf(gguf_path: Path, out_dir: Path, dtype: str = "float32", *, weights: bool = True) -> dict[str, Any]:
    """Write a GGUF as a Hugging Face directory: config, safetensors, tokenizer, generation defaults.

    The header is checked before anything is loaded. End, padding and start tokens are the GGUF's own. The rebuilt
    tokenizer must give the ids of llama.cpp on a built-in corpus, or nothing is written.

    Args:
        gguf_path: the file.
        out_dir: directory to write into; made if missing.
        dtype: float32, bfloat16 or float16.
        weights: False leaves them out, for what llama.cpp will run from the file itself.

    Returns:
        facts: name, architecture, licence, parameters, layers, vocabulary, bos, eos, pad, add_bos,
        dtype, quantization (tensor types and counts), texts_compared.

    Raises:
        UserError: a damaged or incomplete file, fields that no model could mean, an unsupported architecture or
            tokenizer, or ids that differ from llama.cpp's.
    """
    file = read_gguf(Path(gguf_path))
    family = _family_of(file)
    tokens = items(file, "tokenizer.ggml.tokens", str)
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or embedding.shape[0] < len(tokens):
        raise UserError("its embedding does not fit its vocabulary", where=str(gguf_path), fix="use a complete GGUF")
    config = config_of(file, family, embedding.shape[0])
    check_complete(file, family, config)
    check_finite(file)
    ids = special_ids(file)
    check_template(file.get("tokenizer.chat_template"), f"{file.path}: tokenizer.chat_template")
    tokenizer = build_tokenizer(file, ids)
    expected = llama_process.tokenize(file.path, TEXTS)
    _check_same(tokenizer, expected, "the tokenizer rebuilt from the GGUF disagrees with llama.cpp", gguf_path)
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_config(out_dir, family, config, ids, dtype)
    tokenizer.save_pretrained(out_dir)
    # transformers may replace a saved pipeline by the one it knows for the model type, so ask it.
    _check_same(load_tokenizer(out_dir), expected, "transformers reads the saved tokenizer differently", gguf_path)
    if weights:
        parameters = _write_weights(file, family, config, out_dir, dtype)
    else:
        named = family.names(config["num_hidden_layers"])
        parameters = sum(info.elements for name, info in file.tensors.items() if name in named)
    return {
        "name": str(file.get("general.name") or file.path.stem),
        "architecture": file.architecture,
        "licence": file.get("general.license"),
        "parameters": parameters,
        "layers": config["num_hidden_layers"],
        "vocabulary": embedding.shape[0],
        "bos": ids.bos,
        "eos": ids.eos,
        "pad": ids.pad,
        "add_bos": ids.add_bos,
        "dtype": dtype,
        "quantization": _histogram(file),
        "texts_compared": len(TEXTS),
    }


def _family_of(file: GgufFile) -> Family:
    found = by_architecture(file.architecture)
    if found is None:
        raise UserError(f"GGUF architecture {file.architecture!r} cannot be loaded; supported: "
                        f"{supported(loadable=True)}",
                        where=str(file.path), fix="use the model's Hugging Face directory instead")  # fmt: skip
    return found


def _check_same(tokenizer: Any, expected: list[list[int]], what: str, path: Path) -> None:
    """Compare ids on the corpus.

    Raises:
        UserError: `what`, with the first text whose ids differ.
    """
    for text, theirs in zip(TEXTS, expected, strict=True):
        ours = tokenizer(text, add_special_tokens=False).input_ids
        if ours != theirs:
            raise UserError(f"{what}: {text!r} becomes {ours}, in llama.cpp {theirs}", where=str(path),
                            fix="use the model's Hugging Face directory instead")  # fmt: skip


def _write_config(out_dir: Path, family: Family, config: dict[str, Any], ids: SpecialIds, dtype: str) -> None:
    from transformers import AutoConfig, GenerationConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = family.model_types[0]
    special = {"bos_token_id": ids.bos, "eos_token_id": ids.eos, "pad_token_id": ids.pad}
    made = AutoConfig.for_model(model_type, **config, **special)
    made.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type]]
    made.dtype = dtype
    made.save_pretrained(out_dir)
    ends = sorted({end for end in (ids.eos, ids.eot) if end is not None})
    special["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None  # type: ignore[assignment]
    GenerationConfig(**special).save_pretrained(out_dir)


def _write_weights(file: GgufFile, family: Family, config: dict[str, Any], out_dir: Path, dtype: str) -> int:
    """Dequantize tensor by tensor into shards of at most SHARD_BYTES; returns the number of weights."""
    import numpy as np
    import torch
    from safetensors.torch import save_file

    kind = getattr(torch, dtype)
    names = family.names(config["num_hidden_layers"])
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shards: list[dict[str, torch.Tensor]] = [{}]
    where: dict[str, int] = {}
    used, total = 0, 0
    width = torch.empty(0, dtype=kind).element_size()
    planned = sum(info.elements for name, info in file.tensors.items() if name in names) * width
    shard_count = 0
    for ours, info in file.tensors.items():
        if ours not in names:
            continue
        size = info.elements * width
        if used and used + size > SHARD_BYTES:
            shard_count += 1
            _save_shard(save_file, shards[-1], out_dir, shard_count)
            shards[-1], used = {}, 0
        weight = family.to_hf(ours, file.tensor(ours), heads, kv_heads)
        if not np.isfinite(weight).all():
            raise UserError(f"tensor {ours} holds infinite or undefined numbers", where=str(file.path),
                            fix="use another file of this model")  # fmt: skip
        shards[-1][names[ours]] = torch.from_numpy(weight.copy()).to(kind)
        where[names[ours]] = shard_count + 1
        used, total = used + size, total + info.elements
    shard_count += 1
    if shard_count == 1:
        save_file(shards[-1], out_dir / "model.safetensors", metadata={"format": "pt"})
        return total
    _save_shard(save_file, shards[-1], out_dir, shard_count)
    for index in range(1, shard_count + 1):
        (out_dir / f"part-{index}").rename(out_dir / _shard_name(index, shard_count))
    weight_map = {name: _shard_name(index, shard_count) for name, index in where.items()}
    index_file = {"metadata": {"total_size": planned}, "weight_map": weight_map}
    (out_dir / "model.safetensors.index.json").write_text(json.dumps(index_file, indent=1))
    return total


def _shard_name(index: int, count: int) -> str:
    return f"model-{index:05d}-of-{count:05d}.safetensors"


def _save_shard(save: Any, tensors: dict[str, torch.Tensor], out_dir: Path, index: int) -> None:
    save(tensors, out_dir / f"part-{index}", metadata={"format": "pt"})


def _histogram(file: GgufFile) -> dict[str, int]:
    import gguf

    counts: dict[str, int] = {}
    for info in file.tensors.values():
        name = gguf.GGMLQuantizationType(info.type).name
        counts[name] = counts.get(name, 0) + 1
    return counts
