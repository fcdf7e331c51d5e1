"""Between a file and the grid that a model trains on: the grid of an exported file, and a trained model's bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.export.gguf_write import open_weights
from distill2edge.gguf.hf_layout import Layout
from distill2edge.models.loading import load_model
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.onnx_types import rest_of
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.tensor_grids import ModelGrid, load_grids, of_gguf

if TYPE_CHECKING:
    import numpy as np


def of_export(
    directory: Path, model_dir: Path, scheme: Scheme, layout: Layout | None, known: Collection[str] = ()
) -> ModelGrid:
    """The grid of an exported file, by the names in the state of the model that it was made of.

    A GGUF's is read from its bytes: types by tensor and scales, calibrated where the file is. An ONNX file's scales
    are picked anew from the model, by the quantizer that wrote it.

    Args:
        layout: of a GGUF.
        known: weights whose grids are known.
    """
    if layout is not None:
        return of_gguf(Path(directory) / "model.gguf", layout)
    import torch

    return of_onnx(load_model(model_dir, dtype=torch.float32), rest_of(scheme), known)


def of_onnx(model: Any, kind: str, known: Collection[str] = ()) -> ModelGrid:
    """A grid for every matrix that the ONNX export stores in blocks: linear layers and embeddings, a tied one once.

    Args:
        model: a torch model.
        kind: `int4-b32` or `int8`.
        known: weights that are left out, with what is tied to them.
    """
    import torch

    from distill2edge.export.onnx_quantize import SMALLEST, quantize_blocks

    found: ModelGrid = {}
    seen = {id(model.get_parameter(name)) for name in known}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, torch.nn.Linear | torch.nn.Embedding) or weight.numel() < SMALLEST:
            continue
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        matrix = weight.detach().float()
        _, scales = quantize_blocks(matrix.numpy(), GRIDS[kind].bits)
        found[f"{name}.weight"] = TensorGrid(
            kind, torch.from_numpy(scales.reshape(len(matrix), -1)), None, matrix.shape[1]
        )
    return found


def packed(grids: Mapping[str, TensorGrid], model_dir: Path, layout: Layout) -> dict[str, tuple[str, np.ndarray]]:
    """GGUF tensor name -> (type, bytes) of a model's weights on its grids."""
    names = layout.names
    with ExitStack() as stack:
        weights = open_weights(Path(model_dir), stack)
        return {
            names[name]: (
                grid.kind,
                layout.to_gguf(names[name], grid.gguf(weights[name].get_tensor(name).float())),
            )
            for name, grid in grids.items()
        }


class RowGrids:
    """The grids of a trained model's matrices, found by what their rows hold.

    A graph joins matrices that read one input (query, key and value) and gives them names of its own: the hash of a row
    proves that its scales are those of these very weights.
    """

    def __init__(self, directory: Path, model_dir: Path, rest: str) -> None:
        """Args:
        directory: of the grids.
        model_dir: the model that was trained on them, or rounded to them.
        rest: the type of matrices that hold none of its rows, which are rounded plainly.
        """
        from distill2edge.export.onnx_quantize import SMALLEST

        self._grids, self._rest = load_grids(directory), rest
        self.unknown: list[str] = []
        self._small: set[bytes] = set()  # rows of matrices that no file stores in blocks, each for itself
        # Rows that are alike (of zeros) may lie in matrices of several types: an index for each.
        self._places: dict[str, dict[bytes, tuple[str, int]]] = {}
        with ExitStack() as stack:
            weights = open_weights(model_dir, stack)
            for name, grid in self._grids.items():
                places = self._places.setdefault(grid.kind, {})
                for row, key in enumerate(_digests(weights[name].get_tensor(name).float().numpy())):
                    places[key] = (name, row)
            for name in weights.keys() - self._grids.keys():
                shape = weights[name].get_slice(name).get_shape()
                if len(shape) == 2 and shape[0] * shape[1] < SMALLEST:
                    self._small.update(_digests(weights[name].get_tensor(name).float().numpy()))

    def of(self, matrix: np.ndarray, name: str) -> TensorGrid | str | None:
        """The grid of a matrix [rows, columns] float32 of a graph.

        Args:
            name: of the matrix, for messages.

        Returns:
            or the type that it is rounded to plainly, which `unknown` then names; or None: it joins matrices that are
            too small for blocks, and have no grid.

        Raises:
            UserError: some rows alone that were trained on a grid, or rows of several types.
        """
        keys = _digests(matrix)
        known = [any(key in places for places in self._places.values()) for key in keys]
        if all(key in self._small for key in keys):
            return None
        if not any(found and row.any() for found, row in zip(known, matrix, strict=True)):
            self.unknown.append(name)
            return self._rest
        if not all(known):
            raise UserError(f"{name} was not trained on a grid", fix="export it with another scheme")
        for kind in sorted(self._places):
            if all(key in self._places[kind] for key in keys):
                return self._gathered([self._places[kind][key] for key in keys])
        raise UserError(
            f"{name} joins matrices whose grids are of several types",
            fix="give matrices that read one input (query, key, value) grids of one type",
        )

    def _gathered(self, places: Sequence[tuple[str, int]]) -> TensorGrid:
        """The scales of rows in this order, from (weight, row)."""
        import torch

        wanted: dict[str, tuple[list[int], list[int]]] = {}
        for at, (name, row) in enumerate(places):
            to, found = wanted.setdefault(name, ([], []))
            to.append(at)
            found.append(row)
        first = self._grids[places[0][0]]
        scale = torch.empty(len(places), *first.scale.shape[1:])
        offset = None if first.offset is None else torch.empty_like(scale)
        for name, (to, found) in wanted.items():
            grid = self._grids[name]
            scale[to] = grid.scale[found]
            if offset is not None:
                assert grid.offset is not None
                offset[to] = grid.offset[found]
        return TensorGrid(first.kind, scale, offset, first.columns)


def _digests(matrix: np.ndarray) -> list[bytes]:
    """A hash of the values of each row of [rows, columns] float32."""
    import numpy as np

    return [hashlib.sha256(row).digest() for row in np.ascontiguousarray(matrix, dtype=np.float32)]
