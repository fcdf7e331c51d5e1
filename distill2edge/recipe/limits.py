"""How far a file may be from the merged student: one limit for each precision of its weights."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from distill2edge.gguf.ggml_types import Precision
from distill2edge.quantize.schemes import ALL
from distill2edge.recipe.ranges import Nats
from distill2edge.recipe.section import Section

_EIGHT_BITS = ", ".join(str(scheme) for scheme in ALL if scheme.precision == "eight_bits")


class KlLimits(Section):
    """Mean KL(merged student || file), at most; nats per token, per text for classifiers. null: only reported."""

    lossless: Nats | None = Field(1e-3, description="files of 16 bits and more: what is further away is another model")
    eight_bits: Nats | None = Field(0.05, description=_EIGHT_BITS)
    lower: Nats | None = Field(None, description="every other scheme; where null, more than 0.5 is a warning")

    def of(self, precision: Precision) -> float | None:
        """The limit of a precision."""
        limit: float | None = getattr(self, precision)
        return limit

    def is_default(self, precision: Precision) -> bool:
        """Whether the limit is the one that a recipe without `verify.max_kl` has."""
        return self.of(precision) is not None and self.of(precision) == KlLimits().of(precision)  # type: ignore[call-arg]


def kl_limits(value: Any) -> Any:
    """`max_kl: 0.1` holds every quantized file to it (and lossless ones, where it is stricter); null holds none."""
    names = tuple(KlLimits.model_fields)
    if value is None:
        return dict.fromkeys(names)
    if isinstance(value, dict | KlLimits):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("write a number, null, or {lossless: 0.001, eight_bits: 0.05, lower: null}")
    stricter = {"lossless": value} if value < (KlLimits.model_fields["lossless"].default or 0) else {}
    return {**dict.fromkeys(names[1:], value), **stricter}
