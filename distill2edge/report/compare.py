"""Runs side by side; refused, or with a warning, where their figures do not compare."""

from __future__ import annotations

import json
from typing import Any

from distill2edge.errors import UserError
from distill2edge.report import claims, figures
from distill2edge.report.blocks import Cell, Fact, Facts, Paragraph, Table, present, row, verdict_cell
from distill2edge.report.headline import measured
from distill2edge.report.html import render_page
from distill2edge.report.schema_version import check_version
from distill2edge.util.terminal import one_line

Document = dict[str, Any]
_MOST = 40
"""Keys of recipes that a page shows; the JSON has all."""
_LONGEST = 60
"""Characters of a value there."""


def compare(reports: list[Document], allow: bool = False) -> Document:
    """Put runs side by side.

    Args:
        reports: report.json of each run, at least two.
        allow: go on where machine, workload, test data or price date differ, with warnings.

    Returns:
        {"schema_version": 1, "names", "warnings", "differences": [{"what", "values", "affects"}], "recipe_changes":
        [{"key", "values"}], "runs": [...]}; each run has its verdict, headline figures, seeds and environment.

    Raises:
        UserError: fewer than two reports, another schema version, or runs that don't compare and `allow` is false.
    """
    if len(reports) < 2:
        raise UserError("compare needs at least two runs", fix="distill2edge compare RUN RUN...")
    for report in reports:
        check_version(report)
    names = _distinct([str(report["name"]) for report in reports])
    differences = _differences(reports, names)
    if differences and not allow:
        said = "; ".join(f"{d['what']} ({', '.join(f'{n}: {v}' for n, v in d['values'].items())})" for d in differences)
        raise UserError(
            f"these runs cannot be compared: they differ in {said}",
            fix=_fix([d["what"] for d in differences]),
        )
    changes = recipe_changes(reports)
    return {
        "schema_version": 1,
        "names": names,
        "differences": differences,
        "recipe_changes": changes,
        "warnings": [
            *[f"{d['what']} differs: don't compare {d['affects']}" for d in differences],
            *[warning for report, name in zip(reports, names, strict=True) for warning in _unclaimed(report, name)],
            *_seeds_apart(reports, changes),
        ],
        "runs": [figures_of(report, name) for report, name in zip(reports, names, strict=True)],
    }


def _unclaimed(report: Document, name: str) -> list[str]:
    """Said of a run without a headline, whose figures stand in the table all the same."""
    if report["headline"] is not None:
        return []
    why = claims.no_headline(report).rstrip(".")
    return [f"{name}: its figures are as measured; {why[0].lower()}{why[1:]}"]


def _seeds_apart(reports: list[Document], changes: list[Document]) -> list[str]:
    """One recipe under several seeds is no comparison: its runs are pooled by the option that makes them."""
    if any(report.get("seeds") for report in reports) or [change["key"] for change in changes] != ["seed"]:
        return []
    seeds = ",".join(str(report.get("seed")) for report in reports)
    return [
        "these runs differ only in their seed; for one figure over all of them: distill2edge run RECIPE --seeds "
        f"{seeds}"
    ]


def _fix(differing: list[str]) -> str:
    several = "run the seeds of one recipe with `distill2edge run RECIPE --seeds 0,1,2`, which share their rows; or "
    return (
        f"{several if 'test data' in differing else ''}run both recipes on one machine with one workload and one price "
        "file, or use --allow-different to see them with a warning"
    )


