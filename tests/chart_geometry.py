"""Read a chart back: where its texts, lines and marks are, and which of them lie on one another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

from distill2edge.report.label_places import Box, Segment
from distill2edge.report.svg import LABEL, TICK, WIDTH, text_width

DRAWN = {"series", "frontier", "whisker", "gate", "level", "leader"}
"""Classes of the lines that carry something; the grid and the axes lie under everything."""


@dataclass(frozen=True)
class Text:
    """One text with its room."""

    said: str
    kind: str
    box: Box


class Chart:
    """Texts, lines and marks of one SVG."""

    def __init__(self, svg: Any) -> None:
        root = ElementTree.fromstring(str(svg))
        self.height = float(root.attrib["viewBox"].split()[3])
        self.texts: list[Text] = []
        self.lines: list[tuple[str, Segment]] = []
        self.marks: list[Box] = []
        for node in root:
            classes = node.attrib.get("class", "").split()
            if node.tag == "text":
                self.texts.append(_text(node, classes))
            elif "mark" in classes:
                self.marks.append(_mark(node))
            elif DRAWN & set(classes):
                self.lines += [(classes[0], line) for line in _lines(node)]

    def faults(self) -> list[str]:
        """What lies on what; empty in a chart that can be read."""
        found = []
        for index, text in enumerate(self.texts):
            for other in self.texts[index + 1 :]:
                if text.box.meets(other.box):
                    found.append(f"{text.said!r} on {other.said!r}")
            found += [f"{text.said!r} on a {kind} line" for kind, line in self.lines if text.box.crossed(line)]
            found += [f"{text.said!r} on a mark" for mark in self.marks if text.box.meets(mark)]
            if text.box.left < -8 or text.box.right > WIDTH + 12 or text.box.top < -1 or text.box.bottom > self.height:
                found.append(f"{text.said!r} is cut")
        return found


def _text(node: ElementTree.Element, classes: list[str]) -> Text:
    said, x, y = node.text or "", float(node.attrib["x"]), float(node.attrib["y"])
    size = LABEL if "label" in classes else TICK
    wide = text_width(said, size)
    left = {"start": x, "end": x - wide, "middle": x - wide / 2}[node.attrib["text-anchor"]]
    return Text(said, classes[0], Box(left, y - 0.8 * size, left + wide, y + 0.22 * size))


def _mark(node: ElementTree.Element) -> Box:
    get = {key: float(value) for key, value in node.attrib.items() if key in {"x", "y", "cx", "cy"}}
    if node.tag == "rect":
        x, y = get["x"] + 5, get["y"] + 5
    elif node.tag == "circle":
        x, y = get["cx"], get["cy"]
    else:
        x, y = (float(number) for number in re.findall(r"[\d.-]+", node.attrib["d"])[:2])
        y += 6
    return Box(x - 5, y - 5, x + 5, y + 5)


def _lines(node: ElementTree.Element) -> list[Segment]:
    if node.tag == "line":
        return [tuple(float(node.attrib[key]) for key in ("x1", "y1", "x2", "y2"))]  # type: ignore[list-item]
    numbers = [float(number) for number in re.findall(r"[\d.-]+", node.attrib["d"])]
    points = list(zip(numbers[::2], numbers[1::2], strict=True))
    return [(*a, *b) for a, b in pairwise(points)]
