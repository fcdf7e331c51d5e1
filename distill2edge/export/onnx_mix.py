"""An ONNX file with a type for each matrix, chosen under bytes or a measured KL."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.export.gguf_mix import MixExport, within
from distill2edge.export.gguf_write import open_weights
from distill2edge.export.initial_weights import write_rounded
from distill2edge.export.onnx import export_onnx
from distill2edge.models.kinds import kind_of_directory
from distill2edge.quantize import budget as budgets
from distill2edge.quantize import onnx_types
from distill2edge.quantize.allocation import Pace
from distill2edge.quantize.measure_sensitivity import Sensitivity
from distill2edge.quantize.rounding import round_matrix
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.tensor_grids import load_grids, save_grids
from distill2edge.util.files import scratch, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

    from distill2edge.quantize.scales import TensorGrid

TOP = "int8-b64-f16"
"""The type of every matrix, where the budget has room for it."""
_TABLE = 800
"""Bytes that zero points, wider scales and alignment may add to the graph for each matrix."""
_TRIES = 3


def export_onnx_mix(
    model_dir: Path, scheme: Scheme, meta: dict[str, Any], work: Path, progress: Progress, mix: MixExport
) -> dict[str, Any]:
    """What `export_onnx` writes, with types by matrix: `export.json` also has `mix` and `calibration`.

    A model that writes is no slower than plain int4, by the measured pace of each type (`onnx_types.pace_of`).
    The limit in bytes is that of graph and weights. A KL is measured in torch with the weights as stored, so without
    the products' rounding of activations to 8 bits; the verify stage measures the file itself.

    Raises:
        UserError: nothing meets the limit; the nearest is named. What `export_onnx` raises.
    """
    sensitivity = mix.sensitivity
    budget = mix.limit.budget
    with scratch(work, "mix") as directory, ExitStack() as stack:
        rounder = _Rounder(model_dir, sensitivity, directory, stack)
        options = rounder.in_blocks(sensitivity.onnx)
        pace = rounder.pace(options) if kind_of_directory(model_dir).writes else None
        plain = export_onnx(model_dir, Scheme("onnx", "int4-b32"), meta, directory / "plain", progress)
        rest = plain["size_bytes"] - plain["types"]["int4-b32"]["bytes"] + _TABLE * len(options)
        for _ in range(_TRIES):
            note, measured = None, None
            if budget is not None:
                types, note = within(options, budget, rest, TOP, pace)
            else:
                types, measured = mix.under(model_dir, options, rounder.dequantized, rest, directory, progress, pace)
            start = directory / "start"
            write_rounded(model_dir, rounder.chosen(types), rounder.rounded, start, progress)
            facts = export_onnx(start, scheme, meta, work, progress, grid=start, compared=plain["faithful"])
            rest = facts["size_bytes"] - budgets.bytes_of(options, types)
            if budget is None or facts["size_bytes"] <= budget:
                break
        else:
            raise AssertionError(f"{facts['size_bytes']} bytes were written, {budget} are allowed")
    if note:
        progress.say(f"  {note}")
    described = mix.described(sensitivity, options, types, measured, note)
    if pace is not None:
        described["pace"] = pace.of(types) / pace.limit
    described["joined"] = {group: list(sensitivity.joined[group]) for group in types}
    facts |= {"mix": described, "calibration": "sensitivity", "trained": False}
    write_json(work / "export.json", facts)
    return facts


class _Rounder:
    """Rounds a model's matrices, each in each type once: what came of it is kept in a directory."""

    def __init__(self, model_dir: Path, sensitivity: Sensitivity, directory: Path, stack: ExitStack) -> None:
        self._sensitivity, self._directory = sensitivity, directory
        self._weights = open_weights(model_dir, stack)
        self._names = {source: name for name, source in sensitivity.sources.items()}
        if missing := sorted(set(self._names) - set(self._weights)):
            raise UserError(
                f"the model has no weight {missing[0]}", where=str(model_dir), fix="run the merge stage again"
            )

    def in_blocks(self, options: budgets.Options) -> dict[str, Mapping[str, tuple[int, float]]]:
        """Those of the groups that a graph stores in blocks: smaller matrices stay in fp32."""
        from distill2edge.export.onnx_quantize import SMALLEST

        joined = self._sensitivity.joined
        return {
            group: kinds
            for group, kinds in options.items()
            if max(math.prod(self._shape(source)) for source in joined[group]) >= SMALLEST
        }

    def pace(self, options: budgets.Options) -> Pace:
        """How long a mix may take to write a token."""
        weights = {
            group: sum(
                math.prod(self._shape(source)) for source in self._sensitivity.joined[group] if self._multiplies(source)
            )
            for group in options
        }
        return onnx_types.pace_of({group: count for group, count in weights.items() if count}, options)

    def _shape(self, source: str) -> tuple[int, int]:
        rows, columns = self._weights[source].get_slice(source).get_shape()
        return int(rows), int(columns)

    def _multiplies(self, source: str) -> bool:
        """Whether tokens are multiplied by a matrix: rows of the others are looked up."""
        return self._names[source] in self._sensitivity.importance

    def chosen(self, types: Mapping[str, str]) -> dict[str, str]:
        """Weight -> type, of a choice by group."""
        return onnx_types.by_weight(types, self._sensitivity.joined)

    def dequantized(self, types: Mapping[str, str]) -> dict[str, torch.Tensor]:
        """Weight -> [rows, columns] float32 as a file of these types gives it back."""
        found = {}
        for source, kind in self.chosen(types).items():
            moved, grid = self.rounded(source, kind)
            found[source] = grid.fake_quantized(moved)
        return found

    def rounded(self, source: str, kind: str) -> tuple[torch.Tensor, TensorGrid]:
        """A matrix moved so that its nearest levels are those to store, and its grid."""
        from safetensors.torch import load_file, save_file

        directory = self._directory / f"{source}-{kind}"
        if not directory.is_dir():
            weight = self._weights[source].get_tensor(source)
            moved, grid = round_matrix(weight, kind, *self._sensitivity.means(self._names[source]))
            directory.mkdir()
            save_file({"weight": moved.contiguous()}, directory / "moved.safetensors")
            save_grids({source: grid}, directory)
        return load_file(directory / "moved.safetensors")["weight"], load_grids(directory)[source]
