"""Whether a GGUF has every tensor that its metadata asks for, in the right shape, and no other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from distill2edge.errors import UserError
from distill2edge.gguf.families import FAMILIES, Family
from distill2edge.gguf.fields import whole
from distill2edge.gguf.reader import GgufFile
from distill2edge.models.config import MAX_COUNT
from distill2edge.models.kinds import EMBEDDER, kind_of_gguf

_FIX = "use a complete GGUF of this model; the file's metadata and tensors must be of one model"
_ROPE = "rope_freqs.weight"


def check_complete(file: GgufFile, family: Family, config: Mapping[str, Any]) -> None:
    """Refuse tensors that are missing, unexpected or misshapen. No tensor data is read.

    Args:
        config: as `gguf.hyperparameters.config_of` gives it.

    Raises:
        UserError: names the tensor, and the field that it belies where it is the number of blocks.
    """
    layers = config["num_hidden_layers"]
    blocks = {int(found[1]) for name in file.tensors if (found := re.match(r"blk\.(\d{1,9})\.", name))}
    if blocks != set(range(layers)):
        raise UserError(
            f"{layers} blocks, but the file has tensors of {len(blocks)}",
            where=f"{file.path}: {file.full_key('.block_count')}",
            fix=_FIX,
        )
    names = family.names(layers)
    shapes = _shapes(config)
    biased = _biases(family, config)
    required = {
        name
        for name in names
        if name.endswith(".weight") and (name != "output.weight" or not config["tie_word_embeddings"])
    } | {f"blk.{layer}.{part}.bias" for layer in range(layers) for part in biased}
    missing = sorted(required - set(file.tensors))
    if missing:
        raise UserError(f"tensors are missing: {_some(missing)}", where=str(file.path), fix=_FIX)
    unexpected = sorted(set(file.tensors) - required - {_ROPE})
    if unexpected:
        raise UserError(f"tensors that {family.label} does not have: {_some(unexpected)}", where=str(file.path),
                        fix="use the model's Hugging Face directory instead")  # fmt: skip
    for name in sorted(required):
        part = re.sub(r"^blk\.\d+\.", "", name)
        wanted = shapes[part.removesuffix(".weight")] if part.endswith(".weight") else shapes[part[:-5]][:1]
        if file.tensors[name].shape != wanted:
            raise UserError(
                f"tensor {name} has the shape {list(file.tensors[name].shape)}, the metadata asks for {list(wanted)}",
                where=str(file.path),
                fix=_FIX,
            )


def check_present(file: GgufFile) -> None:
    """Refuse a file that lacks tensors of its family, for a runtime that does without some of them and computes another
    model: llama.cpp takes biases and a classifier's head as optional. Shapes are the runtime's own matter.

    Raises:
        UserError: names them; or the number of blocks is none.
    """
    kind = kind_of_gguf(file.architecture, file.get(".classifier.output_labels"), file.get(".pooling_type"))
    families = [each for each in FAMILIES if each.architecture == file.architecture]
    if not families:
        return
    # A head of which a part is there makes it a classifier, whatever its metadata lack.
    embeds = kind is EMBEDDER and not any(name.startswith("cls.") for name in file.tensors)
    family = next((each for each in families if each.embedder == embeds), families[0])
    depth = whole(file, ".block_count", 1, MAX_COUNT)
    if family.seq2seq:
        decoder = whole(file, ".decoder_block_count", 1, MAX_COUNT, depth)
        gated = "enc.blk.0.ffn_gate.weight" in file.tensors
        shape = SimpleNamespace(num_layers=depth, num_decoder_layers=decoder, is_gated_act=gated)
        required = set(family.names_of(shape)) - {"output.weight"}
    elif family.classifier or family.embedder:
        tables = {"token_embd.bias", "position_embd.bias", "token_types.bias"}
        required = set(family.names(depth)) - tables
    else:
        given = {
            "attention_bias": "blk.0.attn_q.bias" in file.tensors,
            "mlp_bias": "blk.0.ffn_up.bias" in file.tensors,
        }
        required = {name for name in family.names(depth) if name.endswith(".weight")} - {"output.weight"}
        required |= {f"blk.{layer}.{part}.bias" for layer in range(depth) for part in _biases(family, given)}
    missing = sorted(required - set(file.tensors))
    if missing:
        raise UserError(f"tensors are missing: {_some(missing)}", where=str(file.path), fix=_FIX)


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Row-major shape of each kind of weight of a decoder."""
    hidden, width, inner = config["hidden_size"], config["head_dim"], config["intermediate_size"]
    heads, shared = config["num_attention_heads"] * width, config["num_key_value_heads"] * width
    norms = ("attn_norm", "ffn_norm", "post_attention_norm", "post_ffw_norm", "output_norm")
    return {
        "token_embd": (config["vocab_size"], hidden),
        "output": (config["vocab_size"], hidden),
        "attn_q": (heads, hidden),
        "attn_k": (shared, hidden),
        "attn_v": (shared, hidden),
        "attn_output": (hidden, heads),
        "ffn_gate": (inner, hidden),
        "ffn_up": (inner, hidden),
        "ffn_down": (hidden, inner),
        "attn_q_norm": (width,),
        "attn_k_norm": (width,),
        **dict.fromkeys(norms, (hidden,)),
    }


def _biases(family: Family, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts of a block that have a bias."""
    if family.architecture == "qwen2":
        return ("attn_q", "attn_k", "attn_v")
    attention = ("attn_q", "attn_k", "attn_v", "attn_output") if config.get("attention_bias") else ()
    return attention + (("ffn_gate", "ffn_up", "ffn_down") if config.get("mlp_bias") else ())


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
