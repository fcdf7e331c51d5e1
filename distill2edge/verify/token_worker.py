"""One model file, in a process of its own: `python -m distill2edge.verify.token_worker SPEC.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.data.examples import Encoded
from distill2edge.models.model_file import Encodings
from distill2edge.runtimes import open_for
from distill2edge.runtimes.protocol import Runtime, logits_at
from distill2edge.util.files import write_text
from distill2edge.util.isolate import serve
from distill2edge.verify import fidelity, scores
from distill2edge.verify.metrics import TOKEN_METRICS
from distill2edge.verify.references import open_reference


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Score every row and compare the chosen positions with the references.

    Args:
        spec: `runtime path threads context metric rows max_tokens positions stop`, and file names beside
            the result: `write_reference`, `teacher_reference`, `student_reference` (each may be null).
        report: told of each row.

    Returns:
        Lists over rows (`score`, `tokens`, `length` or null), over compared rows (`counts`), and over compared
        positions (`nll`, and null without a reference: `kl_teacher`, `kl_student`, `top1_student`, `top1_teacher`).
        `counts_teacher` and `counts_student`: of the rows that were compared with each (null: with none).
    """
    here = Path(spec["result"]).parent
    encodings = read_encodings(here / spec["rows"], tuple(spec["stop"]))
    runtime = open_for(spec)
    metric = TOKEN_METRICS[spec["metric"]]
    spans = fidelity.choose_positions(encodings.rows, spec["max_tokens"], spec["positions"])
    references = {role: open_reference(role, spec, here, spans) for role in ("teacher", "student")}
    mine = None
    if spec["write_reference"]:
        path = here / spec["write_reference"]
        mine = fidelity.create_reference(path, fidelity.count_positions(spans), runtime.vocab_size)
    out: dict[str, list[float]] = {
        key: []
        for key in ("score", "tokens", "length", "nll", "kl_teacher", "kl_student", "top1_student", "top1_teacher")
    }
    for index, row in enumerate(encodings.rows):
        span = spans[index] if index < len(spans) else None
        positions = span.positions if span else []
        positions = sorted({*positions, *metric.positions(row)})
        logprob = _run(runtime, row, positions)
        if span:
            part = logprob[np.searchsorted(positions, span.positions)]
            targets = [row.ids[position + 1] for position in span.positions]
            out["nll"] += (-part[np.arange(len(targets)), targets]).tolist()
            for role, reference in references.items():
                if reference is not None:
                    kl, top1 = reference.compare(index, part)
                    out[f"kl_{role}"] += kl
                    out[f"top1_{role}"] += top1
            if mine is not None:
                mine[span.start : span.start + len(part)] = part
        score, length = metric.score(runtime, encodings, index, dict(zip(positions, logprob, strict=True)))
        out["tokens"].append(float(sum(row.mask)))
        out["score"].append(score)
        out["length"].append(float(length))
        report(1)
    if mine is not None:
        mine.flush()
    runtime.close()
    absent = {f"{name}_{role}": reference is None for role, reference in references.items() for name in ("kl", "top1")}
    absent["length"] = not metric.measures_length
    counts = {f"counts_{role}": None if each is None else each.compared(spans) for role, each in references.items()}
    return {
        **{key: None if absent.get(key) else values for key, values in out.items()},
        "counts": [len(span.positions) for span in spans],
        **counts,
    }


def read_encodings(path: Path, stop: tuple[int, ...]) -> Encodings:
    """The rows that `write_encodings` wrote."""
    document = json.loads(path.read_text())
    rows = [Encoded(**row) for row in document["rows"]]
    return Encodings(rows, document["choices"], document["vocabulary"], stop)


def write_encodings(path: Path, encodings: Encodings) -> None:
    """Rows for a worker, as JSON."""
    rows = [
        {"id": row.id, "ids": list(row.ids), "mask": list(row.mask), "label": row.label, "row": row.row}
        | ({"places": list(row.places)} if row.places else {})
        | ({} if row.types is None else {"types": list(row.types)})
        for row in encodings.rows
    ]
    choices = None if encodings.choices is None else [[list(ids) for ids in row] for row in encodings.choices]
    write_text(path, json.dumps({"rows": rows, "choices": choices, "vocabulary": encodings.vocabulary}))


def _run(runtime: Runtime, row: Encoded, positions: list[int]) -> scores.Floats:
    """[len(positions), V] log-probabilities; no token past the last position is fed."""
    if not positions:
        return np.empty((0, runtime.vocab_size), dtype=np.float32)
    return scores.log_softmax(logits_at(runtime, row.ids[: positions[-1] + 1], positions, row.prompt_length))


def main() -> None:
    """Entry of the worker process."""
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
