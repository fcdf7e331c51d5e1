"""Between a file and the grid that a model trains on: the grid of an exported file, and a trained model's bytes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.export.gguf_write import open_weights
from distill2edge.gguf.hf_layout import Layout
from distill2edge.models.loading import load_model
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.tensor_grids import ModelGrid, load_grids, of_gguf

if TYPE_CHECKING:
    import numpy as np


def of_export(directory: Path, model_dir: Path, scheme: Scheme, layout: Layout | None) -> ModelGrid:
    """The grid of an exported file, by the names in the state of the model that it was made of.

    A GGUF's is read from its bytes: types by tensor and scales, calibrated where the file is. An ONNX file's scales
    are picked anew from the model, by the quantizer that wrote it.

    Args:
        layout: of a GGUF.
    """
    if layout is not None:
        return of_gguf(Path(directory) / "model.gguf", layout)
    import torch

    return of_onnx(load_model(model_dir, dtype=torch.float32), scheme.base)


def of_onnx(model: Any, kind: str, importance: Mapping[str, Any] | None = None) -> ModelGrid:
    """A grid for every matrix that the ONNX export stores in blocks: linear layers and embeddings, a tied one once.

    Args:
        model: a torch model.
        kind: `int4-b32` or `int8`.
        importance: weight's name -> [columns] mean squared input; None: the scales of ONNX Runtime's own quantizer.
    """
    import torch

    from distill2edge.export.onnx_quantize import SMALLEST, quantize_blocks

    found: ModelGrid = {}
    seen: set[int] = set()
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, torch.nn.Linear | torch.nn.Embedding) or weight.numel() < SMALLEST:
            continue
        if id(weight) in seen:
            continue
        seen.add(id(weight))
        matrix = weight.detach().float()
        if importance is None or f"{name}.weight" not in importance:
            _, scales = quantize_blocks(matrix.numpy(), GRIDS[kind].bits)
            scale = torch.from_numpy(scales.reshape(len(matrix), -1))
            found[f"{name}.weight"] = TensorGrid(kind, scale, None, matrix.shape[1])
        else:
            found[f"{name}.weight"] = TensorGrid.fitted(matrix, kind, torch.as_tensor(importance[f"{name}.weight"]))
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


def by_row(directory: Path, model_dir: Path) -> dict[bytes, dict[str, TensorGrid]]:
    """The grids of each row of a trained model's matrices, by the hash of its values and by kind.

    A graph joins matrices that read one input into one table, and knows them by their rows alone. Rows that are alike
    (of zeros) may lie in tables of several kinds.
    """
    from distill2edge.export.onnx_quantize import digests

    grids, _ = load_grids(directory)
    found: dict[bytes, dict[str, TensorGrid]] = {}
    with ExitStack() as stack:
        weights = open_weights(model_dir, stack)
        for name, grid in grids.items():
            for row, key in enumerate(digests(weights[name].get_tensor(name).float().numpy())):
                offset = None if grid.offset is None else grid.offset[row : row + 1]
                one = TensorGrid(grid.kind, grid.scale[row : row + 1], offset, grid.columns)
                found.setdefault(key, {})[grid.kind] = one
    return found
