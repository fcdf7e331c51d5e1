"""A Hugging Face directory's tensors in a GGUF of it: their names and the order of their rows, both ways."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.gguf.families import Family, by_model_type, refuse
from distill2edge.util.files import read_json

if TYPE_CHECKING:
    import numpy as np


def names_to_hf(model_dir: Path) -> dict[str, str]:
    """GGUF tensor name -> Hugging Face name, of every tensor the model may have.

    Raises:
        UserError: an architecture without a map.
    """
    config, family = _family(model_dir)
    return family.names(config["num_hidden_layers"])


def names_to_gguf(model_dir: Path) -> dict[str, str]:
    """Hugging Face weight name -> GGUF tensor name; a tied head is the embedding's tensor.

    Raises:
        UserError: an architecture without a map.
    """
    config, _ = _family(model_dir)
    names = {theirs: ours for ours, theirs in names_to_hf(model_dir).items()}
    if config.get("tie_word_embeddings", True) and "lm_head.weight" in names:
        names["lm_head.weight"] = "token_embd.weight"
    return names


def rows_to_gguf(model_dir: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """A tensor's rows in GGUF's order; `name` is the GGUF name."""
    import numpy as np

    family, heads, kv_heads = _heads(model_dir)
    return np.ascontiguousarray(family.to_gguf(name, rows, heads, kv_heads))


def rows_to_hf(model_dir: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """The inverse of `rows_to_gguf`."""
    import numpy as np

    family, heads, kv_heads = _heads(model_dir)
    return np.ascontiguousarray(family.to_hf(name, rows, heads, kv_heads))


def _family(model_dir: Path) -> tuple[dict[str, Any], Family]:
    config = dict(read_json(Path(model_dir) / "config.json"))
    model_type = str(config.get("model_type", "unknown"))
    family = by_model_type(model_type)
    if family is None:
        raise refuse(model_type, str(model_dir))
    return config, family


def _heads(model_dir: Path) -> tuple[Family, int, int]:
    config, family = _family(model_dir)
    heads = int(config["num_attention_heads"])
    return family, heads, int(config.get("num_key_value_heads") or heads)
