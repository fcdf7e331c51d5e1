"""The model that a mix of types stores, as weights to train from: their nearest levels are those of its file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.architectures import load_model
from distill2edge.export.gguf_write import open_weights
from distill2edge.files import read_json
from distill2edge.progress import Progress
from distill2edge.quantize import onnx_mix, rounding
from distill2edge.quantize.held import Grids, save_grids
from distill2edge.quantize.sensitivity import FALLBACK
from distill2edge.quantize.weigh import read_sensitivity
from distill2edge.schemes import Scheme
from distill2edge.student.init import copy_tokenizer

if TYPE_CHECKING:
    import torch

    from distill2edge.quantize.scales import Held

Rounded = Callable[[str, str], "tuple[torch.Tensor, Held]"]
"""Weight's name, type -> the matrix moved so that its nearest levels are those to store, and its grid."""


def start_of_mix(
    scheme: Scheme, exported: Path, sensitivity: Path, model_dir: Path, target: Path, progress: Progress
) -> Grids:
    """Write the model that an exported mix stores, rounded as the export rounds, and its grid.

    Args:
        scheme: the mix.
        exported: directory of its untrained file, which says the types.
        sensitivity: what they were chosen and rounded by.
        model_dir: the model that the file was made of.
        target: directory to write a dense model into.
    """
    weighed = read_sensitivity(sensitivity)
    types: dict[str, str] = read_json(exported / "export.json")["mix"]["types"]
    with ExitStack() as stack:
        weights = open_weights(model_dir, stack)
        names = {source: name for name, source in weighed.sources.items()}

        def rounded(source: str, kind: str) -> tuple[torch.Tensor, Held]:
            weight, name = weights[source].get_tensor(source).float(), names[source]
            if scheme.format == "onnx":
                return onnx_mix.rounded(weight, kind, *weighed.inputs(name))
            return rounding.to_train(weight, kind, weighed.importance.get(name), weighed.gram(name))

        if scheme.format == "onnx":
            chosen = onnx_mix.by_weight(types, names)
        else:
            chosen = {weighed.sources[name]: kind for name, kind in types.items() if kind != FALLBACK}
        return write_start(model_dir, chosen, rounded, target, progress)


def write_start(model_dir: Path, types: Mapping[str, str], rounded: Rounded, target: Path, progress: Progress) -> Grids:
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
    save_grids(grids, "mix", target)
    return grids
