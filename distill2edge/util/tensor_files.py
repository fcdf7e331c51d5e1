"""Safetensors files whose bytes follow from what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_ALIGNED = 8  # bytes


def save_arrays(arrays: Mapping[str, np.ndarray], path: Path, metadata: Mapping[str, str]) -> None:
    """Write arrays with metadata in the order of its keys: the library writes it in another order each time.

    So two runs, and one process and several workers, write files of one hash.
    """
    from safetensors.numpy import save

    plain = save(dict(arrays))
    size = int.from_bytes(plain[:_ALIGNED], "little")
    tensors = json.loads(plain[_ALIGNED : _ALIGNED + size])
    header = json.dumps({"__metadata__": dict(sorted(metadata.items())), **tensors}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNED)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(_ALIGNED, "little"))
        file.write(header)
        file.write(memoryview(plain)[_ALIGNED + size :])
