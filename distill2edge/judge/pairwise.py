"""The student's answers against the teacher's on held-out prompts, by a judge model: pairs, replies, figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distill2edge.data.conversation import plain_answer, plain_prompt
from distill2edge.data.templates import Template
from distill2edge.errors import UserError
from distill2edge.generation.generate import Ask
from distill2edge.judge.answer_pairs import Pair, outcome_of, tally
from distill2edge.judge.judge_model import question
from distill2edge.judge.written_answers import Written, file_answers, write_texts
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.judge import WHERE
from distill2edge.util.bootstrap import ratio_interval
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.threads import available_threads

if TYPE_CHECKING:
    from distill2edge.data.examples import Row
    from distill2edge.generation.generate import Generator
    from distill2edge.recipe.judge import PairwiseJudge
    from distill2edge.util.progress import Progress, Task

Replies: TypeAlias = tuple[str | None, str | None]
"""To the student first, and to the teacher first; None where the question does not fit the judge."""

DEFINITIONS = {
    "answers": "greedy, at most answer_tokens each; those of a file in its own runtime",
    "outcome": "each pair is judged in both orders: a win or a loss where both replies agree on it, else a tie "
    "(inconsistent where the verdict changes with the order; identical answers are a tie without being judged)",
    "unreadable": "a reply that names no verdict, or several; such a pair is not counted",
    "win_rate": "(wins + half of the ties) / readable pairs; 1/2 where the two answer equally well",
    "position_bias": "share of the readable judged pairs whose verdict changes with the order",
    "length_ratio": "characters of the student's answers / those of the teacher's: judges tend to favour longer ones",
    "interval": "95% over pairs; shares: Wilson; length_ratio: percentile bootstrap",
}


def judge_students(
    models: Sequence[ModelFile],
    prompts: Encodings,
    rows: Mapping[str, Row],
    tokenizer: Any,
    teacher: Generator,
    judge: Generator,
    spec: PairwiseJudge,
    *,
    system: str | None,
    akin: Sequence[str] = (),
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
) -> dict[str, Any]:
    """Let every model answer, let the judge compare, and write `judge.json` into `work`.

    Args:
        models: the student's, dense or as they ship.
        prompts: held-out rows in the student's tokens; the first `spec.rows` are taken.
        rows: the same rows as text, by id.
        tokenizer: the student's.
        teacher: writes the answers to compare with; closed before the judge is asked. judge: gives the verdicts;
            closed at the end.
        system: message before each prompt, for the teacher; `prompts` hold it already.
        akin: of teacher and student, those that the judge is itself; for the document.
        seed: of the resampling; threads: of each runtime, None takes what affinity and cgroup allow.
        work: may hold answers and replies of an earlier try, which are not written again.

    Returns:
        `rows`, and by model `win_rate` (null where no pair is readable, or the file does not run) and `unreadable`;
        of a teacher behind an endpoint also `endpoint`: what it was paid.

    Raises:
        UserError: no held-out rows, or the teacher answers none.
        EnvironmentFault: a runtime is not installed, or the disk is full.
    """
    prompts = prompts.head(spec.rows)
    held = [rows[encoded.row] for encoded in prompts.rows]
    if not held:
        raise UserError("there are no held-out rows", where=WHERE, fix="give data.splits.test at least one row")
    pieces = work / "answers"
    pieces.mkdir(parents=True, exist_ok=True)
    limits = spec.answer_tokens, threads or available_threads()
    with progress.task("answers", len(held) * (1 + len(models))) as task:
        wanted = _teacher_answers(teacher, held, system, spec.answer_tokens, pieces, task)
        files = {model.id: file_answers(model, prompts, tokenizer, *limits, pieces, task) for model in models}
    answers = _Answers(held, wanted, files)
    answers.warn(progress)
    try:
        replies = _ask(judge, spec, answers.pairs, pieces, progress)
    finally:
        judge.close()
    asked = {**spec.model_dump(mode="json"), "backend": judge.name, "akin": list(akin)}
    document = {**_document(models, answers, replies, seed), "judge": asked}
    write_json(work / "judge.json", document)
    _tell(document, progress)
    return _facts(document, teacher.facts)


@dataclass(frozen=True)
class _Answers:
    """What teacher and files wrote to the held-out rows; a file that does not run has none."""

    held: Sequence[Row]
    teacher: Sequence[Written]
    files: Mapping[str, list[Written] | Crash]

    @property
    def given(self) -> list[int]:
        """Numbers of the rows that the teacher answers: the others have nothing to compare with."""
        return [number for number, answer in enumerate(self.teacher) if answer.given]

    @property
    def pairs(self) -> dict[str, list[Pair]]:
        """By file, over the rows that the teacher answers."""
        return {
            name: [
                Pair(
                    plain_prompt(self.held[n].prompt),
                    found[n].text,
                    self.teacher[n].text,
                    plain_answer(self.held[n].response),
                )
                for n in self.given
            ]
            for name, found in self.files.items()
            if not isinstance(found, Crash)
        }

    def warn(self, progress: Progress) -> None:
        """Say which files did not run."""
        for name, found in self.files.items():
            if isinstance(found, Crash):
                progress.warn(f"{name}: {found.words}")


def _teacher_answers(
    teacher: Generator, held: Sequence[Row], system: str | None, limit: int, work: Path, task: Task
) -> list[Written]:
    """What the teacher writes to every row; it is closed afterwards.

    Raises:
        UserError: it answers none.
    """
    head = (("system", system),) if system else ()
    asks = [Ask((*head, ("user", row.prompt))) for row in held]
    try:
        wanted = write_texts(teacher, asks, limit, work, "teacher", task.advance)
    finally:
        teacher.close()
    if not any(answer.given for answer in wanted):
        raise UserError(
            f"the teacher answers none of {len(held)} held-out prompts: {wanted[0].finish}", where=WHERE,
            fix="leave verify.judge out, or change what the teacher is asked",
        )  # fmt: skip
    return wanted


def _ask(
    judge: Generator, spec: PairwiseJudge, pairs: Mapping[str, Sequence[Pair]], work: Path, progress: Progress
) -> dict[str, list[Replies]]:
    """Both replies to every pair. A question that several files give rise to is asked once, identical pairs never."""
    template = Template(spec.prompt, f"{WHERE}.prompt")
    shown = {
        name: [
            () if pair.identical else tuple(template.render(order, number) for order in pair.orders())
            for number, pair in enumerate(own, 1)
        ]
        for name, own in pairs.items()
    }
    asks = {text: question(text) for own in shown.values() for both in own for text in both}
    fits = judge.fits(list(asks.values()), spec.max_new_tokens)
    fitting = [ask for ask, fit in zip(asks.values(), fits, strict=True) if fit]
    if len(fitting) < len(asks):
        progress.warn(
            f"{len(asks) - len(fitting)} of {len(asks)} questions are too long for the judge: their pairs count as "
            f"unreadable; lower {WHERE}.answer_tokens, or name a judge with a longer context"
        )
    with progress.task("judge", len(fitting)) as task:
        written = write_texts(judge, fitting, spec.max_new_tokens, work, "judge", task.advance)
    said = {ask.messages[-1][1]: answer.text for ask, answer in zip(fitting, written, strict=True)}
    return {
        name: [(said.get(both[0]), said.get(both[1])) if both else (None, None) for both in own]
        for name, own in shown.items()
    }


def _document(
    models: Sequence[ModelFile], answers: _Answers, replies: Mapping[str, Sequence[Replies]], seed: int
) -> dict[str, Any]:
    pairs, given, held = answers.pairs, answers.given, answers.held
    outcomes = {
        name: [
            "identical" if pair.identical else outcome_of(*said) for pair, said in zip(own, replies[name], strict=True)
        ]
        for name, own in pairs.items()
    }
    entries = []
    for model in models:
        found = answers.files[model.id]
        entry: dict[str, Any] = {"id": model.id, "scheme": model.scheme, "runtime": model.runtime}
        if isinstance(found, Crash):
            absent = dict.fromkeys(("pairs", "counts", "win_rate", "position_bias", "length_ratio", "cut"))
            entries.append({**entry, **absent, "error": found.words})
            continue
        lengths = [(float(len(pair.student)), float(len(pair.teacher))) for pair in pairs[model.id]]
        ratio = ratio_interval(*map(list, zip(*lengths, strict=True)), seed=seed)
        cut = sum(found[n].finish == "length" for n in given)
        figures = {"length_ratio": ratio and ratio.as_dict(), "cut": cut, "error": None}
        entries.append({**entry, **tally(outcomes[model.id]), **figures})
    return {
        "schema_version": 1,
        "definitions": DEFINITIONS,
        "rows": len(given),
        "unanswered": len(held) - len(given),
        "teacher_cut": sum(answers.teacher[n].finish == "length" for n in given),
        "models": entries,
        "pairs": [
            {
                "row": held[n].id,
                "prompt": plain_prompt(held[n].prompt),
                "reference": plain_answer(held[n].response),
                "teacher": answers.teacher[n].text,
                "students": {
                    name: {
                        "answer": own[at].student,
                        "student_first": replies[name][at][0],
                        "teacher_first": replies[name][at][1],
                        "outcome": outcomes[name][at],
                    }
                    for name, own in pairs.items()
                },
            }
            for at, n in enumerate(given)
        ],
    }


def _facts(document: Mapping[str, Any], endpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What the stage says of judge.json."""
    models = document["models"]
    return {
        "rows": document["rows"],
        "win_rate": {entry["id"]: (entry["win_rate"] or {}).get("value") for entry in models},
        "unreadable": {entry["id"]: (entry["counts"] or {}).get("unreadable") for entry in models},
        **({"endpoint": endpoint} if endpoint else {}),
    }


def _tell(document: Mapping[str, Any], progress: Progress) -> None:
    """A line for each file; a warning where most verdicts could not be read."""
    for entry in document["models"]:
        if entry["error"] is not None:
            continue
        counts = entry["counts"]
        said = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        progress.say(f"  {entry['id']}: {said}")
        if counts["unreadable"] * 2 > entry["pairs"]:
            progress.warn(
                f"{entry['id']}: the judge's verdict could be read in only {entry['pairs'] - counts['unreadable']} of "
                f"{entry['pairs']} pairs: name a stronger judge, or raise {WHERE}.max_new_tokens"
            )
