"""The layout of a file that a converter wrote, found by comparing its rows with the model's: no table of families.

A row of the unquantized file has the very numbers of a row of the model. So a matrix of the file is that of the model
which has the same rows, in whatever order; what a converter scales, joins or cuts across rows is none of them.
"""

from __future__ import annotations

import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill2edge.export.gguf_write import open_weights
from distill2edge.gguf.hf_layout import Layout
from distill2edge.gguf.reader import read_gguf
from distill2edge.quantize.activations import Activations
from distill2edge.quantize.measure_sensitivity import Sensitivity

if TYPE_CHECKING:
    import numpy as np

Known = TypeVar("Known", bound=Activations)
_PART = 1 << 22
"""Weights that are hashed at once."""
_LAYER = re.compile(r"(?:^|\.)(\d+)\.")


def found_layout(path: Path, model_dir: Path) -> Layout:
    """Which weight each matrix of an unquantized file is.

    Args:
        path: the file, which stores the model's numbers as they are.
        model_dir: the Hugging Face directory that it was made of.
    """
    import numpy as np

    file = read_gguf(path)
    matrices = [name for name, info in file.tensors.items() if len(info.shape) == 2]
    with ExitStack() as stack:
        weights = open_weights(model_dir, stack)
        rows = {}
        for source, handle in weights.items():
            if len(handle.get_slice(source).get_shape()) == 2:
                rows[source] = _hashes(handle.get_tensor(source).float().numpy())
        alike: dict[tuple[int, ...], list[str]] = {}
        for source, found in rows.items():
            alike.setdefault(_signature(found), []).append(source)
        sources: dict[str, str] = {}
        orders: dict[str, np.ndarray | None] = {}
        for name in matrices:
            matrix = file.tensor(name)
            own = _hashes(matrix)
            left = [source for source in alike.get(_signature(own), []) if source not in sources.values()]
            # Weights that are alike all through (zeros) are told apart by the number of their layer.
            left.sort(key=lambda source: _layer(source) != _layer(name))
            for source in left:
                order = np.empty(len(own), dtype=np.int64)
                order[np.argsort(own, kind="stable")] = np.argsort(rows[source], kind="stable")
                if np.array_equal(weights[source].get_tensor(source).float().numpy()[order], matrix):
                    same = np.array_equal(order, np.arange(len(order)))
                    sources[name], orders[name] = source, None if same else order
                    break
    every = tuple(name for name, info in file.tensors.items() if len(info.shape) > 1)
    return Layout(sources, lambda name, _: orders[name], every)


def by_file(known: Known, layout: Layout) -> Known:
    """Statistics by the names of a file, whichever names they were gathered by (`hf_layout.names_to_gguf`)."""
    changes: dict[str, Any] = {
        table: renamed(getattr(known, table), layout) for table in ("sources", "importance", "grams")
    }
    if isinstance(known, Sensitivity):
        changes["options"] = renamed(known.options, layout)
    return replace(known, **changes)


def renamed(table: Any, layout: Layout) -> dict[str, Any]:
    """The entries of matrices that the file has, by its names."""
    names = layout.names
    found = {names.get(name, name): value for name, value in table.items()}
    return {name: value for name, value in found.items() if name in layout.sources}


def _layer(name: str) -> str | None:
    found = _LAYER.search(name)
    return None if found is None else found[1]


def _signature(hashes: np.ndarray) -> tuple[int, ...]:
    """Equal for the same rows in any order."""
    import numpy as np

    return len(hashes), int(hashes.sum(dtype=np.uint64)), int(np.bitwise_xor.reduce(hashes))


def _hashes(matrix: np.ndarray) -> np.ndarray:
    """[rows] uint64 of the bits of each row; of zeros the sign does not count."""
    import numpy as np

    rows, columns = matrix.shape
    factors = np.random.default_rng(0).integers(1, 1 << 63, columns, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    found = np.empty(rows, dtype=np.uint64)
    step = max(1, _PART // columns)
    for first in range(0, rows, step):
        part = np.ascontiguousarray(matrix[first : first + step], dtype=np.float32) + np.float32(0)
        found[first : first + step] = (part.view(np.uint32).astype(np.uint64) * factors).sum(1, dtype=np.uint64)
    return found * np.uint64(0x9E3779B97F4A7C15) ^ (found >> np.uint64(29))
