"""The synthetic rows: what the ledger says of them."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Code, Document, Fact, Facts, Paragraph, Section

NOT_DISTILLATION = "not distillation"


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    found = ledger_facts(report)
    if not found:
        return []
    where = Paragraph(
        ("Every generated row, kept or dropped, is in the ledger: ", Code("distill2edge data show RUN"), ".")
    )
    return [where, Facts(tuple(found))]


def ledger_facts(report: Document) -> list[Fact]:
    """The synthetic rows: how many were kept, why others were not, by which method, and whether it is distillation."""
    found = []
    for stage, rows in (report.get("ledgers") or {}).items():
        head = f"{stage}: "
        dropped = ", ".join(f"{reason} {figures.count(number)}" for reason, number in rows["dropped"].items())
        methods = ", ".join(f"{name} {figures.count(number)}" for name, number in rows["methods"].items())
        found += [
            Fact(f"{head}rows kept", f"{figures.count(rows['kept'])} of {figures.count(rows['rows'])}"),
            Fact(f"{head}rows dropped", dropped or "none"),
            Fact(f"{head}methods", methods),
        ]
        human = int(rows["not_distillation"])
        taught = int(rows["kept"]) - human
        said = f"{figures.count(taught)} kept rows are responses of the teacher"
        if human:
            said += (
                f"; {figures.count(human)} are {NOT_DISTILLATION}: human texts with instructions that the teacher "
                "wrote for them"
            )
        found.append(Fact(f"{head}distillation", said))
        highest = (rows.get("overlap") or {}).get("highest")
        if highest is not None:
            found.append(Fact(f"{head}highest overlap with a test row", figures.number(highest)))
        if rows.get("cost_usd"):
            found.append(Fact(f"{head}paid to the endpoint", figures.usd(rows["cost_usd"])))
        for name, counts in (rows.get("verifiers") or {}).items():
            said = f"accepted {figures.count(counts['accepted'])}, refused {figures.count(counts['refused'])}"
            found.append(Fact(f"{head}verifier {name}", said))
    return found


SECTION = Section("synthetic", "Synthetic rows", "Synthetic rows", blocks, on_card=True)
