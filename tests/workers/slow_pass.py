"""A pass whose shards take a second, and which notes each that is finished."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Slow:
    """As `workers.mapping.Pass`."""

    log: Path

    def __call__(self, shard: int, done: Callable[..., None]) -> str:
        time.sleep(1.0)
        with self.log.open("a") as log:
            log.write(f"{shard}\n")
        done(1)
        return f"made {shard}"
