"""`teacher.load`: a teacher that no single device holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from distill2edge.errors import Problem
from distill2edge.models.placement import Placement
from distill2edge.quantize.schemes import parse_bytes
from distill2edge.recipe.section import Section


def _sizes(value: Any) -> Any:
    """Bytes by device: YAML writes the number of a GPU as a number."""
    if not isinstance(value, dict):
        return value
    for device in value:
        if str(device) != "cpu" and not str(device).isdigit():
            raise ValueError(f"{device!r} is no device: write cpu, or the number of a GPU")
    return {str(device): parse_bytes(size) for device, size in value.items()}


class Load(Section):
    """Where the teacher's weights lie while it runs, and in how many bits."""

    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None,
        description="how accelerate shares the layers out over GPUs, CPU and disk; null: whole, on one device. Slow "
        "where layers lie on disk: each batch reads them again",
    )
    max_memory: Annotated[dict[str, int], BeforeValidator(_sizes)] = Field(
        {},
        description="what each device may hold of the weights: {0: 20GiB, cpu: 48GiB}; a device that is not named "
        "holds none, and what fits nowhere stays on disk; {}: what is free on each",
        examples=[{"0": "20GiB", "cpu": "48GiB"}],
    )
    quantization: Literal["nf4"] | None = Field(
        None,
        description="nf4: 4-bit NormalFloat with double quantization, by bitsandbytes on an NVIDIA GPU; the signal is "
        "that of the rounded teacher. null: the weights as they are",
    )

    @property
    def placement(self) -> Placement:
        """For those who load it."""
        return Placement(self.device_map, self.max_memory, self.quantization)

    def problems(self) -> Iterator[Problem]:
        """Limits without a map that would keep them."""
        if self.max_memory and self.device_map is None:
            yield Problem(("max_memory",), "max_memory is for a device map", "set teacher.load.device_map: auto")
