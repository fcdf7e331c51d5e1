"""The grid of a whole model: taken from the file that a scheme makes of it, kept beside the weights that use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.hf_layout import Layout
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import TRAINABLE
from distill2edge.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

ModelGrid = dict[str, TensorGrid]
"""A weight's name in the model's state -> its grid."""
FILE = "grid.safetensors"
_PARTS = ("scale", "offset", "header")


def save_grids(grids: Mapping[str, TensorGrid], directory: Path) -> None:
    """Write `grid.safetensors`: NAME.scale, NAME.offset and NAME.header, and the types and columns as metadata.

    The metadata is one entry: safetensors writes several in an order that differs from process to process.
    """
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{part}": values.contiguous()
        for name, grid in grids.items()
        for part in _PARTS
        if (values := getattr(grid, part)) is not None
    }
    about = {name: [grid.kind, grid.columns] for name, grid in grids.items()}
    with replacing(Path(directory) / FILE) as temporary:
        save_file(tensors, temporary, metadata={"grids": json.dumps(about)})


def load_grids(directory: Path) -> ModelGrid:
    """What `save_grids` wrote.

    Raises:
        UserError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(directory) / FILE
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["grids"])
            names = set(file.keys())
            return {
                name: TensorGrid(
                    kind,
                    file.get_tensor(f"{name}.scale"),
                    file.get_tensor(f"{name}.offset") if f"{name}.offset" in names else None,
                    columns,
                    file.get_tensor(f"{name}.header") if f"{name}.header" in names else None,
                )
                for name, (kind, columns) in about.items()
            }
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not a grid: {error}", where=str(path), fix="run the quantization_aware stage again"
        ) from error


def of_gguf(path: Path, layout: Layout) -> ModelGrid:
    """The grid of every quantized tensor of a GGUF, by the names in the state of the model that it was made of.

    Raises:
        UserError: a type whose grid cannot be trained on.
    """
    import gguf

    from distill2edge.gguf.reader import read_gguf

    file = read_gguf(Path(path))
    found: ModelGrid = {}
    for ours, theirs in layout.sources.items():
        info = file.tensors.get(ours)
        if info is None or len(info.shape) < 2:
            continue
        kind = gguf.GGMLQuantizationType(info.type).name
        if kind in GGML_TYPES and GGML_TYPES[kind].precision == "lossless":
            continue
        if kind not in GRIDS:
            raise UserError(
                f"{ours} is stored as {kind}, whose grid cannot be trained on",
                where="distill.quantization_aware",
                fix=f"a scheme of {', '.join(TRAINABLE)}",
            )
        raw = _raw(file, info).reshape(info.shape[0], -1)
        found[theirs] = TensorGrid.of_gguf(layout.to_hf(ours, raw), kind)
    return found


def _raw(file: Any, info: Any) -> np.ndarray:
    import numpy as np

    return np.memmap(file.path, dtype=np.uint8, mode="r", offset=info.offset, shape=(info.size,))
