"""One classifier file, in a process of its own: `python -m distill2edge.verify.classifier_worker SPEC.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings
from distill2edge.runtimes import open_for
from distill2edge.runtimes.protocol import Classifier, Runtime
from distill2edge.util.isolate import serve
from distill2edge.verify.scores import choice_likelihoods, trim_stop
from distill2edge.verify.token_worker import read_encodings


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Class logits of every row: those of a head, or the likelihood of each answer of a language model.

    Args:
        spec: `runtime path threads context`, `rows` (a file beside the result), `stop` (ids that end an answer), and
            `labels`: what a head's own labels must be.
        report: told of each row.

    Returns:
        `logits`: [n][C].

    Raises:
        UserError: a file that is no classifier, or one over other labels.
    """
    encodings = read_encodings(Path(spec["result"]).parent / spec["rows"], tuple(spec["stop"]))
    opened: Any = open_for(spec)
    if encodings.choices is not None:
        return {"logits": _answers(opened, encodings, report)}
    if not hasattr(opened, "classify"):
        raise UserError("this file is not a classifier", where=spec["path"], fix="export the model again")
    runtime = cast("Classifier", opened)
    made_up = all(label.startswith("LABEL_") for label in runtime.labels)
    if len(runtime.labels) != len(spec["labels"]) or not (made_up or runtime.labels == spec["labels"]):
        raise UserError(
            f"its labels are {runtime.labels}, the data's are {spec['labels']}", where=spec["path"],
            fix="export the model again",
        )  # fmt: skip
    logits = []
    for row in encodings.rows:
        found = runtime.classify(row.ids, row.types)
        if not np.isfinite(found).all():
            raise ValueError("the model computes logits that are not numbers")
        logits.append([float(value) for value in found])
        report(1)
    runtime.close()
    return {"logits": logits}


def _answers(runtime: Runtime, encodings: Encodings, report: Callable[[int], None]) -> list[list[float]]:
    """[n][C] log-probability of each answer, summed over its tokens."""
    assert encodings.choices is not None
    found = []
    for row, choices in zip(encodings.rows, encodings.choices, strict=True):
        bare = trim_stop(choices, encodings.stop)
        found.append(choice_likelihoods(runtime, row.ids[: row.prompt_length], bare))
        report(1)
    runtime.close()
    return found


def main() -> None:
    """Entry of the worker process."""
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
