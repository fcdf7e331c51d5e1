"""An ONNX file with a type for each matrix, chosen under bytes or a measured KL."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.architectures import load_model
from distill2edge.errors import UserError
from distill2edge.export.gguf_write import open_weights
from distill2edge.export.mix import MixExport, within
from distill2edge.export.onnx import export_onnx
from distill2edge.files import write_json
from distill2edge.progress import Progress
from distill2edge.quantize import budget as budgets
from distill2edge.quantize import onnx_mix
from distill2edge.quantize.held import load_grids, save_grids
from distill2edge.quantize.weigh import Weighed, read_sensitivity
from distill2edge.schemes import Scheme
from distill2edge.student.init import copy_tokenizer

if TYPE_CHECKING:
    import torch

    from distill2edge.quantize.scales import Held

TOP = "int8-b64-f16"
"""The type of every matrix, where the budget has room for it."""
_TABLE = 800
"""Bytes that zero points, wider scales and alignment may add to the graph for each matrix."""
_TRIES = 3


def export_onnx_mix(
    model_dir: Path, scheme: Scheme, meta: dict[str, Any], work: Path, progress: Progress, mix: MixExport
) -> dict[str, Any]:
    """What `export_onnx` writes, with types by matrix: `export.json` also has `mix` and `calibration`.

    The limit in bytes is that of graph and weights. A KL is measured in torch with the weights as stored, so without
    the products' rounding of activations to 8 bits; the verify stage measures the file itself.

    Raises:
        UserError: nothing meets the limit; the nearest is named. What `export_onnx` raises.
    """
    work.mkdir(parents=True, exist_ok=True)
    weighed = read_sensitivity(mix.sensitivity)
    budget = mix.limit.budget
    with tempfile.TemporaryDirectory(dir=work, prefix="scratch-") as scratch, ExitStack() as stack:
        rounder = _Rounder(model_dir, weighed, Path(scratch), stack)
        plain = export_onnx(model_dir, Scheme("onnx", "int4-b32"), meta, Path(scratch) / "plain", progress)
        rest = plain["size_bytes"] - plain["types"]["int4-b32"]["bytes"] + _TABLE * len(weighed.onnx)
        for _ in range(_TRIES):
            note, measured = None, None
            if budget is not None:
                types, note = within(weighed.onnx, budget, rest, TOP)
            else:
                types, measured = mix.under(model_dir, weighed.onnx, rounder.stored, rest, Path(scratch), progress)
            start = rounder.write(types, Path(scratch) / "start", progress)
            facts = export_onnx(start, scheme, meta, work, progress, grid=start)
            rest = facts["size_bytes"] - budgets.bytes_of(weighed.onnx, types)
            if budget is None or facts["size_bytes"] <= budget:
                break
        else:
            raise AssertionError(f"{facts['size_bytes']} bytes were written, {budget} are allowed")
    if note:
        progress.say(f"  {note}")
    facts |= {"mix": mix.described(weighed, weighed.onnx, types, measured, note), "calibration": "sensitivity"}
    write_json(work / "export.json", facts)
    return facts


class _Rounder:
    """Rounds a model's matrices, each in each type once: what came of it is kept in a directory."""

    def __init__(self, model_dir: Path, weighed: Weighed, directory: Path, stack: ExitStack) -> None:
        self._model_dir, self._weighed, self._directory = model_dir, weighed, directory
        self._weights = open_weights(model_dir, stack)
        self._names = {source: name for name, source in weighed.sources.items()}
        if missing := sorted(set(self._names) - set(self._weights)):
            raise UserError(f"no weights called {missing[0]}", where=str(model_dir), fix="run the merge stage again")

    def write(self, types: Mapping[str, str], target: Path, progress: Progress) -> Path:
        """A model whose nearest levels are those to store, with its grid."""
        import torch

        model: Any = load_model(self._model_dir, dtype=torch.float32)
        state, grids = model.state_dict(), {}
        chosen = onnx_mix.by_weight(types, self._names)
        with progress.task("rounding", len(chosen)) as task:
            for source, kind in chosen.items():
                moved, grids[source] = self._rounded(source, kind)
                state[source].copy_(moved)
                task.advance(note=f"{source} {kind}")
        model.save_pretrained(target)
        copy_tokenizer(self._model_dir, target)
        save_grids(grids, "onnx:int4-b32", target)
        return target

    def stored(self, types: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """Weight -> [rows, columns] float32 as a file of these types gives it back."""
        found = {}
        for source, kind in onnx_mix.by_weight(types, self._names).items():
            moved, held = self._rounded(source, kind)
            found[source] = held.stored(moved)
        return found

    def _rounded(self, source: str, kind: str) -> tuple[torch.Tensor, Held]:
        from safetensors.torch import load_file, save_file

        directory = self._directory / f"{source}-{kind}"
        if not directory.is_dir():
            weight = self._weights[source].get_tensor(source)
            moved, held = onnx_mix.rounded(weight, kind, *self._weighed.inputs(self._names[source]))
            directory.mkdir()
            save_file({"weight": moved.contiguous()}, directory / "moved.safetensors")
            save_grids({source: held}, "onnx:int4-b32", directory)
        return load_file(directory / "moved.safetensors")["weight"], load_grids(directory)[0][source]
