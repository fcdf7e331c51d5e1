"""A student that took its layers from an assistant: what it says of them."""

from __future__ import annotations

from typing import Any


def in_whole_layers(student: dict[str, Any], assistant: dict[str, Any]) -> dict[str, Any]:
    """student.json, with layers counted in the model that the assistant was made of.

    Args:
        student, assistant: student.json of both; `layers` of the first counts the assistant's. null: all of them.

    Returns:
        it, with `assistant`: its layers, those `taken` in its own numbers, and its weights.
    """
    own, theirs = student.get("layers"), assistant.get("layers")
    layers = own if theirs is None else theirs if own is None else [theirs[layer] for layer in own]
    of = {"layers": theirs, "taken": own, "parameters": assistant.get("parameters")}
    return {**student, "source": assistant["source"], "layers": layers, "of": assistant.get("of"), "assistant": of}
