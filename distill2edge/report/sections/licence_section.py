"""The teacher's licence, as the gate recorded it."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Document, Fact, Section, facts, present

LICENCE = {
    "accepted": "accepted against the verdict, because",
    "derivative": "the student is made from the teacher's own weights",
    "basis": "how the terms are known",
    "read": "terms read on",
    "declared": "declared as",
    "others": "other declarations",
    "name_prefix": "the student's name must begin with",
}


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    return present(facts(licence_facts(report)))


def licence_facts(report: Document) -> list[Fact]:
    """The teacher's licence record."""
    found = []
    for key, value in report["licence"].items():
        said = "; ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)
        found.append(Fact(LICENCE.get(key, key.replace("_", " ")), said, figures.web_address(value)))
    return found


SECTION = Section("licence", "Licence", "Licence of the teacher", blocks, on_card=True)
