"""The gates: a row for each model, a column for each gate."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Code, Document, Paragraph, Section, Table, row, verdict_cell

GATES = {
    "loads": "loads and runs",
    "min_retained": "quality kept",
    "max_kl": "KL to student",
    "min_top1": "top-1 agreement",
    "min_ndcg_retained": "nDCG at 10 retained",
    "min_length": "answer length",
    "max_length": "answer length",
}


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    none = Paragraph(
        ("The recipe sets no gates, and none apply by default. Set ", Code("verify.min_retained"), " or ",
         Code("verify.max_kl"), " to require a minimum of the files.")
    )  # fmt: skip
    return [gates_table(report) or none]


def gates_table(report: Document) -> Table | None:
    """A row for each model, a column for each gate; failures first."""
    gates = report["gates"]
    if not gates:
        return None
    columns = list(dict.fromkeys((gate["name"], gate["op"], gate["target"]) for gate in gates))
    defaults = {(gate["name"], gate["op"], gate["target"]) for gate in gates if gate.get("default")}
    by_model: dict[str, dict[Any, Document]] = {}
    for gate in gates:
        by_model.setdefault(str(gate["model"]), {})[(gate["name"], gate["op"], gate["target"])] = gate
    rows = []
    for model, own in by_model.items():
        passed = all(gate.get("passed") for gate in own.values())
        rows.append(
            row(Cell(model, "mono"), *[_gate_cell(own.get(column)) for column in columns], verdict_cell(passed))
        )
    sign = {">=": "at least", "<=": "at most"}
    heads = [
        GATES.get(name, str(name).replace("_", " "))
        + ("" if name == "loads" else f", {sign.get(op, op)} {figures.tick(target)}")
        + (" (default)" if (name, op, target) in defaults else "")
        for name, op, target in columns
    ]
    rows.sort(key=lambda cells: cells[-1].kind != "bad")
    return Table("", ["model", *heads, "result"], rows)


def _gate_cell(gate: Document | None) -> Cell:
    if gate is None:
        return Cell(figures.MISSING, "weak")
    if gate["name"] == "loads":
        return Cell("yes" if gate["passed"] else "no", "" if gate["passed"] else "bad")
    return Cell(figures.number(gate.get("value")), "" if gate["passed"] else "bad")


SECTION = Section("gates", "Gates", "Gates", blocks, on_card=True)
