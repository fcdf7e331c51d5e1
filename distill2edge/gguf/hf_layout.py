"""A Hugging Face directory's tensors in a GGUF of it: their names and the order of their rows, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.gguf.families import Family, by_model_type, refuse
from distill2edge.models.checkpoint import load_config
from distill2edge.models.directory import read_directory
from distill2edge.models.kinds import EMBEDDER, kind_of
from distill2edge.models.loading import read_config

if TYPE_CHECKING:
    import numpy as np

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight", "shared.weight")


@dataclass(frozen=True)
class Layout:
    """Which weight each tensor of a GGUF is, and in which order its rows lie.

    Attributes:
        sources: GGUF tensor name -> Hugging Face name.
        order: GGUF tensor name, count of its rows -> the number of the Hugging Face row that each row is; None: the
            same order.
        matrices: all of a converter's file, also those that are no weight of the directory row by row.
    """

    sources: Mapping[str, str]
    order: Callable[[str, int], np.ndarray | None]
    matrices: tuple[str, ...] = ()

    @property
    def unknown(self) -> tuple[str, ...]:
        """Matrices that are no weight of the directory row by row."""
        return tuple(name for name in self.matrices if name not in self.sources)

    @property
    def names(self) -> dict[str, str]:
        """Hugging Face name -> GGUF tensor name."""
        return {source: name for name, source in self.sources.items()}

    def to_gguf(self, name: str, rows: np.ndarray) -> np.ndarray:
        """A tensor's rows in the file's order; `name` is the GGUF name."""
        import numpy as np

        order = self.order(name, len(rows))
        return np.ascontiguousarray(rows if order is None else rows[order])

    def to_hf(self, name: str, rows: np.ndarray) -> np.ndarray:
        """The inverse of `to_gguf`."""
        import numpy as np

        order = self.order(name, len(rows))
        if order is None:
            return np.ascontiguousarray(rows)
        found = np.empty_like(rows)
        found[order] = rows
        return found


def layout_of(model_dir: Path) -> Layout:
    """The layout of the writers here.

    Raises:
        UserError: a family that none of them covers.
    """
    stated = read_config(model_dir)
    family = _family(stated)
    if family is None:
        raise refuse(str(stated.get("model_type", "unknown")), str(model_dir))
    config = load_config(model_dir)
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    return Layout(family.names_of(config), lambda name, rows: family.row_order(name, rows, heads, kv_heads))


def _family(stated: Mapping[str, Any]) -> Family | None:
    return by_model_type(str(stated.get("model_type", "unknown")), embedder=kind_of(stated) is EMBEDDER)


def names_to_gguf(model_dir: Path) -> dict[str, str]:
    """Hugging Face weight name -> GGUF tensor name; a tied head is the embedding's tensor.

    Of a family that llama.cpp's converter writes, the file's names are known once it is there (`export.found_layout`):
    until then weights go by their own.
    """
    stored = read_directory(Path(model_dir)).tensors
    if (family := _family(read_config(model_dir))) is not None:
        names = layout_of(model_dir).names
        if _HEAD in names and family.tied(load_config(model_dir), stored):
            names[_HEAD] = "token_embd.weight"
        return names
    names = {name: name for name, tensor in stored.items() if len(tensor.shape) == 2}
    embedding = next((name for name in names if name.endswith(_EMBEDDINGS)), None)
    if _HEAD not in names and embedding is not None:
        names[_HEAD] = embedding
    return names
