"""One embedder's file, in a process of its own: `python -m distill2edge.verify.embedder_worker SPEC.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import UserError
from distill2edge.runtimes import open_for
from distill2edge.util.isolate import serve
from distill2edge.verify.token_worker import read_encodings


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Vectors of every row.

    Args:
        spec: `runtime path threads context`, and `rows` (a file beside the result).
        report: told of each row.

    Returns:
        `vectors`: [n][D].

    Raises:
        UserError: a file that is no embedder.
    """
    encodings = read_encodings(Path(spec["result"]).parent / spec["rows"], ())
    runtime: Any = open_for(spec)
    if not hasattr(runtime, "embed"):
        raise UserError("this file is not an embedder", where=spec["path"], fix="export the model again")
    vectors = []
    for row in encodings.rows:
        found = runtime.embed(row.ids)
        if not np.isfinite(found).all():
            raise ValueError("the model computes vectors that are not numbers")
        vectors.append([round(float(value), 7) for value in found])
        report(1)
    runtime.close()
    return {"vectors": vectors}


def main() -> None:
    """Entry of the worker process."""
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
