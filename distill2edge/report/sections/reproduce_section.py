"""How to make the run again: command, machine, versions, stages, formulas and the recipe."""

from __future__ import annotations

import json

from distill2edge.report import figures
from distill2edge.report.blocks import (
    Block,
    Cell,
    Details,
    Document,
    Fact,
    Facts,
    Listing,
    Section,
    Table,
    facts,
    present,
    row,
)
from distill2edge.report.sections.speed_section import formulas


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    command, recipe = report["reproduce"]["command"], report["reproduce"]["recipe"]
    definitions = formula_facts(report)
    return present(
        Listing(str(command), is_command=True) if command else None,
        facts(environment_facts(report)),
        stages_table(report),
        Details("Formulas", (Facts(tuple(definitions)),)) if definitions else None,
        Details("The recipe, with every default", (Listing(json.dumps(recipe, indent=2, ensure_ascii=False)),))
        if recipe
        else None,
    )


def environment_facts(report: Document) -> list[Fact]:
    """The machine and the versions."""
    environment = report["environment"]
    machine = environment.get("bench_machine") or environment.get("machine") or {}
    found = []
    for key, value in machine.items():
        if key == "versions" or value in (None, [], ""):
            continue
        if key.endswith("_bytes"):
            found.append(Fact(key.removesuffix("_bytes").replace("_", " "), figures.size(value)))
        elif isinstance(value, list):
            found.append(Fact(key.replace("_", " "), ", ".join(map(str, value))))
        elif not isinstance(value, dict):
            found.append(Fact(key.replace("_", " "), str(value)))
    bench = report["bench"]
    if bench:
        found.append(Fact("threads", figures.count(bench.get("threads"))))
        found.append(Fact("fresh processes per cell", figures.count(bench.get("rounds"))))
    versions = machine.get("versions") or environment.get("versions") or {}
    if versions:
        found.append(Fact("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if report.get("seed") is not None:
        found.append(Fact("seed", str(report["seed"])))
    return found


def formula_facts(report: Document) -> list[Fact]:
    """How the figures of bench and cost are defined."""
    found: dict[str, str] = {**formulas(report), **((report["cost"] or {}).get("formulas") or {})}
    return [Fact(name.replace("_", " "), formula, is_code=True) for name, formula in found.items()]


def stages_table(report: Document) -> Table | None:
    """Wall time, as first computed, and key of each stage."""
    rows = [
        row(
            str(stage.get("stage")),
            figures.seconds(stage.get("wall_s")),
            Cell(str(stage.get("key", ""))[:16], "mono"),
        )
        for stage in report["stages"]
    ]
    return Table("Stages", ["stage", "wall time", "key"], rows) if rows else None


SECTION = Section("reproduce", "Reproduce", "Reproduce it", blocks)
