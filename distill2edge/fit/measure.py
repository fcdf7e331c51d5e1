"""The profile of this machine, and the script that makes one on another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault
from distill2edge.fit import device_script
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.util.machine import cpu_model
from distill2edge.util.threads import available_threads

TYPES: tuple[str, ...] = tuple(
    name for name, row in GGML_TYPES.items() if row.stock and name != "F32"
)  # fmt: skip
"""Types whose speed is measured: those that schemes store matrices in."""


def table() -> dict[str, dict[str, Any]]:
    """What the script knows of each type."""
    rows = {name: GGML_TYPES[name] for name in TYPES}
    return {
        name: {"number": row.number, "block": row.block, "bytes": row.block_bytes, "halves": list(row.halves)}
        for name, row in rows.items()
    }


def script() -> str:
    """The text of a script that needs numpy and llama-cpp-python alone."""
    text = Path(device_script.__file__).read_text(encoding="utf-8")
    empty = "TYPES: dict[str, Any] = {}"
    assert empty in text
    return text.replace(empty, f"TYPES: dict[str, Any] = json.loads('{json.dumps(table())}')")


def measured_here(say: Callable[[str], None] = lambda line: None, threads: int | None = None) -> dict[str, Any]:
    """The profile of this machine, as the script prints it.

    Raises:
        EnvironmentFault: llama-cpp-python is missing, or a probe failed.
    """
    device_script.TYPES.update(table())
    try:
        found = device_script.profile(threads or available_threads(), say)
    except (ImportError, OSError, RuntimeError) as error:
        raise EnvironmentFault(f"this machine cannot be measured: {error}",
                               fix="distill2edge doctor says what is missing") from error  # fmt: skip
    return {**found, "cpu": cpu_model()}
