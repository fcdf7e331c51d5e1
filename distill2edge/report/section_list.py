"""The sections of a report, in one order for the page, its navigation and the Markdown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Section:
    """One section; it is left out where there is nothing to show."""

    anchor: str
    name: str
    heading: str


SECTIONS = (
    Section("gates", "Gates", "Gates"),
    Section("frontier", "Quality, speed, size", "Quality against speed and size"),
    Section("files", "Files", "The files that ship"),
    Section("quality", "Quality", "Quality"),
    Section("judge", "Judge", "The student's answers against the teacher's"),
    Section("speed", "Speed", "Speed and memory"),
    Section("cost", "Cost", "Cost"),
    Section("rounds", "Rounds", "Rounds of self-training"),
    Section("training", "Training", "Training"),
    Section("licence", "Licence", "Licence of the teacher"),
    Section("data", "Data", "Data and leakage"),
    Section("synthetic", "Synthetic rows", "Synthetic rows"),
    Section("reproduce", "Reproduce", "Reproduce it"),
)