def recipe_changes(reports: list[Document]) -> list[Document]:
    """The keys of the recipes that differ: `key`, and `values` in the order of the reports (None: not there)."""
    flat = [_flat(report["reproduce"].get("recipe") or {}) for report in reports]
    keys = dict.fromkeys(key for recipe in flat for key in recipe)
    found = []
    for key in keys:
        values = [recipe.get(key) for recipe in flat]
        if any(value != values[0] for value in values) and key != "name":
            found.append({"key": key, "values": values})
    return found


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists stay whole."""
    if not isinstance(value, dict) or not value:
        return {path: value}
    found: dict[str, Any] = {}
    for key, inner in value.items():
        found |= _flat(inner, f"{path}.{key}" if path else str(key))
    return found


def changes_table(comparison: Document) -> Table | None:
    """A row for each key of the recipes that differs."""
    changes = comparison["recipe_changes"]
    if not changes:
        return None
    rows = [
        row(Cell(change["key"], "mono"), *[Cell(_written(value), "small") for value in change["values"]])
        for change in changes[:_MOST]
    ]
    more = len(changes) - _MOST
    note = f"And {more} more keys." if more > 0 else ""
    return Table("What differs between the recipes", ["", *comparison["names"]], rows, note=note)


def _written(value: Any) -> str:
    said = figures.MISSING if value is None else json.dumps(value, ensure_ascii=False)
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST - 3]}..."


def _distinct(names: list[str]) -> list[str]:
    """The names, numbered where two runs share one."""
    return [f"{name} ({index + 1})" if names.count(name) > 1 else name for index, name in enumerate(names)]


def _differences(reports: list[Document], names: list[str]) -> list[Document]:
    checks = [
        ("task", "quality and speed", [task_of_report(report) for report in reports]),
        ("machine", "speed, memory and cost", [_machine(report) for report in reports]),
        ("workload", "speed and cost", [_workload(report) for report in reports]),
        ("metric", "quality", [str(report["metric"]["name"]) for report in reports]),
        ("test data", "quality", [_test_data(report) for report in reports]),
        ("price date", "cost", [_prices(report) for report in reports]),
    ]
    return [
        {"what": what, "affects": affects, "values": dict(zip(names, values, strict=True))}
        for what, affects, values in checks
        if len(set(values)) > 1
    ]


def task_of_report(report: Document) -> str:
    """The task of the recipe behind a report; `unknown` where it does not say."""
    recipe = report["reproduce"].get("recipe") or {}
    return str(recipe.get("task") or "unknown")


def _machine(report: Document) -> str:
    machine = report["bench"].get("machine")
    if not machine:
        return "not measured"
    gpu = machine.get("gpu")
    memory = figures.number((figures.value_of(machine.get("memory_bytes")) or 0) / 2**30, 2)
    parts = [str(machine.get("cpu")), f"{report['bench'].get('threads')} threads", f"{memory} GiB"]
    if gpu:
        parts.append(", ".join(map(str, gpu)) if isinstance(gpu, list) else str(gpu))
    return ", ".join(parts)


def _workload(report: Document) -> str:
    found = [f"{w['name']} {str(w.get('sha256', ''))[:12]}".strip() for w in report["bench"].get("workloads", [])]
    return ", ".join(found) or "not measured"


def _test_data(report: Document) -> str:
    data = report["data"]
    test = (data.get("splits") or {}).get("test") or {}
    mark = test.get("sha256") or data.get("sha256") or data.get("revision")
    rows = report["metric"].get("rows")
    return f"{data.get('source', 'unknown')} {str(mark or '')[:12]}".strip() + f", {figures.count(rows)} rows"


def _prices(report: Document) -> str:
    prices = (report["cost"] or {}).get("prices") or {}
    return f"{prices.get('as_of')}, {prices.get('source')}" if prices else "no prices"


def figures_of(report: Document, name: str) -> Document:
    """The figures of one run in a comparison: a row of `comparison_table` each."""
    headline, found = report["headline"] or {}, measured(report)
    teacher: Document = next((model for model in report["models"] if model["id"] == "teacher"), {})
    control: Document = next((model for model in report["models"] if model.get("role") == "control"), {})
    return {
        "name": name,
        "created": report.get("created"),
        "seeds": (report.get("seeds") or {}).get("seeds") or [report.get("seed")],
        "verdict": report["verdict"]["result"],
        "headline": report["headline"] is not None,
        "file": found["model"],
        "metric": report["metric"]["name"],
        "teacher_score": teacher.get("score"),
        "control_score": control.get("score"),
        **{key: found[key] for key in ("score", "retained", "kl_student", "size_bytes", "latency_ms", "cost_per_1000")},
        "speedup": (found["speedup"] or {}).get("ratio"),
        "against": (found["speedup"] or {}).get("against"),
        "saving": headline.get("saving"),
        "saving_same_box": headline.get("saving_same_box"),
        "break_even_requests": headline.get("break_even_requests"),
        "machine": _machine(report),
        "prices": _prices(report),
    }


def comparison_table(comparison: Document) -> Table:
    """A row for each figure, a column for each run."""
    runs: list[Document] = comparison["runs"]

    def line(name: str, write: Any) -> list[Cell]:
        return row(name, *[write(run) for run in runs])

    def figure(key: str, write: Any = figures.number) -> Any:
        return lambda run: Cell(write(figures.value_of(run[key])), beside=figures.span(run[key], write))

    def break_even(run: Document) -> Cell:
        if run["saving"] is None:
            return Cell(figures.MISSING)
        return Cell("never" if run["break_even_requests"] is None else figures.count(run["break_even_requests"]))

    rows = [
        line("verdict", lambda run: verdict_cell(run["verdict"] == "pass")),
        line("headline", lambda run: Cell("claimed" if run["headline"] else "withheld")),
        line("seeds", lambda run: Cell(", ".join(map(str, run["seeds"])))),
        line("file", lambda run: Cell(run["file"] or figures.MISSING, "mono")),
        line("metric", lambda run: Cell(figures.metric(run["metric"]))),
        line("teacher's score", figure("teacher_score")),
        line("score", figure("score")),
        line("without the teacher", figure("control_score")),
        line("quality kept", figure("retained", figures.percent)),
        line("KL to student, nats", figure("kl_student")),
        line("size", figure("size_bytes", figures.size)),
        line("time of a request", figure("latency_ms", figures.milliseconds)),
        line("speed-up", figure("speedup", figures.ratio)),
        line("cost of 1,000 requests", figure("cost_per_1000", figures.usd)),
        line("saving, same box", figure("saving_same_box", figures.percent)),
        line("saving, own boxes", figure("saving", figures.percent)),
        line("break-even requests", break_even),
        line("made", lambda run: Cell(str(run["created"] or figures.MISSING))),
    ]
    return Table("", ["", *comparison["names"]], rows)


def render_comparison_text(comparison: Document) -> str:
    """For a terminal: warnings first, then aligned columns."""
    lines = [f"warning: {warning}" for warning in comparison["warnings"]]
    lines += [""] if lines else []
    lines += _columns(comparison_table(comparison))
    changes = changes_table(comparison)
    if changes is not None:
        lines += ["", f"{changes.title}:", *_columns(changes), *([changes.note] if changes.note else [])]
    return "\n".join(lines) + "\n"


def _columns(table: Table) -> list[str]:
    grid = [[_plain(Cell(name)) for name in table.head], *[[_plain(cell) for cell in cells] for cells in table.rows]]
    widths = [max(len(line[column]) for line in grid) for column in range(len(table.head))]
    return [
        "  ".join([first.ljust(widths[0]), *[v.rjust(w) for v, w in zip(rest, widths[1:], strict=True)]]).rstrip()
        for first, *rest in grid
    ]


def _plain(cell: Cell) -> str:
    said = f"{cell.text} ({cell.beside})" if cell.beside else cell.text
    return one_line(said)


def render_comparison_html(comparison: Document) -> str:
    """A self-contained page."""
    return render_page("compare.html.j2", **comparison_parts(comparison))


def comparison_parts(comparison: Document) -> dict[str, Any]:
    """What the template `compare_body.html.j2` shows of a comparison."""
    return {
        "names": comparison["names"],
        "blocks": present(
            *[Paragraph((f"{warning}.",), "warning") for warning in comparison["warnings"]],
            comparison_table(comparison),
            changes_table(comparison),
        ),
        "differences": [
            (f"They differ in {one['what']}", Facts(tuple(Fact(*pair) for pair in one["values"].items())))
            for one in comparison["differences"]
        ],
    }
