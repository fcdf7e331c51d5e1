"""One token classifier's file, in a process of its own: `python -m distill2edge.verify.tagger_worker SPEC.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from distill2edge.errors import UserError
from distill2edge.runtimes import open_for
from distill2edge.runtimes.protocol import Tagger
from distill2edge.util.isolate import serve
from distill2edge.verify.token_worker import read_encodings


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Logits of the tags of every word that has a token of its own.

    Args:
        spec: `runtime path threads context`, `rows` (a file beside the result), and `labels`: what a head's own labels
            must be.
        report: told of each row.

    Returns:
        `logits`: [n][words][C].

    Raises:
        UserError: a file that is no token classifier, or one over other labels.
    """
    encodings = read_encodings(Path(spec["result"]).parent / spec["rows"], ())
    opened: Any = open_for(spec)
    if not hasattr(opened, "tag"):
        raise UserError("this file is not a token classifier", where=spec["path"], fix="export the model again")
    runtime = cast("Tagger", opened)
    made_up = all(label.startswith("LABEL_") for label in runtime.labels)
    if len(runtime.labels) != len(spec["labels"]) or not (made_up or runtime.labels == spec["labels"]):
        raise UserError(
            f"its labels are {runtime.labels}, the data's are {spec['labels']}", where=spec["path"],
            fix="export the model again",
        )  # fmt: skip
    logits = []
    for row in encodings.rows:
        found = runtime.tag(row.ids)[[place for place in row.places if place >= 0]]
        if not np.isfinite(found).all():
            raise ValueError("the model computes logits that are not numbers")
        logits.append([[round(float(value), 6) for value in word] for word in found])
        report(1)
    runtime.close()
    return {"logits": logits}


def main() -> None:
    """Entry of the worker process."""
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
