"""The texts that are compared, and the judge's replies: written in pieces that a killed run finds again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.generation.writers import Sampling
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.util.files import read_json, write_json
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.verify.token_worker import write_encodings

if TYPE_CHECKING:
    from distill2edge.generation.generate import Ask, Generator
    from distill2edge.util.progress import Task

SHARD = 32
"""Texts between two writes to the disk."""


@dataclass(frozen=True)
class Written:
    """One text; `finish` is `stop`, `length` where it was cut, or why an endpoint gave none."""

    text: str
    finish: str

    @property
    def given(self) -> bool:
        """Whether there is an answer at all, cut or not."""
        return self.finish in ("stop", "length")


def write_texts(
    generator: Generator, asks: Sequence[Ask], limit: int, work: Path, name: str, advance: Callable[[int], None]
) -> list[Written]:
    """The greedy answer to each ask.

    Args:
        limit: tokens of an answer, at most.
        work: shards `NAME-00000.json`, ... are written here; one that an earlier try left is taken if it answers the
            same asks.
        advance: told how many more are done.
    """
    found: list[Written] = []
    for number, begin in enumerate(range(0, len(asks), SHARD)):
        part, path = asks[begin : begin + SHARD], work / f"{name}-{number:05d}.json"
        asked = hashlib.sha256(json.dumps([ask.messages for ask in part]).encode()).hexdigest()
        kept = read_json(path) if path.is_file() else None
        if kept is None or kept["asked"] != asked:
            answers = generator.generate(part, Sampling(limit), 0)
            kept = {"asked": asked, "answers": [[answer.text, answer.finish] for answer in answers]}
            write_json(path, kept)
        found += [Written(*answer) for answer in kept["answers"]]
        advance(len(part))
    return found


def file_answers(
    model: ModelFile,
    prompts: Encodings,
    tokenizer: Any,
    limit: int,
    threads: int,
    work: Path,
    task: Task,
) -> list[Written] | Crash:
    """What a file of the student writes, greedily, in its own runtime and process.

    Args:
        prompts: rows in the student's tokens; what follows the prompt in them is not read.
        tokenizer: the student's.
        limit: tokens of an answer, at most.
        work: may hold the answers of an earlier try, which are not written again.
        task: told of every row.

    Raises:
        EnvironmentFault: the runtime is not installed. A file that crashes it gives a `Crash`.
    """
    rows = work / "rows.json"
    write_encodings(rows, prompts)
    spec = {
        **model.spec,
        "threads": threads,
        "context": max(row.prompt_length for row in prompts.rows) + limit + 1,
        "rows": rows.name,
        "rows_sha256": hashlib.sha256(rows.read_bytes()).hexdigest(),
        "stop": list(prompts.stop),
        "limit": limit,
    }
    told = 0

    def advance(steps: int) -> None:
        nonlocal told
        told += steps
        task.advance(steps, model.id)

    found = run_worker("distill2edge.judge.answer_worker", spec, work, model.slug, threads=threads, on_progress=advance)
    if told < len(prompts.rows):  # those of an earlier try, or after a crash
        task.advance(len(prompts.rows) - told, model.id)
    if isinstance(found, Crash):
        if found.environment:
            raise EnvironmentFault(f"{model.id} can't run here: {found.words}", where=str(model.path))
        return found
    return [
        Written(str(tokenizer.decode(ids, skip_special_tokens=True)), "stop" if len(ids) < limit else "length")
        for ids in found["answers"]
    ]
