"""Logits of sets of labels from an endpoint: the share of its answers that name each label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from distill2edge.generation.generate import Answer, Generator
from distill2edge.generation.writers import Sampling
from distill2edge.teacher.answer_matching import choices_of, logits_of_sets
from distill2edge.teacher.endpoint_labels import SAMPLING, TRIED, Heard, ask_of, check_read, in_parts, shown_answers

if TYPE_CHECKING:
    from distill2edge.data.examples import Row
    from distill2edge.recipe.ask import Ask as Section
    from distill2edge.util.progress import Progress

_ROOM = 16  # tokens for what stands around the names
_CHARACTERS = 3  # of a name that a token has at least
_UNREAD = (
    "without a choice, and do not say none",
    "the answer names the choices that apply, or says none",
)


def ask_sets(
    generator: Generator, rows: Sequence[Row], answers: Sequence[str], spec: Section, seed: int, progress: Progress
) -> Heard:
    """Logits of every row's labels, of `spec.samples` answers to each row.

    Args:
        rows: prompts in the teacher's words.
        answers: what it may say of each label, in their order.

    Raises:
        UserError: most answers cannot be read; and what the generator raises.
    """
    times = spec.samples
    room = sum(len(answer) for answer in answers) // _CHARACTERS + 2 * len(answers) + _ROOM
    sampling = Sampling(room) if times == 1 else Sampling(room, temperature=SAMPLING)
    asks = [ask_of(row, spec, str(at) if times > 1 else "", logprobs=False) for row in rows for at in range(times)]
    found: list[Answer] = []
    with progress.task("teacher labels", len(asks)) as task:
        for part in in_parts(asks, TRIED * times, generator.shard_rows):
            found += generator.generate(part, sampling, seed, task.advance)
            if len(found) == len(part):  # before the rest is paid for
                check_read(_read(rows[: len(found) // times], found, answers, times).facts, *_UNREAD)
    return _read(rows, found, answers, times)


def _read(rows: Sequence[Row], found: Sequence[Answer], answers: Sequence[str], times: int) -> Heard:
    scores: dict[str, list[float]] = {}
    unread: list[Answer] = []
    empty = 0
    for row, at in zip(rows, range(0, len(found), times), strict=True):
        group = found[at : at + times]
        sets = [choices_of(answer.text, answers) for answer in group]
        unread += [answer for answer, said in zip(group, sets, strict=True) if said is None]
        readable = [said for said in sets if said is not None]
        empty += sum(not said for said in readable)
        if readable:
            counts = [sum(label in said for said in readable) for label in range(len(answers))]
            scores[row.id] = logits_of_sets(counts, len(readable))
    facts = {
        "asked_by": "samples",
        "answers": len(found),
        "empty": empty,
        "unreadable": len(unread),
        "unreadable_examples": shown_answers(unread),
    }
    return Heard(scores, facts)
