"""What became of each weight of an ONNX file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass
class Tally:
    """How each weight is stored.

    Attributes:
        types: type -> {tensors, weights, bytes}.
        fallbacks: matrices that should be in the scheme's type but were left in fp32 or padded, each {tensor, shape,
            reason}.
    """

    types: dict[str, dict[str, int]] = field(default_factory=dict)
    fallbacks: list[dict[str, Any]] = field(default_factory=list)
    _counted: set[str] = field(default_factory=set)
    _seen: set[bytes] = field(default_factory=set)

    def add(self, kind: str, weights: np.ndarray, size: int, names: tuple[str | None, ...] = ()) -> None:
        """Count one tensor: `size` bytes, scales included, in the initializers `names` of the present graph.

        The same weights in a second graph are stored once, and counted once.
        """
        self._counted.update(str(name) for name in names)
        digest = hashlib.sha256(f"{kind} {weights.shape}".encode() + np.ascontiguousarray(weights).tobytes()).digest()
        if digest in self._seen:
            return
        self._seen.add(digest)
        entry = self.types.setdefault(kind, {"tensors": 0, "weights": 0, "bytes": 0})
        entry["tensors"] += 1
        entry["weights"] += weights.size
        entry["bytes"] += size

    def add_rest(self, model: ir.Model) -> None:
        """Count the initializers of a graph that nobody has counted, as what they are, and close the graph."""
        for name, value in model.graph.initializers.items():
            if name not in self._counted and value.const_value is not None:
                array = value.const_value.numpy()
                self.add("fp32" if array.dtype == np.float32 else str(array.dtype), array, array.nbytes)
        self._counted.clear()

    def fall_back(self, tensor: str, shape: tuple[int, ...], reason: str) -> None:
        """Name a matrix that the scheme did not take as it is."""
        self.fallbacks.append({"tensor": tensor, "shape": list(shape), "reason": reason})

    @property
    def effective_bits(self) -> float:
        """Stored bits per weight over every tensor of the file, scales and fp32 leftovers included."""
        weights = sum(entry["weights"] for entry in self.types.values())
        return 8 * sum(entry["bytes"] for entry in self.types.values()) / max(weights, 1)
