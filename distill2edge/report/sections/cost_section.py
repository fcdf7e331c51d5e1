"""What 1,000 requests cost, what is saved, and how sure that is."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.report.blocks import (
    Block,
    Cell,
    Document,
    Notes,
    Paragraph,
    Section,
    Table,
    beside,
    chart,
    present,
    row,
)
from distill2edge.report.cost_words import cost_sentences
from distill2edge.report.curves import break_even_chart, cost_chart
from distill2edge.util.quantities import readable_share


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    cost = report["cost"]
    if not cost:
        return []
    kind = "warning" if cost.get("withheld") else ""
    return present(
        *[Paragraph((sentence,), kind) for sentence in cost_sentences(report)],
        beside(
            chart(
                cost_chart(cost),
                "Cost of 1,000 requests by utilisation",
                "An idle machine costs the same.",
            ),
            chart(
                break_even_chart(cost),
                "When the student has paid for itself",
                "Both at the utilisation of the recipe; the student starts at what it cost to make.",
            ),
        ),
        four_table(report),
        busy_table(report),
        price_cut_table(report),
        cost_table(report),
        prices_table(report),
        _sources(cost),
        Notes(tuple(map(str, cost["notes"]))) if cost.get("notes") else None,
    )


def _sources(cost: Document) -> Paragraph | None:
    """Where the prices are from, and what the one-off cost counts."""
    prices, one_off = cost.get("prices"), cost.get("one_off") or {}
    if not prices:
        return None
    said = f"Prices: {prices['source']}, the oldest as of {prices['as_of']}."
    said += f" One-off cost: {one_off['note']}." if one_off.get("note") else ""
    return Paragraph((said,), "note")


def cost_table(report: Document) -> Table | None:
    """US dollars for 1,000 requests of every cell and place."""
    cost = report["cost"] or {}
    cells = cost.get("cells") or []
    if not cells:
        return None
    names = list(cells[0]["cost_per_1000"])
    rows = [
        row(
            Cell(str(cell["cell"]), "mono"),
            str(cell["label"]),
            figures.number(cell.get("requests_per_s")),
            *[figures.usd(cell["cost_per_1000"].get(name)) for name in names],
            f"{figures.usd(cell.get('low'))} to {figures.usd(cell.get('high'))}",
            figures.percent(cell.get("implied_utilisation")),
        )
        for cell in cells
    ]
    head = ["cell", "priced as", "requests/s", *[f"{readable_share(float(name))} busy" for name in names],
            f"price bounds at {readable_share(cost.get('utilisation', 0))}", "busy at your volume"]  # fmt: skip
    note = (
        f"US dollars per 1,000 requests of workload {cost.get('workload')}. Your volume is "
        f"{figures.count(cost.get('requests_per_month'))} requests a month; above 100% busy one machine is not enough."
    )
    return Table("Cost of 1,000 requests", head, rows, left=2, note=note)


FOUR = {
    "teacher_same_box": "teacher, same box",
    "student_same_box": "student, same box",
    "teacher_best_box": "teacher, its own box",
    "student_best_box": "student, its own box",
}


def four_table(report: Document) -> Table | None:
    """The four cells: a smaller model is not to be confused with a cheaper machine."""
    cost = report["cost"] or {}
    four = cost.get("four_cells") or {}
    if not any(four.values()):
        return None
    rows = []
    for key, name in FOUR.items():
        cell = four.get(key)
        if cell is None:
            rows.append(row(name, Cell("nothing to compare", "weak"), figures.MISSING, figures.MISSING))
        else:
            rows.append(
                row(name, Cell(str(cell["cell"]), "mono"), str(cell.get("label") or cell["place"]),
                    figures.usd(cell["cost_per_1000"]))
            )  # fmt: skip
    return Table(
        "Four cells", ["which", "cell", "box", f"at {readable_share(cost.get('utilisation', 0))} busy"], rows, left=3
    )


def busy_table(report: Document) -> Table | None:
    """The comparison at every utilisation. What is the same at all of them is said once, under the table."""
    comparison = (report["cost"] or {}).get("comparison") or {}
    found: dict[str, Document] = comparison.get("by_utilisation") or {}
    if not found:
        return None
    savings = {figures.percent(at["saving"]) for at in found.values()}
    note = ""
    if len(savings) == 1:
        note = f"Saved: {savings.pop()} at each of them. "
    rows = []
    for u, at in found.items():
        cells = [
            f"{readable_share(float(u))}",
            figures.usd(at["teacher_per_1000"]),
            figures.usd(at["student_per_1000"]),
            figures.percent(at["saving"]),
            _requests(at["break_even_requests"]),
        ]
        rows.append(row(*(cells[:3] + cells[4:] if note else cells)))
    head = ["busy", "teacher, 1,000 requests", "student, 1,000 requests", "saved", "break-even requests"]
    if note:
        head.remove("saved")
    note += "If the teacher's price falls by the share saved, the saving is gone."
    return Table("By utilisation", head, rows, left=1, note=note)


def price_cut_table(report: Document) -> Table | None:
    """The saving if the teacher gets cheaper and the student does not."""
    cost = report["cost"] or {}
    rows = [
        row(
            "as it is" if float(cut) == 0 else f"{float(cut):.0%} less",
            figures.usd(at["teacher_per_1000"]),
            figures.percent(at["saving"]),
            _requests(at["break_even_requests"]),
        )
        for cut, at in ((cost.get("comparison") or {}).get("by_price_cut") or {}).items()
    ]
    head = ["teacher's price", "teacher, 1,000 requests", "saved", "break-even requests"]
    note = f"At {readable_share(cost.get('utilisation', 0))} busy. Below zero, the student costs more."
    return Table("If the teacher's price falls", head, rows, left=1, note=note) if rows else None


def _requests(value: Any) -> str:
    return "never" if value is None else figures.count(value)


UNITS = {
    "usd_per_hour": "US$ an hour",
    "usd_per_kwh": "US$ per kWh",
    "input": "US$ per million input tokens",
    "cached": "cached",
    "output": "output",
    "capex_usd": "US$ new",
    "resale_usd": "US$ used",
    "life_years": "years of service",
    "idle_w": "W idle",
    "active_w": "W busy",
}


def prices_table(report: Document) -> Table | None:
    """Each price used, with its source and date."""
    entries = ((report["cost"] or {}).get("prices") or {}).get("entries_used") or []
    rows = []
    for entry in entries:
        prices = [
            f"{UNITS.get(key, key)} {figures.tick(value['value'])} "
            f"({figures.tick(value['low'])} to {figures.tick(value['high'])})"
            for key, value in entry.items()
            if isinstance(value, dict) and {"value", "low", "high"} <= set(value)
        ]
        confidence = str(entry.get("confidence", ""))
        source = str(entry.get("source", ""))
        address = figures.web_address(source)
        rows.append(
            row(
                str(entry.get("label", entry.get("name", ""))),
                Cell("; ".join(prices), "small"),
                Cell(str(entry.get("region", "")), "small"),
                str(entry.get("as_of", "")),
                Cell(confidence, "warn" if confidence == "low" else ""),
                Cell(source.split("/")[2] if address else source, "small", address),
            )
        )
    head = ["price of", "figures (bounds)", "region", "as of", "confidence", "source"]
    return Table("Prices used", head, rows, left=6) if rows else None


SECTION = Section("cost", "Cost", "Cost", blocks)
