"""An entry of `export`: the name of a scheme, or a mix under a limit written as a section."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from distill2edge.quantize.schemes import MAX_KL, MIN_KL, Mix, Scheme, parse_bytes

_FIX = "write {format: gguf, budget: 90MB} or {format: onnx, max_kl: 0.05}"
_FORMATS = ("gguf", "onnx")


def entry_name(value: Any) -> Any:
    """The scheme's name of a section; anything else as it is.

    Raises:
        ValueError: a section with other keys, with both limits or none, or a limit that is none.
    """
    if not isinstance(value, dict):
        return value
    if strange := sorted(map(str, set(value) - {"format", "budget", "max_kl"})):
        raise ValueError(f"unknown key {strange[0]!r}: {_FIX}")
    form = value.get("format")
    if form not in _FORMATS:
        raise ValueError(f"a mix is written as gguf or onnx, not as {form!r}: {_FIX}")
    given = {key: value[key] for key in ("budget", "max_kl") if value.get(key) is not None}
    if len(given) != 1:
        raise ValueError(f"a mix has one limit, its budget or its max_kl: {_FIX}")
    if "budget" in given:
        if isinstance(given["budget"], bool) or not isinstance(given["budget"], str | int):
            raise ValueError(f"{given['budget']!r} is not a file size: write 90MB, 85MiB, 1GB, or bytes")
        return str(Scheme(form, str(Mix(budget=parse_bytes(given["budget"])))))
    limit = given["max_kl"]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not MIN_KL <= limit <= MAX_KL:
        raise ValueError(f"{limit!r} is not a KL between {MIN_KL:g} and {MAX_KL:g} nats per token: {_FIX}")
    return str(Scheme(form, str(Mix(max_kl=limit))))


ExportEntry = Annotated[
    str,
    BeforeValidator(entry_name),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {
                        "format": {"enum": list(_FORMATS)},
                        "budget": {"type": ["string", "integer"], "description": "bytes of the whole file: 90MB"},
                        "max_kl": {"type": "number", "exclusiveMinimum": 0, "description": "nats per token"},
                    },
                    "required": ["format"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
