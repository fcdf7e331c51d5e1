"""A Hugging Face directory's tensors in a GGUF of it: their names and the order of their rows, both ways."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.gguf.families import by_model_type, refuse
from distill2edge.models.directory import read_directory
from distill2edge.util.files import read_json

if TYPE_CHECKING:
    import numpy as np

_HEAD = "lm_head.weight"
_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "embed_in.weight", "word_embeddings.weight")


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
    config = dict(read_json(Path(model_dir) / "config.json"))
    model_type = str(config.get("model_type", "unknown"))
    family = by_model_type(model_type)
    if family is None:
        raise refuse(model_type, str(model_dir))
    heads = int(config["num_attention_heads"])
    kv_heads = int(config.get("num_key_value_heads") or heads)
    return Layout(
        family.names(config["num_hidden_layers"]), lambda name, rows: family.row_order(name, rows, heads, kv_heads)
    )


def names_to_gguf(model_dir: Path) -> dict[str, str]:
    """Hugging Face weight name -> GGUF tensor name; a tied head is the embedding's tensor.

    Of a family that llama.cpp's converter writes, the file's names are known once it is there (`export.found_layout`):
    until then weights go by their own.
    """
    config: dict[str, Any] = dict(read_json(Path(model_dir) / "config.json"))
    if by_model_type(str(config.get("model_type"))) is not None:
        names = layout_of(model_dir).names
        if config.get("tie_word_embeddings", True) and _HEAD in names:
            names[_HEAD] = "token_embd.weight"
        return names
    names = {name: name for name, tensor in read_directory(Path(model_dir)).tensors.items() if len(tensor.shape) == 2}
    embedding = next((name for name in names if name.endswith(_EMBEDDINGS)), None)
    if _HEAD not in names and embedding is not None:
        names[_HEAD] = embedding
    return names
