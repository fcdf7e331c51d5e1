"""cost.json: the cost of 1,000 requests at the measured speed, the break-even, and what would erase the saving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill2edge.bench.main_workload import main_workload
from distill2edge.cost import formulas
from distill2edge.cost.catalogue import Catalogue
from distill2edge.cost.priced_cells import Boxes, count_tokens, priced_cells
from distill2edge.cost.saving import Cell, admitted, choose, comparison, pair
from distill2edge.cost.serving_places import Spot, catalogue_of, spots
from distill2edge.recipe import schema
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
    boxes = Boxes(*spots(recipe_cost, catalogue))
    notes: list[str] = []
    workload = main_workload(bench) or {}
    counted = count_tokens(recipe_cost.tokens, workload, boxes.teacher, notes)
    cells = priced_cells(recipe_cost, boxes, bench, str(workload.get("name", "")), counted, notes)
    good = admitted(verify)

    def side(role: str, spot: Spot) -> list[Cell]:
        return choose(cells, role, spot.id, spot.label, good, notes)

    same_box = side("teacher", boxes.same), side("student", boxes.same)
    best_box = side("teacher", boxes.teacher), side("student", boxes.student)
    four = _four_cells(pair(*same_box, notes), pair(*best_box, notes))
    one_off = _one_off(recipe_cost, catalogue, seconds, paid or {})
    notes += [cell["speed_note"] for cell in cells if cell["speed_note"]]
    volume = recipe_cost.requests_per_month
    compared = comparison(best_box, same_box, verify.get("models", []), one_off["total_usd"], volume, notes)
    return {
        "schema_version": SCHEMA_VERSION,
        "prices": _prices(boxes.all, catalogue, one_off),
        "workload": str(workload.get("name", "")),
        "tokens": vars(counted),
        "utilisation": recipe_cost.utilisation,
        "requests_per_month": volume,
        "cells": cells,
        "four_cells": four,
        "one_off": one_off,
        "comparison": compared,
        "formulas": dict(formulas.FORMULAS),
        "notes": list(dict.fromkeys(notes)),
    }


def _four_cells(near: tuple[Cell | None, Cell | None], far: tuple[Cell | None, Cell | None]) -> dict[str, Any]:
    """Teacher and student, each on the same box and on its own, so that a smaller model is not confused with a cheaper
    machine."""
    return {
        "teacher_same_box": _brief(near[0]),
        "student_same_box": _brief(near[1]),
        "teacher_best_box": _brief(far[0]),
        "student_best_box": _brief(far[1]),
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


def _prices(places: Mapping[str, Spot], catalogue: Catalogue, one_off: dict[str, Any]) -> dict[str, Any]:
    """Each price used, and the date that the comparison is worth: that of the oldest price in it."""
    used = {spot.id: spot.as_entry() for spot in places.values()}
    if one_off["machine"] not in used:
        name = one_off["machine"].removeprefix("rented:")
        used[one_off["machine"]] = Spot("rented", name, catalogue.rented[name], catalogue).as_entry()
    entries, dates = list(used.values()), [spot.entry.as_of for spot in places.values()]
    if any(spot.kind == "device" for spot in places.values()):
        dates.append(catalogue.electricity.as_of)
        names = {"id": "electricity", "kind": "electricity", "name": "electricity", "label": "Electricity"}
        entries.append({**names, **catalogue.electricity.model_dump(mode="json")})
    return {
        "as_of": min(dates).isoformat(),
        "catalogue_as_of": catalogue.as_of.isoformat(),
        "source": catalogue.origin,
        "entries_used": entries,
    }
