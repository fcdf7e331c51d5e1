"""cost.json: the cost of 1,000 requests at the measured speed, the break-even, and what would erase the saving."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distill2edge.cost import formulas
from distill2edge.cost.catalogue import Catalogue, Device, Rented
from distill2edge.cost.saving import Cell, admitted, choose, comparison, pair, role_of
from distill2edge.cost.serving_places import Quote, Spot, Tokens, catalogue_of, spots
from distill2edge.recipe import schema
from distill2edge.recipe.costs import RequestTokens
from distill2edge.util.quantities import readable_usd

SCHEMA_VERSION = 1
SUMS = ("teacher_generation", "training", "export", "evaluation")
"""The one-off sums that every stage's time belongs to one of."""


def build_cost(
    recipe_cost: schema.Cost,
    bench: dict[str, Any],
    verify: dict[str, Any],
    seconds: Mapping[str, float],
    paid: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The cost document of one run.

    Args:
        recipe_cost: the `cost` section of the recipe.
        bench: bench.json.
        verify: verify.json; its gates say which files may be compared.
        seconds: wall seconds of each of `SUMS`, as first computed (a cached stage keeps its own time).
        paid: US dollars that an endpoint was paid, of each of them.

    Returns:
        cost.json, schema version 1. `cells` holds one entry for each model and place that can be priced;
        `four_cells` and `comparison` are null where there is nothing to compare, with the reason in `notes`.

    Raises:
        UserError: a place that the catalogue does not know, or a bad price file.
    """
    catalogue = catalogue_of(recipe_cost)
    teacher_spot, student_spot = spots(recipe_cost, catalogue)
    notes: list[str] = []
    workload = _workload(bench)
    name = str(workload.get("name", ""))
    counted = _tokens(recipe_cost.tokens, workload, teacher_spot, notes)
    same_spot = student_spot if teacher_spot.kind == "api" else teacher_spot

    machine = {**bench.get("machine", {}), "threads": bench.get("threads")}
    places = {spot.id: spot for spot in (teacher_spot, student_spot, same_spot)}
    utilisation = recipe_cost.utilisation
    cells = [
        priced
        for cell in bench.get("cells", [])
        for spot in places.values()
        if spot.id
        in (same_spot.id, (student_spot if role_of(str(cell.get("model"))) == "student" else teacher_spot).id)
        and spot.kind != "api"
        and (priced := _price(cell, spot, name, utilisation, machine, recipe_cost.requests_per_month)) is not None
    ]
    if teacher_spot.kind == "api":
        if any(role_of(str(cell.get("model"))) == "teacher" for cell in bench.get("cells", [])):
            notes.append(f"the teacher measured here is not {teacher_spot.label}, whose quality was not measured")
        cells.insert(0, _price_api(teacher_spot, counted, utilisation))

    good = admitted(verify)

    def side(role: str, spot: Spot) -> list[Cell]:
        return choose(cells, role, spot.id, spot.label, good, notes)

    same_box = side("teacher", same_spot), side("student", same_spot)
    best_box = side("teacher", teacher_spot), side("student", student_spot)
    near, far = pair(*same_box, notes), pair(*best_box, notes)
    four = {
        "teacher_same_box": near[0],
        "student_same_box": near[1],
        "teacher_best_box": far[0],
        "student_best_box": far[1],
    }
    one_off = _one_off(recipe_cost, catalogue, seconds, paid or {})
    for cell in cells:
        if cell.get("speed_note") and cell["speed_note"] not in notes:
            notes.append(cell["speed_note"])
    return {
        "schema_version": SCHEMA_VERSION,
        "prices": {
            "as_of": _oldest(places.values(), catalogue),
            "catalogue_as_of": catalogue.as_of.isoformat(),
            "source": catalogue.origin,
            "entries_used": _entries(places, catalogue, one_off),
        },
        "workload": name,
        "tokens": vars(counted),
        "utilisation": utilisation,
        "requests_per_month": recipe_cost.requests_per_month,
        "cells": cells,
        "four_cells": {key: _brief(cell) for key, cell in four.items()},
        "one_off": one_off,
        "comparison": comparison(
            best_box, same_box, verify.get("models", []), one_off["total_usd"], recipe_cost.requests_per_month, notes
        ),
        "formulas": dict(formulas.FORMULAS),
        "notes": list(dict.fromkeys(notes)),
    }


def _workload(bench: dict[str, Any]) -> dict[str, Any]:
    """The user's own task where it was measured, else the first workload."""
    workloads: list[dict[str, Any]] = bench.get("workloads", [])
    task = [workload for workload in workloads if workload.get("name") == "task"]
    return (task or workloads or [{}])[0]


def _tokens(given: RequestTokens | None, workload: dict[str, Any], teacher: Spot, notes: list[str]) -> Tokens:
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
    """Say aloud that the speed is that of the bench machine."""
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


def _brief(cell: Cell | None) -> dict[str, Any] | None:
    if cell is None:
        return None
    return {
        "cell": cell["cell"],
        "place": cell["place"],
        "label": cell["label"],
        "cost_per_1000": cell["at_utilisation"],
        "low": cell["low"],
        "high": cell["high"],
    }


def _one_off(
    recipe_cost: schema.Cost, catalogue: Catalogue, spent: Mapping[str, float], paid: Mapping[str, float]
) -> dict[str, Any]:
    """F: the seconds of each stage at the price of a rented machine."""
    names = [place.rented for place in (recipe_cost.teacher, recipe_cost.student) if place.rented]
    name = names[0] if names else "cpu-2-vcpu"
    machine = catalogue.rented_machine(name)
    seconds = {name: spent.get(name, 0.0) for name in SUMS}
    hourly = machine.usd_per_hour.value
    usd = {name: each / formulas.SECONDS_PER_HOUR * hourly + paid.get(name, 0.0) for name, each in seconds.items()}
    total = sum(paid.values())
    bill = f"; and {readable_usd(total)} paid to the teacher's endpoint" if total else ""
    return {
        **{f"{bucket}_usd": amount for bucket, amount in usd.items()},
        "total_usd": sum(usd.values()),
        "seconds": {**seconds, "total": sum(seconds.values())},
        "machine": f"rented:{name}",
        "note": f"machine time at the price of {machine.label}{bill}; people's time is not counted",
    }


def _entries(places: dict[str, Spot], catalogue: Catalogue, one_off: dict[str, Any]) -> list[dict[str, Any]]:
    used = {spot.id: spot.as_entry() for spot in places.values()}
    if one_off["machine"] not in used:
        name = one_off["machine"].removeprefix("rented:")
        used[one_off["machine"]] = Spot("rented", name, catalogue.rented[name], catalogue).as_entry()
    entries = list(used.values())
    if any(spot.kind == "device" for spot in places.values()):
        entries.append(
            {
                "id": "electricity",
                "kind": "electricity",
                "name": "electricity",
                "label": "Electricity",
                **catalogue.electricity.model_dump(mode="json"),
            }
        )
    return entries


def _oldest(places: Any, catalogue: Catalogue) -> str:
    """The date that the comparison is worth: the oldest price in it."""
    dates = [spot.entry.as_of for spot in places]
    if any(spot.kind == "device" for spot in places):
        dates.append(catalogue.electricity.as_of)
    return str(min(dates).isoformat())
