"""The data: where they come from, how many rows, and what of the test rows was among the others."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Document, Fact, Section, facts, present


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    return present(facts(data_facts(report)))


def data_facts(report: Document) -> list[Fact]:
    """Source, licence, counts and leakage of the data."""
    data = report["data"]
    found = []
    for key in ("source", "revision", "sha256", "licence"):
        if data.get(key):
            found.append(Fact(key, str(data[key])))
    splits = data.get("splits") or {}
    if splits:
        found.append(
            Fact("rows", ", ".join(f"{name} {figures.count(split.get('rows'))}" for name, split in splits.items()))
        )
    if isinstance(data.get("dropped"), dict):
        held = {name: number for name, number in data["dropped"].items() if number}
        said = ", ".join(f"{name.replace('_', ' ')} {figures.count(number)}" for name, number in held.items())
        found.append(Fact("rows left out", said or "none"))
    leakage = report["leakage"]
    if isinstance(leakage, dict):
        for key, value in leakage.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                shown = (
                    figures.count(value) if key in ("test_rows", "exact", "near", "dropped") else figures.number(value)
                )
                found.append(Fact(f"leakage: {key.replace('_', ' ')}", shown))
            elif isinstance(value, str):
                found.append(Fact(f"leakage: {key.replace('_', ' ')}", value))
    return found


SECTION = Section("data", "Data", "Data and leakage", blocks, on_card=True)
