"""Numbers of a recipe that are used in many places: what is beyond their range is a slip, and why it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Reason:
    """Why a number must lie in its range; told where one does not, and in the reference."""

    text: str


def _zero_or(least: float) -> AfterValidator:
    """Nothing at all, or something that counts."""

    def check(value: float) -> float:
        if 0 < value < least:
            raise ValueError(f"{value:g} is neither 0 nor at least {least:g}")
        return value

    return AfterValidator(check)


_FLAT = "below 0.01 one token has all the mass, above 100 all tokens have the same"
Temperature = Annotated[float, Field(ge=0.01, le=100), Reason(_FLAT)]
SamplingTemperature = Annotated[float, Field(ge=0, le=100), _zero_or(0.01), Reason(f"0 is greedy; {_FLAT}")]
LearningRate = Annotated[
    float, Field(ge=1e-9, le=1), Reason("below 1e-9 float32 weights do not change, above 1 no training converges")
]
Epochs = Annotated[
    float, Field(ge=0.001, le=100_000), Reason("a thousandth of the rows is a step or none; max_steps sets few steps")
]
Weight = Annotated[
    float, Field(ge=0, le=10_000), _zero_or(1e-6), Reason("weights are relative; a term that weighs less says nothing")
]
Share = Annotated[float, Field(ge=0.01, le=1), Reason("it is a share: write 0.95 for 95%")]
Beta = Annotated[
    float,
    Field(ge=0.001, le=0.999),
    Reason("nearer to 0 or 1 it is forward_kl or reverse_kl: use those"),
]
Nats = Annotated[
    float, Field(ge=1e-9, le=100), Reason("in nats: float32 computes to about 1e-9, and at 100 nothing is alike")
]
Similarity = Annotated[
    float, Field(ge=0.1, le=1), Reason("of two rows' words; below 0.1 nearly all rows are the same as another")
]


def reason(field: FieldInfo) -> str:
    """Why a field has its range; empty where nothing is said."""
    return next((item.text for item in _metadata(field) if isinstance(item, Reason)), "")


def bounds(field: FieldInfo) -> str:
    """A field's range as people write it: `0.01 to 100`, `at least 1`, `above 0`; empty where it has none."""
    found: dict[str, Any] = {}
    for item in _metadata(field):
        for name in ("ge", "gt", "le", "lt"):
            if (value := getattr(item, name, None)) is not None:
                found[name] = value
    if "ge" in found and "le" in found:
        return f"{found['ge']:,} to {found['le']:,}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    return " and ".join(f"{word} {found[name]:,}" for name, word in words.items() if name in found)


def _metadata(field: FieldInfo) -> Iterator[Any]:
    yield from _flat(field.metadata)
    yield from _inside(field.annotation)


def _inside(annotation: Any) -> Iterator[Any]:
    """Of `LearningRate | None` too, where pydantic leaves it within the annotation."""
    if hasattr(annotation, "__metadata__"):
        yield from _flat(annotation.__metadata__)
    for part in get_args(annotation):
        yield from _inside(part)


def _flat(metadata: Any) -> Iterator[Any]:
    for item in metadata:
        yield item
        if isinstance(item, FieldInfo):
            yield from item.metadata
