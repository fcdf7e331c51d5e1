"""What 1,000 requests cost in every cell of the bench, at every place that its speed says something about."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill2edge.cost import formulas
from distill2edge.cost.catalogue import Device, Rented
from distill2edge.cost.saving import Cell, role_of
from distill2edge.cost.serving_places import Quote, Spot, Tokens
from distill2edge.recipe import schema
from distill2edge.recipe.costs import RequestTokens


@dataclass(frozen=True)
class Boxes:
    """Where each side is served."""

    teacher: Spot
    student: Spot

    @property
    def same(self) -> Spot:
        """The one box that both are compared on; an API is no box."""
        return self.student if self.teacher.kind == "api" else self.teacher

    @property
    def all(self) -> dict[str, Spot]:
        """By id."""
        return {spot.id: spot for spot in (self.teacher, self.student)}

    def of(self, role: str) -> set[str]:
        """Ids of the places where a model of this role is priced."""
        return {self.same.id, (self.student if role == "student" else self.teacher).id}


def priced_cells(
    cost: schema.Cost, boxes: Boxes, bench: Mapping[str, Any], workload: str, tokens: Tokens, notes: list[str]
) -> list[Cell]:
    """Every cell of the bench at each of its role's places; first the API, where the teacher is at one.

    Args:
        workload: name of the one that is priced.
        tokens: of one request, for an API.
        notes: told where the teacher measured here is not the one that is paid for.
    """
    machine = {**bench.get("machine", {}), "threads": bench.get("threads")}
    measured = bench.get("cells", [])
    cells = [
        priced
        for cell in measured
        for spot in boxes.all.values()
        if spot.id in boxes.of(role_of(str(cell.get("model"))))
        and spot.kind != "api"
        and (priced := _price(cell, spot, workload, cost.utilisation, machine, cost.requests_per_month)) is not None
    ]
    if boxes.teacher.kind == "api":
        if any(role_of(str(cell.get("model"))) == "teacher" for cell in measured):
            notes.append(f"the teacher measured here is not {boxes.teacher.label}, whose quality was not measured")
        cells.insert(0, _price_api(boxes.teacher, tokens, cost.utilisation))
    return cells


def count_tokens(given: RequestTokens | None, workload: Mapping[str, Any], teacher: Spot, notes: list[str]) -> Tokens:
    """Tokens of one request: the recipe's, else as the bench counted them; a doubt about them goes to `notes`."""
    if given is not None:
        counted = Tokens(given.input, given.cached, given.output, given.counted_with)
    else:
        counted = Tokens(
            float(workload.get("prompt_tokens") or 0),
            0.0,
            float(workload.get("output_tokens") or 0),
            "the teacher's tokenizer",
        )
    if teacher.kind == "api":
        wanted = getattr(teacher.entry, "tokenizer", None)
        if wanted is None or counted.counted_with != wanted:
            notes.append(
                f"API tokens were counted with {counted.counted_with}, not with the tokenizer of {teacher.label}: "
                "expect the true count to differ, often by 10 to 30%"
            )
    return counted


def _price(
    cell: dict[str, Any], spot: Spot, workload: str, utilisation: float, machine: dict[str, Any], volume: int
) -> Cell | None:
    """One measured cell at one place; None where it says nothing about that place."""
    role = role_of(str(cell.get("model", "")))
    if cell.get("error") or role == "control" or not spot.runs(str(cell.get("device", "cpu"))):
        return None
    speed = ((cell.get("workloads") or {}).get(workload) or {}).get("requests_per_s") or {}
    rate = speed.get("value")
    if not rate or rate <= 0:
        return None
    here: Quote = spot.quote(rate, utilisation)
    busy = formulas.implied_utilisation(volume, rate)
    return {
        "cell": cell["id"],
        "model": cell["model"],
        "place": spot.id,
        "label": spot.label,
        "requests_per_s": rate,
        "cost_per_1000": {f"{u:g}" if u < 1 else "1.0": spot.quote(rate, u).value for u in formulas.UTILISATIONS},
        "at_utilisation": here.value,
        "low": here.low,
        "high": here.high,
        "implied_utilisation": busy,
        # As many boxes as the volume takes, which serve nothing else.
        "alone_per_1000": spot.quote(rate, busy / max(math.ceil(busy), 1)).value,
        "contended": bool(cell.get("contended")),
        "speed_note": _speed_note(spot, machine),
    }


def _speed_note(spot: Spot, machine: dict[str, Any]) -> str:
    """That the speed is that of the bench machine."""
    threads = machine.get("threads") or machine.get("usable_threads") or machine.get("cores")
    measured = f"{machine.get('cpu') or 'unknown processor'}{f', {threads} threads' if threads else ''}"
    if isinstance(spot.entry, Device):
        return f"{spot.label}: speed measured on this machine ({measured}), not on the device"
    if isinstance(spot.entry, Rented) and spot.entry.kind == "cpu" and threads == spot.entry.vcpus:
        return f"{spot.label}: speed measured on this machine ({measured}), with as many threads as it has vCPUs"
    return f"{spot.label}: speed measured on this machine ({measured}), not on that type"


def _price_api(spot: Spot, tokens: Tokens, utilisation: float) -> Cell:
    quote = spot.quote_tokens(tokens)
    return {
        "cell": spot.id,
        "model": "teacher",
        "place": spot.id,
        "label": spot.label,
        "requests_per_s": None,
        # An API bills by the request: idling costs nothing.
        "cost_per_1000": {f"{u:g}" if u < 1 else "1.0": quote.value for u in formulas.UTILISATIONS},
        "at_utilisation": quote.value,
        "low": quote.low,
        "high": quote.high,
        "implied_utilisation": None,
        "alone_per_1000": quote.value,
        "contended": False,
        "speed_note": "",
    }
