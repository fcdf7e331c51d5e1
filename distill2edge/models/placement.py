"""Where the weights of a model lie while it runs, and in how many bits: one home for what `from_pretrained` is told.

For teachers that no single device holds: accelerate shares their layers out, to disk at the end, and bitsandbytes
rounds them as they are loaded. A student is always whole and on one device.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from distill2edge.util.quantities import readable_bytes

if TYPE_CHECKING:
    import torch

NF4 = "nf4"
_NF4_BITS = 4.127  # of a weight, its rounded scales included (Dettmers 2023, section 3)


@dataclass(frozen=True)
class Placement:
    """How a model that is run, and not trained, is loaded.

    Attributes:
        device_map: how accelerate shares the layers out; None: whole, on one device.
        max_memory: bytes that each device may hold, by its number (a GPU) or `cpu`; empty: what is free on each.
        quantization: `nf4`; None: the weights as they are.
    """

    device_map: str | None = None
    max_memory: Mapping[str, int] = field(default_factory=dict)
    quantization: str | None = None

    def __bool__(self) -> bool:
        return self != WHOLE

    @property
    def spec(self) -> dict[str, Any]:
        """For a worker's spec; empty for a model that is whole. Read by `of_spec`."""
        return {"placement": asdict(self)} if self else {}

    @property
    def scheme(self) -> str:
        """What PyTorch runs, as the report names it."""
        return f"torch:{self.quantization or 'fp32'}"

    @property
    def words(self) -> str:
        """For people; empty for a model that is whole."""
        parts = [f"rounded to 4 bits ({self.quantization})"] if self.quantization else []
        if self.device_map:
            limits = ", ".join(f"{at} at most {readable_bytes(size)}" for at, size in self.max_memory.items())
            parts.append(f"layers shared out over devices ({self.device_map}{': ' * bool(limits)}{limits})")
        return "; ".join(parts)

    def held(self, body: int, embedding: int, width: float) -> float:
        """Bytes that a model's weights take on all devices.

        Args:
            body: weights of its layers.
            embedding: those of embedding and head, which stay as they are.
            width: bytes of a weight that is not rounded.
        """
        size = width * (body + embedding)
        if self.quantization == NF4:
            size = _NF4_BITS / 8 * body + min(width, 2) * embedding
        return min(size, sum(self.max_memory.values())) if self.max_memory else size

    def options(self, dtype: torch.dtype) -> dict[str, Any]:
        """Of `from_pretrained`, for a model that computes in `dtype`."""
        if not self:
            return {}
        found: dict[str, Any] = {"device_map": self.device_map or {"": 0}}
        if self.max_memory:
            found["max_memory"] = {int(at) if at.isdigit() else at: size for at, size in self.max_memory.items()}
        if self.quantization == NF4:
            from transformers import BitsAndBytesConfig

            # As QLoRA has it (Dettmers 2023): 4-bit NormalFloat, and its scales rounded too.
            found["quantization_config"] = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=dtype,
            )
        return found


WHOLE = Placement()
"""The whole model on one device, its weights as they are."""


def of_spec(spec: Mapping[str, Any]) -> Placement:
    """The placement that a worker's spec has; `WHOLE` where it has none."""
    return Placement(**spec.get("placement", {}))


def offload_folder() -> str:
    """A new directory for weights that a device map leaves on disk in another form than the checkpoint's."""
    return tempfile.mkdtemp(prefix="distill2edge-offload-")


def remove_with(model: Any, folder: str) -> None:
    """Remove an offload folder when its model is gone."""
    weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)


def to_device(model: Any, device: Any, placement: Placement) -> Any:
    """A model on a device, unless its placement has put it where it is."""
    return model if placement else model.to(device)


def on_device(batch: Mapping[str, torch.Tensor], model: Any) -> dict[str, torch.Tensor]:
    """A batch where a model's inputs belong."""
    return {name: part.to(device_of(model)) for name, part in batch.items()}


def device_of(model: Any) -> Any:
    """The device that a model's inputs belong on: of one that is shared out the first that computes."""
    import torch

    shared = getattr(model, "hf_device_map", None)
    if not shared:
        return model.device
    computing = [place for place in shared.values() if place not in ("cpu", "disk", "meta")]
    return torch.device(computing[0] if computing else "cpu")
