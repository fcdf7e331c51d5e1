"""Runs models that say something of whole texts: each in its own runtime and process, on the same rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault
from distill2edge.models.model_file import Encodings, ModelFile, check_encodings, check_models, encoding_of
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.progress import Progress
from distill2edge.util.threads import available_threads
from distill2edge.verify.model_figures import Outcome
from distill2edge.verify.token_worker import write_encodings


def run_models(
    worker: str,
    models: Sequence[ModelFile],
    rows: dict[str, Encodings],
    more: Mapping[str, Any],
    work: Path,
    progress: Progress,
    threads: int | None,
) -> dict[str, Outcome]:
    """What every model says of the rows, by its id.

    Args:
        worker: module that runs one file.
        rows: as verify is given them, cut to those that it looks at.
        more: of the worker's specification.
        work: `models/` in it may hold finished models of an earlier try, which are not run again.
        threads: of each runtime; None takes what affinity and cgroup allow.

    Raises:
        UserError: models or rows that can't be compared.
        EnvironmentFault: a runtime is not installed.
    """
    check_models(models)
    check_encodings(rows)
    count = len(rows["teacher"].rows)
    directory = work / "models"
    directory.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    with progress.task("verify", total=len(models) * count) as task:
        for model in models:
            said = 0

            def advance(steps: int, name: str = model.id) -> None:
                nonlocal said
                said += steps
                task.advance(steps, name)

            given = {**more, "threads": threads or available_threads()}
            outcome = _run(worker, model, encoding_of(model.role, rows), given, directory, advance)
            task.advance(count - said, model.id)
            if isinstance(outcome, Crash):
                progress.warn(f"{model.id}: {outcome.words}")
            outcomes[model.id] = outcome
    return outcomes


def _run(
    worker: str,
    model: ModelFile,
    rows: Encodings,
    given: Mapping[str, Any],
    directory: Path,
    advance: Callable[[int], None],
) -> Outcome:
    name = f"rows-{rows.vocabulary[:12]}.json"
    path = directory / name
    write_encodings(path, rows)
    spec = {
        **model.spec,
        "context": _context(rows),
        "rows": name,
        "rows_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "stop": list(rows.stop),
        **given,
    }
    outcome = run_worker(worker, spec, directory, model.slug, threads=given["threads"], on_progress=advance)
    if isinstance(outcome, Crash) and outcome.environment:
        raise EnvironmentFault(f"{model.id} can't run here: {outcome.words}", where=str(model.path))
    return outcome


def _context(rows: Encodings) -> int:
    """Tokens of the longest text, with its answers where there are some."""
    answers = [0] * len(rows.rows) if rows.choices is None else [max(map(len, each)) for each in rows.choices]
    return max(len(row.ids) + answer for row, answer in zip(rows.rows, answers, strict=True))
