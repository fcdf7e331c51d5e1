"""The labels of a teacher that is asked: how, what it said, and how far that is right."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Document, Fact, Facts, Section, Table, filled, row

_HOW = {
    "likelihood": "the likelihood of each answer, by the teacher itself",
    "logprobs": "log-probabilities of the first token, by the endpoint",
    "samples": "answers of the endpoint, counted",
}


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    labels = report.get("labels") or {}
    return [Facts(tuple(_facts(labels))), *_corrections(labels)] if labels else []


def _facts(labels: Document) -> list[Fact]:
    said = ", ".join(f"{name} {figures.count(number)}" for name, number in labels["said"].items())
    found = [
        Fact("soft labels", _HOW[labels["asked_by"]]),
        Fact("texts", figures.count(labels["texts"])),
        Fact("what the teacher says", said),
    ]
    if labels.get("accuracy") is not None:
        found.append(Fact("right, of the texts that have a response", figures.percent(labels["accuracy"])))
    correction = labels["correction"]
    found.append(Fact("correction", correction["name"] + (", per token" if correction["lengths"] else "")))
    if labels["left_out"]:
        found.append(Fact("texts left out", figures.count(labels["left_out"])))
    if labels.get("unreadable"):
        share = figures.percent(labels["unreadable"] / labels["answers"])
        unread = f"{figures.count(labels['unreadable'])} of {figures.count(labels['answers'])} ({share})"
        found.append(Fact("answers that are none of the choices, or several", unread))
    if labels.get("usd"):
        found.append(Fact("paid to the endpoint", figures.usd(labels["usd"])))
    return found


def _corrections(labels: Document) -> list[Table]:
    rows = [
        row(each["correction"], figures.percent(each["accuracy"]), figures.number(each["nll"]))
        for each in labels["corrections"]
    ]
    note = "On the validation rows that have a response; what is fitted was tried on rows it had not seen."
    return [filled("Corrections that were tried", ["correction", "accuracy", "NLL"], rows, note)] if rows else []


SECTION = Section("labels", "Labels", "Labels by the teacher", blocks)
