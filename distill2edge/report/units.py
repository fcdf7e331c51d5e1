"""What the figures of a report are means over, and the words that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Unit:
    """The words of one `unit` of verify.json: what its models say something of.

    Attributes:
        name: what KL is a mean over.
        request: what the bench counts.
        compared: where two models are compared, in the plural.
        answer: what a model puts first there.
        pipeline: the hub's name of what such a model does.
    """

    name: str
    request: str
    compared: str
    answer: str
    pipeline: str = "text-generation"


_UNITS = {
    "token": Unit("token", "request", "positions", "most likely token"),
    "text": Unit("text", "text", "texts", "most likely label", "text-classification"),
    "set": Unit("text", "text", "texts", "set of labels", "text-classification"),
    "number": Unit("text", "text", "texts", "number within a tenth of a standard deviation", "text-classification"),
    "word": Unit("word", "text", "words", "most likely tag", "token-classification"),
    "embedding": Unit("text", "text", "texts", "nearest neighbour", "sentence-similarity"),
}


def unit_of(report: dict[str, Any]) -> Unit:
    """That of a report's metric."""
    name = str(report["metric"].get("unit") or "token")
    return _UNITS.get(name) or Unit(name, name, f"{name}s", "answer")
