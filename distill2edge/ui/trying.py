"""What the form of the try page asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill2edge.errors import UserError

MOST_TOKENS = 8192
MOST_TEMPERATURE = 10.0


@dataclass(frozen=True)
class Asked:
    """The fields as they were written.

    Attributes:
        left, right: ids of files; empty for none.
        second: the second text, for models that read two.
    """

    left: str = ""
    right: str = ""
    text: str = ""
    second: str | None = None
    max_tokens: str = "128"
    temperature: str = "0"

    def settings(self) -> dict[str, Any]:
        """`max_tokens`, `temperature` and `seed`.

        Raises:
            UserError: one is out of its range.
        """
        tokens, temperature = _number(self.max_tokens), _number(self.temperature)
        if tokens is None or not 1 <= tokens <= MOST_TOKENS or tokens != int(tokens):
            raise UserError("the longest answer is no count of tokens", fix=f"write a number from 1 to {MOST_TOKENS}")
        if temperature is None or not 0 <= temperature <= MOST_TEMPERATURE:
            raise UserError("the temperature is no such number", fix=f"write one from 0 to {MOST_TEMPERATURE:g}")
        return {"max_tokens": int(tokens), "temperature": temperature, "seed": 0}


def read_asked(fields: Mapping[str, str]) -> Asked:
    """The fields of a form or an address."""
    known = {name: fields[name] for name in ("left", "right", "text", "max_tokens", "temperature") if name in fields}
    return Asked(**known, second=fields.get("second") or None)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
