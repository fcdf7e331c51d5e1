"""Pickles that this package's own processes hand to each other. No other module reads one: a pickle can run code.

They come over the pipe to a process that we have started, or from the driver of a Ray cluster, which runs what it is
given anyhow. None is ever read from a file.
"""

from __future__ import annotations

import pickle
from typing import Any


def pack(value: Any) -> bytes:
    """A value for another process of ours."""
    return pickle.dumps(value)


def unpack(payload: bytes) -> Any:
    """What `pack` was given, by a process that is ours."""
    return pickle.loads(payload)
