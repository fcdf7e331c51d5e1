"""Speed and memory of every cell, speed-ups, and whether the machine was quiet."""

from __future__ import annotations

from collections.abc import Callable

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Document, Paragraph, Section, Table, figure, filled, present, row
from distill2edge.report.kv_cache_table import kv_cache_table
from distill2edge.report.units import unit_of
from distill2edge.util.terminal import in_short

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


def _generates(workload: Document) -> bool:
    """Whether tokens are generated one by one: an answer of one step has no first token and no time between tokens."""
    return workload.get("output_tokens") != 1


def _columns(workload: Document, one: str) -> tuple[Column, ...]:
    if _generates(workload):
        return _GENERATION
    return (
        (f"{one} p50", lambda m: _p50(m, "e2e_ms")),
        (f"{one} p95", _p95),
        (f"{one}s/s", lambda m: figure(m.get("requests_per_s"))),
    )


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    found = [bench_table(report, workload) for workload in report["bench"].get("workloads", [])]
    caches = kv_cache_table(report)
    if not any(found) and caches is None:
        return []
    busy = contention(report)
    return present(Paragraph((busy,), "warning") if busy else None, *found, caches, speedup_table(report))


def bench_table(report: Document, workload: Document) -> Table | None:
    """Speed and memory of every cell on one workload of bench.json; columns that nothing fills are left out."""
    one = unit_of(report).request
    columns = _columns(workload, one)
    rows = []
    for cell in report["bench"].get("cells", []):
        if cell.get("error"):
            ships = any(cell.get("model") == file["model"] for file in report["files"])
            failed = Cell(str(cell["id"]), "mono bad" if ships else "mono warn", beside=f"failed: {cell['error']}")
            rows.append(row(failed, *[figures.MISSING] * (len(columns) + 3)))
            continue
        measured = (cell.get("workloads") or {}).get(workload["name"])
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
    head = ["cell", *[name for name, _ in columns], "peak memory", "cold start", f"energy of a {one}"]
    unknown = all(cells[-1].text == figures.MISSING for cells in rows)
    return filled(_title(workload), head, rows, note="Energy could not be measured on this machine." if unknown else "")


def _title(workload: Document) -> str:
    said = f"Speed, workload {workload['name']}"
    if workload.get("prompt_tokens"):
        said += f": {figures.tick(workload['prompt_tokens'])} tokens in"
        said += f", {figures.tick(workload.get('output_tokens') or 0)} out" if _generates(workload) else ""
    return said


def formulas(report: Document) -> dict[str, str]:
    """How the figures of the bench are defined; where nothing is generated, without those of generation."""
    bench = report["bench"]
    found: dict[str, str] = dict(bench.get("formulas") or {})
    if not any(_generates(workload) for workload in bench.get("workloads", [])):
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


def contention(report: Document) -> str:
    """A warning where the machine was not quiet."""
    cells = [cell for cell in report["bench"].get("cells", []) if cell.get("contended")]
    if not cells:
        return ""
    why = in_short(str(reason) for cell in cells for reason in (cell.get("contention") or {}).get("reasons", []))
    names = ", ".join(str(cell["id"]) for cell in cells)
    reasons = f"{why[0].upper()}{why[1:]}. " if why else ""
    said = f"The machine was busy with other work during {names}. {reasons}"
    return f"{said}Those speeds are lower bounds, and their ratios are rough."


SECTION = Section("speed", "Speed", "Speed and memory", blocks)
