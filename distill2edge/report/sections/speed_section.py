"""The tables of speed and memory."""

from __future__ import annotations

from collections.abc import Callable

from distill2edge.report import figures
from distill2edge.report.tables import Cell, Document, Table, figure, filled, row

Column = tuple[str, Callable[[Document], str | Cell]]
"""Head, and what is written of a workload's figures."""


def _p50(measured: Document, key: str) -> Cell:
    latency = measured.get(key) or {}
    return figure({**latency, "value": latency.get("p50")}, figures.milliseconds)


def _p95(measured: Document) -> str:
    return figures.milliseconds((measured.get("e2e_ms") or {}).get("p95"))


_GENERATION: tuple[Column, ...] = (
    ("TTFT p50", lambda m: figures.milliseconds((m.get("ttft_ms") or {}).get("p50"))),
    ("TPOT p50", lambda m: figures.milliseconds((m.get("tpot_ms") or {}).get("p50"))),
    ("request p50", lambda m: _p50(m, "e2e_ms")),
    ("request p95", _p95),
    ("prefill tokens/s", lambda m: figure(m.get("prefill_tps"))),
    ("decode tokens/s", lambda m: figure(m.get("decode_tps"))),
)
# A classifier generates nothing: no first token, no time between tokens.
_CLASSES: tuple[Column, ...] = (
    ("text p50", lambda m: _p50(m, "e2e_ms")),
    ("text p95", _p95),
    ("texts/s", lambda m: figure(m.get("requests_per_s"))),
)


def bench_table(report: Document, workload: str) -> Table | None:
    """Speed and memory of every cell on one workload; columns that nothing fills are left out."""
    classifies = report["metric"].get("unit") == "text"
    columns = _CLASSES if classifies else _GENERATION
    rows = []
    for cell in report["bench"].get("cells", []):
        if cell.get("error"):
            ships = any(cell.get("model") == file["model"] for file in report["files"])
            failed = Cell(str(cell["id"]), "mono bad" if ships else "mono warn", beside=f"failed: {cell['error']}")
            rows.append(row(failed, *[figures.MISSING] * (len(columns) + 3)))
            continue
        measured = (cell.get("workloads") or {}).get(workload)
        if measured is None:
            continue
        energy = measured.get("energy") or {}
        joules = energy.get("joules_per_request")
        busy = Cell(f"{cell['id']} (contended)", "mono warn")
        rows.append(
            row(
                busy if cell.get("contended") else Cell(str(cell["id"]), "mono"),
                *[write(measured) for _, write in columns],
                figures.size(cell.get("peak_rss_bytes")),
                figure(cell.get("cold_start_s"), figures.seconds),
                figures.MISSING if joules is None else f"{figures.number(joules)} J, {energy['label']}",
            )
        )
    if not rows:
        return None
    about: Document = next((w for w in report["bench"].get("workloads", []) if w.get("name") == workload), {})
    title = f"Speed, workload {workload}"
    if about.get("prompt_tokens"):
        title += f": {figures.tick(about['prompt_tokens'])} tokens in"
        title += "" if classifies else f", {figures.tick(about.get('output_tokens') or 0)} out"
    what = "text" if classifies else "request"
    head = ["cell", *[name for name, _ in columns], "peak memory", "cold start", f"energy of a {what}"]
    unknown = all(cells[-1].text == figures.MISSING for cells in rows)
    return filled(title, head, rows, note="Energy: unavailable on this machine." if unknown else "")


def formulas(report: Document) -> dict[str, str]:
    """How the figures of the bench are defined; of a classifier without those of generation."""
    found: dict[str, str] = dict(report["bench"].get("formulas") or {})
    if report["metric"].get("unit") == "text":
        for name in ("ttft", "tpot", "prefill_tps", "decode_tps"):
            found.pop(name, None)
    return found


def speedup_table(report: Document) -> Table | None:
    """Speed-up and time saved, side by side."""
    rows = [
        row(
            Cell(str(item.get("cell")), "mono"),
            Cell(str(item.get("against")), "mono"),
            str(item.get("workload")),
            figure(item.get("ratio"), figures.ratio),
            figure(item.get("time_saved"), figures.percent),
        )
        for item in report["bench"].get("speedups", [])
        if str(item.get("cell")).startswith("student")
    ]
    return Table("Speed-up", ["cell", "against", "workload", "speed-up", "time saved"], rows, left=3) if rows else None
