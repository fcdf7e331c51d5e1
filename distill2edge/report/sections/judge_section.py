"""The judge's comparison: wins, losses and ties of every file, and some pairs to look at. Reads JSON alone."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Document, Section, Table, figure, present, row

_LONGEST = 400
"""Characters of a text in the table of samples; judge.json has the whole."""


def judge_summary(judge: Document | None, headline: Document | None) -> Document | None:
    """judge.json without its pairs but for the samples: the first pair of each outcome, of one file.

    Args:
        headline: the report's; its file is shown where it was judged, else the last one that was.
    """
    if judge is None:
        return None
    judged = [str(entry["id"]) for entry in judge["models"] if not entry["error"]]
    quoted = str((headline or {}).get("model"))
    name = quoted if quoted in judged else next(reversed(judged), None)
    first: dict[str, Document] = {}
    for pair in judge["pairs"] if name else []:
        student = pair["students"][name]
        first.setdefault(student["outcome"], {"prompt": pair["prompt"], "teacher": pair["teacher"], **student})
    kept = {key: value for key, value in judge.items() if key != "pairs"}
    return {**kept, "samples": {"model": name, "pairs": list(first.values())}}


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    return present(judge_table(report), judge_samples(report))


def judge_table(report: Document) -> Table | None:
    """A row for each file; None where no judge was asked."""
    judge = report.get("judge")
    if not judge:
        return None
    rows = []
    for entry in judge["models"]:
        if entry["error"]:
            failed = Cell(str(entry["id"]), "mono bad", beside=f"could not be run: {entry['error']}")
            rows.append(row(failed, *[figures.MISSING] * 9))
            continue
        counts = entry["counts"]
        rows.append(
            row(
                Cell(str(entry["id"]), "mono"),
                figure(entry["win_rate"], figures.percent),
                *[
                    figures.count(counts[outcome])
                    for outcome in ("win", "loss", "tie", "identical", "inconsistent", "unreadable")
                ],
                figure(entry["position_bias"], figures.percent),
                figure(entry["length_ratio"]),
            )
        )
    head = [
        "model", "win rate", "wins", "losses", "ties", "identical", "inconsistent", "unreadable", "position bias",
        "length ratio",
    ]  # fmt: skip
    return Table(f"Judged by {_public(str(judge['judge']['model']))}", head, rows, note=_note(judge))


def judge_samples(report: Document) -> Table | None:
    """The first pair of each outcome of one file, with what the judge said."""
    samples = (report.get("judge") or {}).get("samples") or {}
    if not samples.get("pairs"):
        return None
    rows = [
        row(
            Cell(_short(pair["prompt"]), "small"),
            Cell(_short(pair["teacher"]), "small"),
            Cell(_short(pair["answer"]), "small"),
            Cell(str(pair["outcome"]), "small", beside=_replies(pair)),
        )
        for pair in samples["pairs"]
    ]
    head = ["prompt", "teacher", str(samples["model"]), "outcome for the student"]
    note = "The first pair of each outcome, with the judge's replies: first with the student shown as A, then as B."
    return Table("Judged pairs", head, rows, left=4, note=note)


def _note(judge: Document) -> str:
    spec = judge["judge"]
    said = (
        f"{figures.count(judge['rows'])} held-out prompts, answered greedily with at most "
        f"{figures.count(spec['answer_tokens'])} tokens (answers of the teacher that were cut there: "
        f"{figures.count(judge['teacher_cut'])}). Each pair is judged in both orders: a win or a loss where both "
        "orders agree, else a tie. Inconsistent: the verdict changes with the order. Identical answers count as "
        "a tie and are not judged. Unreadable: a reply names no verdict, or several; the pair is not counted. "
        "Win rate: (wins + half of all ties) / readable pairs, with its 95% interval over pairs; 50% is level "
        "with the teacher. Position bias: inconsistent / readable judged pairs. Length ratio: characters of the "
        "student's answers / the teacher's."
    )
    if judge["unanswered"]:
        said += f" The teacher gave no answer to {figures.count(judge['unanswered'])} further prompts."
    for who in spec["akin"]:
        said += f" The judge is the {who}'s own model, and models favour their own answers."
    return said


def _public(model: str) -> str:
    """A judge's name without the folders of this machine."""
    return model.rsplit("/", 1)[-1] if model.startswith((".", "/", "~")) or model.endswith(".gguf") else model


def _replies(pair: Document) -> str:
    both = (pair["student_first"], pair["teacher_first"])
    return " / ".join("not asked" if said is None else _short(said) or "nothing" for said in both)


def _short(value: Any) -> str:
    said = " ".join(str(value).split())
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."


SECTION = Section("judge", "Judge", "The student's answers against the teacher's", blocks, on_card=True)
