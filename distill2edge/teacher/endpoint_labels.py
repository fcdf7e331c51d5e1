"""Class logits from an endpoint: log-probabilities of the first token where it gives them, else answers that count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.generate import Answer, Ask, Generator
from distill2edge.generation.writers import Sampling
from distill2edge.teacher.answer_matching import choice_of, scores_of_counts, scores_of_first

if TYPE_CHECKING:
    from distill2edge.data.encode import Row
    from distill2edge.recipe.ask import Ask as Section
    from distill2edge.util.progress import Progress

_CHARACTERS = 3  # of an answer that a token has at least
_ROOM = 8  # tokens for what stands around an answer
_TRIED = 32  # rows whose answers are read before the others are asked for
_SAMPLING = 1.0  # temperature of answers that are counted


@dataclass(frozen=True)
class Heard:
    """What an endpoint said of rows.

    Attributes:
        scores: by the id of each row of which something could be read, [C].
        facts: how it was asked, and what could not be read.
    """

    scores: dict[str, list[float]]
    facts: dict[str, Any]


def ask_endpoint(
    generator: Generator, rows: Sequence[Row], answers: Sequence[str], spec: Section, seed: int, progress: Progress
) -> Heard:
    """Scores of every row's answers.

    The first row is asked alone: what the server gives decides how the others are asked, before they are paid for.

    Args:
        rows: prompts in the teacher's words.
        answers: what it may say, in the order of the classes.

    Raises:
        UserError: log-probabilities are required and the server gives none; nothing at all could be read. And what the
            generator raises.
    """
    longest = max(len(answer) for answer in answers) // _CHARACTERS + _ROOM
    greedy = Sampling(longest)
    first = spec.logprobs != "never"
    if first:
        first = _gives_logprobs(generator, _ask(rows[0], spec, "", logprobs=True), greedy, seed)
        if not first and spec.logprobs == "require":
            raise UserError(
                "the server gives no log-probabilities: its answer to the first row has none",
                where="teacher.ask.logprobs",
                fix="set it to auto, which then counts answers (teacher.ask.samples of each row), or take a server "
                "with them (llama.cpp: --logits_all true)",
            )
        if not first:
            progress.say(f"the server gives no log-probabilities: {spec.samples} answers to each row are counted")
    times = 1 if first else spec.samples
    sampling = greedy if times == 1 else Sampling(longest, temperature=_SAMPLING)
    asks = [_ask(row, spec, str(at) if times > 1 else "", logprobs=first) for row in rows for at in range(times)]
    found: list[Answer] = []
    with progress.task("teacher labels", len(asks)) as task:
        for part in _parts(asks, _TRIED * times, generator.shard_rows):
            found += generator.generate(part, sampling, seed, task.advance)
            if len(found) == len(part):  # before the rest is paid for
                _read(rows[: len(found) // times], found, answers, times)
    return _read(rows, found, answers, times)


def _gives_logprobs(generator: Generator, probe: Ask, sampling: Sampling, seed: int) -> bool:
    """Whether the server names the likeliest first tokens. Some that cannot fail with a server's error."""
    try:
        (answer,) = generator.generate([probe], sampling, seed)
    except EnvironmentFault:
        generator.generate([replace(probe, logprobs=False)], sampling, seed)  # one that is down fails at this too
        return False
    return bool(answer.first)


def _parts(asks: Sequence[Ask], first: int, size: int) -> Iterator[Sequence[Ask]]:
    """The asks in pieces, the first of them small."""
    yield asks[:first]
    for at in range(first, len(asks), size):
        yield asks[at : at + size]


def _read(rows: Sequence[Row], found: Sequence[Answer], answers: Sequence[str], times: int) -> Heard:
    """What so many answers to each row say.

    Raises:
        UserError: none of them is a choice.
    """
    groups = [found[at : at + times] for at in range(0, len(found), times)]
    how = "logprobs" if any(answer.first for answer in found) else "samples"
    scores: dict[str, list[float]] = {}
    unread, example = 0, ""
    for row, group in zip(rows, groups, strict=True):
        said = [choice_of(answer.text, answers) for answer in group]
        unread += (missed := sum(each is None for each in said))
        if missed and not example:
            bad = group[said.index(None)]
            example = bad.text[:80] if bad.finish in ("stop", "length") else bad.finish
        own = scores_of_first(group[0].first, answers) if how == "logprobs" else None
        if own is None:
            own = scores_of_counts([said.count(at) for at in range(len(answers))])
        if own is not None:
            scores[row.id] = own
    if not scores:
        raise UserError(
            f"none of {len(rows):,} answers is one of the choices: for instance {example!r}",
            where="teacher.ask",
            fix="say in teacher.ask.prompt or system that the answer is one of the choices alone, and name them as the "
            "teacher writes them in teacher.ask.answers",
        )
    facts = {"asked_by": how, "answers": times * len(rows), "unreadable": unread, "unreadable_example": example}
    return Heard(scores, facts)


def _ask(row: Row, spec: Section, tag: str, *, logprobs: bool) -> Ask:
    system = (("system", spec.system),) if spec.system else ()
    return Ask((*system, ("user", row.prompt)), tag, logprobs)
