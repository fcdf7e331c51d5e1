"""A type for each tensor, chosen under bytes or a measured KL; and the GGUF of it, rounded, written and described."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.export.found_layout import by_file
from distill2edge.export.gguf_write import open_weights
from distill2edge.gguf.ggml_types import BLOCK, GGML_TYPES, LAST_RESORT, file_type
from distill2edge.gguf.hf_layout import Layout
from distill2edge.gguf.mixtures import HEAD, Place, stored_as
from distill2edge.gguf.repack import overhead, padded, repack
from distill2edge.quantize import budget as budgets
from distill2edge.quantize import ggml
from distill2edge.quantize.allocation import Pace, choose
from distill2edge.quantize.divergence import Divergence, Row
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.measure_sensitivity import Sensitivity
from distill2edge.quantize.rounding import gguf_bytes
from distill2edge.quantize.schemes import Mix
from distill2edge.quantize.sensitivity import KINDS
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

if TYPE_CHECKING:
    import numpy as np
    import torch

FEW_POSITIONS = 256
"""Below this many positions the measured KL is noisy, and the user is warned."""


@dataclass(frozen=True)
class MixExport:
    """What `export_gguf` needs for a mix.

    Attributes:
        limit: bytes of the whole file, or KL to the model.
        sensitivity: what the sensitivity stage wrote.
        rows: what KL is measured on, where it is the limit.
        rows_name: which rows these are: `validation` or `calibration`.
        positions: `supervised` or `all`.
        trainable: take types with a grid alone, since a model will be trained on it.
    """

    limit: Mix
    sensitivity: Sensitivity
    rows: Callable[[], Sequence[Row]]
    rows_name: str
    positions: str
    trainable: bool = False

    def write(
        self, model_dir: Path, layout: Layout, base: Path, part: Path, work: Path, progress: Progress
    ) -> dict[str, Any]:
        """Choose, round and write `part` from the unquantized `base`.

        Returns:
            for export.json: mix {limit, types, expected_kl, measured, note, nearest_stock, statistics}, calibration.

        Raises:
            UserError: nothing meets the limit; the nearest is named.
        """
        sensitivity = by_file(self.sensitivity, layout)
        options = on_grids(sensitivity.options) if self.trainable else sensitivity.options
        rest = overhead(base, frozenset(options))
        with ExitStack() as stack:
            rounder = stack.enter_context(_Rounder(model_dir, sensitivity, work / "rounded"))
            note, measured = None, None
            if self.limit.budget is not None:
                types, note = within(options, self.limit.budget, rest, KINDS[-1])
            else:

                def dequantized(types: Mapping[str, str]) -> dict[str, torch.Tensor]:
                    return {sensitivity.sources[name]: rounder.dequantized(name, kind) for name, kind in types.items()}

                types, measured = self.under(model_dir, options, dequantized, rest, work, progress)
            if note:
                progress.say(f"  {note}")
            wanted = rest + budgets.bytes_of(options, types)
            tensors: dict[str, tuple[str, np.ndarray]] = {}
            with progress.task("rounding", len(types)) as task:
                for name, kind in types.items():
                    data = rounder.data(name, kind)
                    tensors[name] = (kind, layout.to_gguf(name, data))
                    task.advance(note=f"{name} {kind}")
            repack(base, part, tensors, file_type=common_file_type(tensors))
        size = part.stat().st_size
        limit = self.limit.budget
        if size != wanted or (limit is not None and size > limit):
            raise AssertionError(f"{size} bytes were written, {wanted} predicted, {limit} allowed")
        return {
            "mix": {
                **self.described(sensitivity, options, types, measured, note),
                "nearest_stock": nearest_stock(options, rest, size, rounder.shapes),
            },
            "fallbacks": [
                {"tensor": name, "wanted": f"a block of {BLOCK}", "used": LAST_RESORT}
                for name, kinds in options.items()
                if set(kinds) == {LAST_RESORT}
            ],
            "calibration": "sensitivity",
        }

    def described(
        self,
        sensitivity: Sensitivity,
        options: budgets.Options,
        types: Mapping[str, str],
        measured: dict[str, Any] | None,
        note: str | None,
    ) -> dict[str, Any]:
        """The choice, for export.json."""
        return {
            "limit": {"budget": self.limit.budget, "max_kl": self.limit.max_kl},
            "types": dict(types),
            "histogram": dict(Counter(types.values())),
            "expected_kl": budgets.expected_kl(options, types),
            "measured": measured,
            "note": note,
            "statistics": dict(sensitivity.facts),
        }

    def under(
        self,
        model_dir: Path,
        options: budgets.Options,
        dequantized: Callable[[Mapping[str, str]], Mapping[str, torch.Tensor]],
        rest: int,
        work: Path,
        progress: Progress,
        pace: Pace | None = None,
    ) -> tuple[dict[str, str], dict[str, Any]]:
        """Types by measured KL, and what was measured on which rows.

        Args:
            dequantized: types -> name in the model's state -> the weights that a file of these types gives back.
            rest: bytes of the file beside these tensors.
            pace: as `allocation.choose`.
        """
        assert self.limit.max_kl is not None
        rows = self.rows()
        divergence = Divergence(model_dir, rows, work, progress)
        if divergence.positions < FEW_POSITIONS:
            progress.warn(
                f"KL is measured on only {divergence.positions} {self.positions} positions of the {self.rows_name} "
                f"rows: {FEW_POSITIONS} or more give steadier figures"
            )
        count = 0

        def measure(types: Mapping[str, str]) -> float:
            nonlocal count
            count += 1
            kl = divergence.of(dequantized(types), f"measuring mix {count}")
            size = rest + budgets.bytes_of(options, types)
            progress.say(f"  mix {count}: {readable_bytes(size)}, KL {kl:.3g} nats per token")
            return kl

        try:
            best, tried = budgets.smallest_under(options, self.limit.max_kl, measure, rest, pace)
        finally:
            divergence.close()
        return dict(best.types), {
            "kl": best.kl,
            "rows": self.rows_name,
            "row_count": len(rows),
            "positions": divergence.positions,
            "which_positions": self.positions,
            "by": "torch in float32 with the weights as stored; the held-out rows are not among these",
            "tried": [
                {"size_bytes": rest + candidate.bytes, "expected_kl": candidate.expected, "kl": candidate.kl}
                for candidate in tried
            ],
        }


def within(
    options: budgets.Options, budget: int, rest: int, top: str, pace: Pace | None = None
) -> tuple[dict[str, str], str | None]:
    """Types under a budget for the whole file, and a note where the budget is more than any mix needs.

    Args:
        rest: bytes of the file beside these tensors.
        top: the type that is taken where there is room for it everywhere.
        pace: as `allocation.choose`.

    Raises:
        UserError: the smallest possible file is larger; it is named.
    """
    least = rest + budgets.smallest_bytes(options)
    if least > budget:
        raise UserError(
            f"no file of this model fits in {budget:,} bytes: the smallest types need {least:,}",
            where="export",
            fix=f"raise the budget to {-(-least // 10**6)}MB, or take a smaller student",
        )
    best = budgets.best_types(options)
    largest = {name: top if top in kinds else best[name] for name, kinds in options.items()}
    needed = rest + budgets.bytes_of(options, largest)
    if needed <= budget:
        return (
            largest,
            f"the budget of {budget:,} bytes is more than the {needed:,} that all tensors need in {top}: all are {top}",
        )
    return choose(options, budget - rest, pace), None


def nearest_stock(
    options: budgets.Options, rest: int, size: int, shapes: Mapping[str, tuple[int, int]]
) -> dict[str, Any]:
    """The stock scheme whose file would be nearest in size, with that size by the types that llama.cpp stores it in."""
    places = {name: _place(name) for name in shapes}
    layers = 1 + max((layer for layer, _ in places.values()), default=0)
    heads, groups = (next((shapes[name][0] for name, (_, part) in places.items() if part == of), 1)
                     for of in ("attn_q", "attn_k"))  # fmt: skip
    tied = f"{HEAD}.weight" not in shapes

    def size_of(scheme: str) -> int:
        total = rest
        for name, (rows, columns) in shapes.items():
            layer, part = places[name]
            kind = stored_as(scheme, part, columns, Place(layer, layers, heads // groups, weighed=True), tied=tied)
            total += padded(rows * GGML_TYPES[kind].row_bytes(columns))
        return total

    sizes = {f"gguf:{name}": size_of(name) for kind in KINDS for name in GGML_TYPES[kind].stock}
    name = min(sizes, key=lambda scheme: abs(sizes[scheme] - size))
    return {"scheme": name, "estimated_bytes": sizes[name]}


def _place(name: str) -> tuple[int, str]:
    """Layer and part of a GGUF's tensor: 3 and `attn_q` of `blk.3.attn_q.weight`; layer 0 outside the layers."""
    parts = name.removesuffix(".weight").split(".")
    at = parts.index("blk") if "blk" in parts else None
    return (0, parts[0]) if at is None else (int(parts[at + 1]), parts[at + 2])


