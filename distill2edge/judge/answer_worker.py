"""One student file's answers, in a process of its own: `python -m distill2edge.judge.answer_worker SPEC.json`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.runtimes import open_for
from distill2edge.util.isolate import serve
from distill2edge.verify.scores import generate
from distill2edge.verify.token_worker import read_encodings


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """The greedy answer to the prompt of every row.

    Args:
        spec: `runtime path threads context`, `rows` (a file beside the result), `stop`, and `limit`: tokens of an
            answer.
        report: told of each row.

    Returns:
        `answers`: for each row its token ids, without the stop token.
    """
    encodings = read_encodings(Path(spec["result"]).parent / spec["rows"], tuple(spec["stop"]))
    runtime = open_for(spec)
    answers = []
    for row in encodings.rows:
        answers.append(generate(runtime, row.ids[: row.prompt_length], spec["limit"], encodings.stop))
        report(1)
    runtime.close()
    return {"answers": answers}


def main() -> None:
    """Entry of the worker process."""
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
