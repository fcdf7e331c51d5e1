"""Class logits from an endpoint: log-probabilities of the first token where it gives them, else answers that count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.generate import Answer, Ask, Generator
from distill2edge.generation.writers import Sampling
from distill2edge.teacher.answer_matching import choice_of, scores_of_counts, scores_of_first
from distill2edge.util.terminal import one_line

if TYPE_CHECKING:
    from distill2edge.data.examples import Row
    from distill2edge.recipe.ask import Ask as Section
    from distill2edge.util.progress import Progress

_CHARACTERS = 3  # of an answer that a token has at least
_ROOM = 8  # tokens for what stands around an answer
TRIED = 32  # rows whose answers are read before the others are asked for
_MOST_UNREAD = 0.5  # share of their answers that cannot be read, beyond which the prompt is at fault
_SHOWN = 3  # answers that are quoted
_WRITTEN = ("stop", "length")  # how an answer ends that was written
SAMPLING = 1.0  # temperature of answers that are counted


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

    The first rows decide how the others are asked, and whether they are, before those are paid for. The labels of a run
    are of one kind: where log-probabilities are taken, a row without them has no scores.

    Args:
        rows: prompts in the teacher's words.
        answers: what it may say, in the order of the classes.

    Raises:
        UserError: log-probabilities are required and the server gives none; most answers cannot be read. And what the
            generator raises.
    """
    longest = max(len(answer) for answer in answers) // _CHARACTERS + _ROOM
    greedy = Sampling(longest)
    first = spec.logprobs != "never" and _gives_logprobs(generator, rows[:TRIED], answers, spec, greedy, seed)
    if spec.logprobs == "auto" and not first:
        progress.say(
            "the server does not give log-probabilities that tell the choices apart with each answer: "
            f"{spec.samples} answers to each row are counted"
        )
    times = 1 if first else spec.samples
    sampling = greedy if times == 1 else Sampling(longest, temperature=SAMPLING)
    asks = [ask_of(row, spec, str(at) if times > 1 else "", logprobs=first) for row in rows for at in range(times)]
    found: list[Answer] = []
    with progress.task("teacher labels", len(asks)) as task:
        for part in in_parts(asks, TRIED * times, generator.shard_rows):
            found += generator.generate(part, sampling, seed, task.advance)
            if len(found) == len(part):  # before the rest is paid for
                check_read(_read(rows[: len(found) // times], found, answers, times, logprobs=first).facts)
    return _read(rows, found, answers, times, logprobs=first)


def _gives_logprobs(
    generator: Generator, rows: Sequence[Row], answers: Sequence[str], spec: Section, sampling: Sampling, seed: int
) -> bool:
    """Whether every answer to these rows comes with first tokens that tell the choices apart.

    Raises:
        UserError: log-probabilities are required, and an answer has none.
    """
    asks = [ask_of(row, spec, "", logprobs=True) for row in rows]
    taken = _takes_logprobs(generator, asks[0], sampling, seed)
    said = generator.generate(asks, sampling, seed) if taken else []
    said = [answer for answer in said if answer.finish in _WRITTEN]
    if spec.logprobs != "require":
        return bool(said) and all(scores_of_first(answer.first, answers) is not None for answer in said)
    given = sum(bool(answer.first) for answer in said)
    if not said or given < len(said):
        raise UserError(
            f"the server gives no log-probabilities with {len(said) - given} of {len(said)} answers"
            if said else "the server does not answer requests for log-probabilities",
            where="teacher.ask.logprobs",
            fix="set it to auto, which then counts answers (teacher.ask.samples of each row), or take a server "
            "with them (llama.cpp: --logits_all true)",
        )  # fmt: skip
    return True


def _takes_logprobs(generator: Generator, probe: Ask, sampling: Sampling, seed: int) -> bool:
    """Whether the server answers where it is asked for them: some fail with an error of the server, others refuse."""
    plain = [replace(probe, logprobs=False)]
    try:
        (answer,) = generator.generate([probe], sampling, seed)
    except EnvironmentFault:
        generator.generate(plain, sampling, seed)  # one that is down fails at this too
        return False
    if not answer.finish.startswith("refused"):
        return True
    return generator.generate(plain, sampling, seed)[0].finish.startswith("refused")  # then it is the row's fault


def in_parts(asks: Sequence[Ask], first: int, size: int) -> Iterator[Sequence[Ask]]:
    """The asks in pieces, the first of them small."""
    yield asks[:first]
    for at in range(first, len(asks), size):
        yield asks[at : at + size]


def _read(rows: Sequence[Row], found: Sequence[Answer], answers: Sequence[str], times: int, *, logprobs: bool) -> Heard:
    """What so many answers to each row say."""
    scores: dict[str, list[float]] = {}
    unread: list[Answer] = []
    for row, at in zip(rows, range(0, len(found), times), strict=True):
        group = found[at : at + times]
        if logprobs:
            own = scores_of_first(group[0].first, answers)
            unread += group if own is None else []
        else:
            said = [choice_of(answer.text, answers) for answer in group]
            unread += [answer for answer, choice in zip(group, said, strict=True) if choice is None]
            own = scores_of_counts([said.count(choice) for choice in range(len(answers))])
        if own is not None:
            scores[row.id] = own
    facts = {
        "asked_by": "logprobs" if logprobs else "samples",
        "answers": len(found),
        "unreadable": len(unread),
        "unreadable_examples": shown_answers(unread),
    }
    return Heard(scores, facts)


def shown_answers(unread: Sequence[Answer]) -> list[str]:
    """The first few answers that could not be read, each once."""
    return list(dict.fromkeys(map(_shown, unread)))[:_SHOWN]


def _shown(answer: Answer) -> str:
    """An answer for people, or why there is none."""
    return repr(one_line(answer.text, 80)) if answer.finish in _WRITTEN else answer.finish


def check_read(
    facts: dict[str, Any],
    what: str = "none of the choices, or several",
    wanted: str = "the answer is one of the choices alone",
) -> None:
    """Raise UserError where most answers cannot be read.

    Args:
        what: such answers are.
        wanted: what the prompt should say.
    """
    if facts["unreadable"] > _MOST_UNREAD * facts["answers"]:
        raise UserError(
            f"{facts['unreadable']:,} of the first {facts['answers']:,} answers are {what}: "
            f"for instance {', '.join(facts['unreadable_examples'])}",
            where="teacher.ask",
            fix=f"say in teacher.ask.prompt or system that {wanted}, and name them as the "
            "teacher writes them in teacher.ask.answers",
        )


def ask_of(row: Row, spec: Section, tag: str, *, logprobs: bool) -> Ask:
    """What is asked of a row; `tag` tells answers to one prompt apart."""
    system = (("system", spec.system),) if spec.system else ()
    return Ask((*system, ("user", row.prompt)), tag, logprobs)