def on_grids(options: budgets.Options) -> dict[str, dict[str, tuple[int, float]]]:
    """Those types of a GGUF that a model can be trained on; a matrix that fits no block stays as it is."""
    return {
        name: {kind: each for kind, each in kinds.items() if kind in GRIDS or kind == LAST_RESORT}
        for name, kinds in options.items()
    }


def common_file_type(tensors: Mapping[str, tuple[str, np.ndarray]]) -> int:
    """llama.cpp's number of a file in which most bytes are of one type.

    Args:
        tensors: name -> (type, its bytes).
    """
    sizes: Counter[str] = Counter()
    for kind, data in tensors.values():
        sizes[kind] += data.nbytes
    return file_type(sizes.most_common(1)[0][0])


class _Rounder:
    """Rounds a model's matrices, each in each type once: the bytes are kept in a directory until the end."""

    def __init__(self, model_dir: Path, sensitivity: Sensitivity, directory: Path) -> None:
        self._sensitivity, self._directory = sensitivity, directory
        self._stack = ExitStack()
        self._weights = open_weights(model_dir, self._stack)
        missing = sorted(set(sensitivity.sources.values()) - set(self._weights))
        if missing:
            raise UserError(
                f"the model has no weight {missing[0]}", where=str(model_dir), fix="run the merge stage again"
            )
        self.shapes: dict[str, tuple[int, int]] = {
            name: tuple(self._weights[source].get_slice(source).get_shape())
            for name, source in sensitivity.sources.items()
        }  # type: ignore[assignment]

    def __enter__(self) -> _Rounder:
        self._directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def data(self, name: str, kind: str) -> np.ndarray:
        """[rows, row bytes] uint8 in the order of the Hugging Face rows."""
        import numpy as np

        path = self._directory / f"{name}-{kind}.npy"
        if path.is_file():
            return np.asarray(np.load(path))
        source = self._sensitivity.sources[name]
        found = gguf_bytes(self._weights[source].get_tensor(source), kind, *self._sensitivity.sums(name))
        part = path.with_suffix(".part.npy")
        np.save(part, found)
        part.replace(path)
        return found

    def dequantized(self, name: str, kind: str) -> torch.Tensor:
        """[rows, columns] float32 as the file gives them back."""
        import torch

        return torch.from_numpy(ggml.dequantize(self.data(name, kind), kind, self.shapes[name][1]))
