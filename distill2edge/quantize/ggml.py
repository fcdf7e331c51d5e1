"""ggml's own quantizers on arrays, through the library that llama-cpp-python installs: the very bytes of a GGUF.

These run in this process: on finite weights they do not abort, and finiteness is checked first.
"""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf.ggml_types import GGML_TYPES


def quantize(weights: np.ndarray, kind: str, importance: np.ndarray | None = None) -> np.ndarray:
    """The bytes of a matrix in a GGUF type.

    Args:
        weights: [rows, columns] float32.
        kind: a type that is written here (`ggml_types`).
        importance: [columns] float32 shared by all rows, or [rows, columns] with a line for each; None for none.

    Returns:
        [rows, row_bytes] uint8.

    Raises:
        UserError: weights that are not finite.
        ValueError: the rows are not a multiple of the block, or importance has another shape.
        EnvironmentFault: llama-cpp-python cannot be loaded.
    """
    weights = np.ascontiguousarray(weights, dtype=np.float32)
    if not np.isfinite(weights).all():
        raise UserError("weights that are NaN or Inf cannot be quantized", fix="train again with a smaller rate")
    rows, columns = weights.shape
    out = np.empty((rows, GGML_TYPES[kind].row_bytes(columns)), dtype=np.uint8)
    code = GGML_TYPES[kind].number
    library = _library()
    if importance is not None:
        importance = np.ascontiguousarray(importance, dtype=np.float32)
    if importance is None or importance.ndim == 1:
        library.ggml_quantize_chunk(code, _at(weights), out.ctypes.data, 0, rows, columns, _at(importance))
    else:
        if importance.shape != weights.shape:
            raise ValueError(f"importance {importance.shape} does not fit weights {weights.shape}")
        for row in range(rows):
            library.ggml_quantize_chunk(
                code, _at(weights[row]), out[row].ctypes.data, 0, 1, columns, _at(importance[row])
            )
    return out


def dequantize(data: np.ndarray, kind: str, columns: int) -> np.ndarray:
    """What llama.cpp reads from the bytes [rows, row_bytes] of `quantize`: [rows, columns] float32.

    Raises:
        EnvironmentFault: llama-cpp-python cannot be loaded.
    """
    rows = data.shape[0]
    out = np.empty((rows, columns), dtype=np.float32)
    if kind in ("F16", "F32"):
        return data.view(np.float16 if kind == "F16" else np.float32).astype(np.float32).reshape(rows, columns)
    data = np.ascontiguousarray(data)
    function = getattr(_library(), f"dequantize_row_{kind.lower().replace('_k', '_K')}")
    function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
    function(data.ctypes.data, out.ctypes.data, out.size)
    return out


def _at(array: np.ndarray | None) -> int | None:
    return None if array is None else array.ctypes.data


@cache
def _library() -> Any:
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentFault(f"llama-cpp-python cannot be loaded: {error}",
                               fix="pip install llama-cpp-python") from error  # fmt: skip
    folder = Path(llama_cpp.__file__).parent / "lib"
    found = sorted(path for path in folder.glob("*ggml-base*") if path.suffix in (".so", ".dylib", ".dll"))
    if not found:
        raise EnvironmentFault(f"no ggml-base library in {folder}", fix="install llama-cpp-python 0.3.36 again")
    library = ctypes.CDLL(str(found[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p,
    ]  # fmt: skip
    return library
