"""The sections of a report, in the one order that page, navigation, Markdown and model card share.

A new section is a module that makes a `Section`, and its line here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distill2edge.report.blocks import Block, Section
from distill2edge.report.sections import (
    cost_section,
    data_section,
    devices_section,
    files_section,
    frontier_section,
    gates_section,
    judge_section,
    labels_section,
    licence_section,
    quality_section,
    reproduce_section,
    rounds_section,
    speed_section,
    synthetic_section,
    training_section,
)

SECTIONS: tuple[Section, ...] = (
    gates_section.SECTION,
    frontier_section.SECTION,
    files_section.SECTION,
    quality_section.SECTION,
    judge_section.SECTION,
    speed_section.SECTION,
    devices_section.SECTION,
    cost_section.SECTION,
    rounds_section.SECTION,
    training_section.SECTION,
    licence_section.SECTION,
    data_section.SECTION,
    labels_section.SECTION,
    synthetic_section.SECTION,
    reproduce_section.SECTION,
)


def shown(report: dict[str, Any], sections: Sequence[Section] = SECTIONS) -> list[tuple[Section, list[Block]]]:
    """The sections that have something to show, each with its blocks."""
    return [(section, blocks) for section in sections if (blocks := section.blocks(report))]
