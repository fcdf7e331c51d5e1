"""Ollama's Modelfile by its documented grammar: instructions, comments, strings on one line or in three quotes."""

from __future__ import annotations

INSTRUCTIONS = ("FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE", "REQUIRES")
PARAMETERS = {"num_ctx": int, "repeat_last_n": int, "repeat_penalty": float, "temperature": float, "seed": int,
              "stop": str, "num_predict": int, "top_k": int, "top_p": float, "min_p": float}  # fmt: skip


def parse_modelfile(text: str) -> list[tuple[str, str]]:
    """(instruction, argument) of each, `PARAMETER stop` as one name.

    Raises:
        ValueError: what Ollama would refuse.
    """
    found: list[tuple[str, str]] = []
    while text := text.lstrip():
        line, _, rest = text.partition("\n")
        if line.startswith("#"):
            text = rest
            continue
        name, _, argument = text.partition(" ")
        name = name.upper()
        if name not in INSTRUCTIONS:
            raise ValueError(f"no instruction: {line!r}")
        if name == "PARAMETER":
            key, _, argument = argument.partition(" ")
            if key not in PARAMETERS:
                raise ValueError(f"no parameter: {line!r}")
            name = f"PARAMETER {key}"
        value, text = _argument(argument)
        if name.startswith("PARAMETER"):
            PARAMETERS[name.split()[1]](value)
        found.append((name, value))
    if not any(name == "FROM" for name, _ in found):
        raise ValueError("no FROM line")
    return found


def _argument(text: str) -> tuple[str, str]:
    """The argument at the start of a text, without its quotes, and what comes after."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            value, end, rest = text[len(quote) :].partition(quote)
            after, _, rest = rest.partition("\n")
            if not end or after.strip() or (quote == '"' and "\n" in value):
                raise ValueError(f"a string without an end: {text[:60]!r}")
            return value, rest
    value, _, rest = text.partition("\n")
    if not value.strip():
        raise ValueError("an instruction without an argument")
    return value.strip(), rest
