"""The weights that a compensated file stores, to train from: their nearest levels are those of the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.export.gguf_write import open_weights
from distill2edge.gguf.reader import read_gguf
from distill2edge.models.loading import copy_tokenizer, load_model
from distill2edge.quantize import onnx_types
from distill2edge.quantize.activations import Activations
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.rounding import round_matrix
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.tensor_grids import ModelGrid, save_grids
from distill2edge.util.files import read_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

    from distill2edge.quantize.scales import TensorGrid

Rounded = Callable[[str, str], "tuple[torch.Tensor, TensorGrid]"]
"""Weight's name, type -> the matrix moved so that its nearest levels are those to store, and its grid."""


def write_initial_weights(
    scheme: Scheme,
    activations: Activations,
    model_dir: Path,
    target: Path,
    progress: Progress,
    exported: Path | None = None,
) -> ModelGrid:
    """Write the model that a compensated file stores, rounded as its export rounds, and its grid.

    Args:
        scheme: a mix, or a stock scheme that was rounded with compensated errors.
        activations: what the file was rounded by.
        model_dir: the model that the file was made of.
        target: directory to write a dense model into.
        exported: directory of the file, which says the types; None: of a stock ONNX scheme.
    """
    with ExitStack() as stack:
        weights = open_weights(model_dir, stack)
        names = {source: name for name, source in activations.sources.items()}

        def rounded(source: str, kind: str) -> tuple[torch.Tensor, TensorGrid]:
            known = activations.means if scheme.format == "onnx" else activations.sums
            return round_matrix(weights[source].get_tensor(source), kind, *known(names[source]))

        if scheme.format == "onnx" and not scheme.mix:
            shapes = {source: weights[source].get_slice(source).get_shape() for source in names}
            types = {source: scheme.base for source, shape in shapes.items() if _in_blocks(shape)}
        else:
            assert exported is not None
            types = _types(scheme, exported, activations)
        return write_rounded(model_dir, types, rounded, target, progress)


def write_rounded(
    model_dir: Path, types: Mapping[str, str], rounded: Rounded, target: Path, progress: Progress
) -> ModelGrid:
    """A copy of a model with its matrices moved, weight by weight, and the grids of them beside it."""
    import torch

    model: Any = load_model(model_dir, dtype=torch.float32)
    state, grids = model.state_dict(), {}
    with progress.task("rounding", len(types)) as task:
        for source, kind in types.items():
            moved, grids[source] = rounded(source, kind)
            state[source].copy_(moved)
            task.advance(note=f"{source} {kind}")
    model.save_pretrained(target)
    copy_tokenizer(model_dir, target)
    save_grids(grids, target)
    return grids


def gguf_types(path: Path, names: Mapping[str, str]) -> dict[str, str]:
    """GGUF tensor name -> its type in a file, of those in `names`."""
    import gguf

    tensors = read_gguf(path).tensors
    return {name: gguf.GGMLQuantizationType(tensors[name].type).name for name in names if name in tensors}


def _types(scheme: Scheme, exported: Path, activations: Activations) -> dict[str, str]:
    """Weight -> type in the file; of a GGUF those that have a grid."""
    if scheme.format == "onnx":
        mix = read_json(exported / "export.json")["mix"]
        return onnx_types.by_weight(mix["types"], mix.get("joined") or onnx_types.groups(activations.sources.values()))
    found = gguf_types(exported / "model.gguf", activations.sources)
    return {activations.sources[name]: kind for name, kind in found.items() if kind in GRIDS}


def _in_blocks(shape: list[int]) -> bool:
    from distill2edge.export.onnx_quantize import SMALLEST

    return shape[0] * shape[1] >= SMALLEST
