"""What the matrices of a GGUF are rounded by, from the unquantized file to one in the types of a scheme."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.export.found_layout import by_file, renamed
from distill2edge.export.gguf_mix import MixExport, common_file_type
from distill2edge.export.gptq import round_again
from distill2edge.export.grid import packed
from distill2edge.gguf import llama_process
from distill2edge.gguf.ggml_types import GGML_TYPES, file_type
from distill2edge.gguf.imatrix import read_imatrix, write_imatrix
from distill2edge.gguf.reader import read_gguf
from distill2edge.gguf.repack import repack
from distill2edge.quantize.tensor_grids import load_grids
from distill2edge.util.threads import available_threads

if TYPE_CHECKING:
    from collections.abc import Collection

    from distill2edge.gguf.hf_layout import Layout
    from distill2edge.gguf.reader import GgufFile
    from distill2edge.quantize.activations import Activations
    from distill2edge.quantize.schemes import Scheme
    from distill2edge.util.progress import Progress

_REST = "Q8_0", "Q5_0", "Q4_0"
"""Types of what nothing was measured of: their blocks fit every width that a format takes."""
_MANY = 8


@dataclass(frozen=True)
class Rounding:
    """By nothing but the weights themselves, where none of these is given.

    Attributes:
        imatrix: importance matrix of the model, as the calibration stage writes it.
        gptq: activations on the calibration rows, by which errors are compensated.
        grid: directory of the grid that the model was trained on: the file gets its very scales, and no quantizer picks
            others.
        mix: of a scheme that is one: its limit, and what its types are chosen by.
        threads: of llama.cpp's quantizer; None takes what this process may use.
    """

    imatrix: Path | None = None
    gptq: Activations | None = None
    grid: Path | None = None
    mix: MixExport | None = None
    threads: int | None = None

    @property
    def by_name(self) -> bool:
        """Whether it goes by what is known of each matrix."""
        return any(each is not None for each in (self.imatrix, self.gptq, self.grid, self.mix))

    def write(
        self,
        scheme: Scheme,
        model_dir: Path,
        layout: Layout | None,
        base: Path,
        target: Path,
        work: Path,
        progress: Progress,
    ) -> dict[str, Any]:
        """Write `target` from the unquantized `base`.

        Args:
            layout: of the file; None where it does not go by what is known of each matrix.

        Returns:
            for export.json: calibration (`imatrix`, `gptq`, `sensitivity` or null) or trained (on the grid); of a mix
            also what `MixExport.write` says.

        Raises:
            UserError: llama.cpp refused; its last words are in the message. As `MixExport.write`.
        """
        progress.say(f"  quantizing to {scheme}")
        threads = self.threads or available_threads()
        if self.mix is not None or self.grid is not None:
            assert layout is not None
            base = self._rest(layout, base, work, threads, progress)
        if self.mix is not None:
            return self.mix.write(model_dir, layout, base, target, work, progress)
        if self.grid is not None:
            tensors = packed(load_grids(self.grid), model_dir, layout)
            number = common_file_type(tensors) if scheme.mix else file_type(scheme.base)
            repack(base, target, tensors, file_type=number)
            return {"trained": True}
        imatrix = self.imatrix if scheme.calibrates else None
        if imatrix is not None:
            imatrix = _by_file(imatrix, layout, work)
        llama_process.quantize(base, target, file_type(scheme.base), threads=threads, imatrix=imatrix)
        if self.gptq is not None:
            round_again(target, target, model_dir, layout, by_file(self.gptq, layout), progress)
        return {"calibration": None if imatrix is None else "imatrix" if self.gptq is None else "gptq"}

    def _rest(self, layout: Layout, base: Path, work: Path, threads: int, progress: Progress) -> Path:
        """What the matrices are put into that were measured: of a converter's file there are others."""
        if self.mix is not None:
            measured = set(renamed(self.mix.sensitivity.options, layout))
            kind = rest_type(read_gguf(base), layout.matrices, measured, self.mix.limit.budget)
        else:
            assert self.grid is not None
            measured, kind = {layout.names[name] for name in load_grids(self.grid)}, _REST[0]
        left = [name for name in layout.matrices if name not in measured]
        if not left:
            return base
        progress.say(f"  {len(left)} matrices that nothing was measured of ({', '.join(left[:3])}) are {kind} at most")
        rest = work / "rest.gguf"
        llama_process.quantize(base, rest, file_type(kind), threads=threads)
        return rest


def rest_type(file: GgufFile, matrices: Collection[str], measured: Collection[str], budget: int | None) -> str:
    """The type of the matrices of a file that nothing was measured of.

    It is 8 bits: they are few and small, such as convolutions. Where they are many (experts), a budget decides: then
    it is the largest type in which the whole file would fit.

    Args:
        file: unquantized.
        matrices: all of it.
        measured: those whose types are chosen by what they cost.
        budget: bytes of the whole file, if that is the limit.
    """
    weights = {name: file.tensors[name].elements for name in matrices}
    left = sum(count for name, count in weights.items() if name not in measured)
    if budget is None or left * _MANY < sum(weights.values()):
        return _REST[0]
    room = budget - (file.size - sum(file.tensors[name].size for name in matrices))
    per_weight = {kind: GGML_TYPES[kind].block_bytes / GGML_TYPES[kind].block for kind in _REST}
    return next((kind for kind in _REST if sum(weights.values()) * per_weight[kind] <= room), _REST[-1])


def _by_file(imatrix: Path, layout: Layout, work: Path) -> Path:
    """An importance matrix by the names of the file."""
    found = read_imatrix(imatrix)
    if found.sums.keys() <= layout.sources.keys():
        return imatrix
    target = work / "imatrix.gguf"
    write_imatrix(target, replace(found, sums=renamed(found.sums, layout), counts=renamed(found.counts, layout)))
    return target
