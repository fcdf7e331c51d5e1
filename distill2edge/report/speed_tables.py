"""The tables of speed and memory."""

from __future__ import annotations

from distill2edge.report import text
from distill2edge.report.tables import Cell, Document, Table, figure, row


def bench_table(report: Document, workload: str) -> Table | None:
    """Speed and memory of every cell on one workload."""
    rows = []
    for cell in report["bench"].get("cells", []):
        name = Cell(str(cell["id"]), "mono")
        if cell.get("error"):
            ships = any(cell.get("model") == file["model"] for file in report["files"])
            failed = Cell(str(cell["id"]), "mono bad" if ships else "mono warn", beside=f"failed: {cell['error']}")
            rows.append(row(failed, *[text.MISSING] * 8, Cell(text.MISSING, "weak")))
            continue
        measured = (cell.get("workloads") or {}).get(workload)
        if measured is None:
            continue
        ttft, tpot, whole = (measured.get(key) or {} for key in ("ttft_ms", "tpot_ms", "e2e_ms"))
        energy = measured.get("energy") or {}
        joules = energy.get("joules_per_request")
        rows.append(
            row(
                name,
                text.milliseconds(ttft.get("p50")),
                text.milliseconds(tpot.get("p50")),
                figure({**whole, "value": whole.get("p50")}, text.milliseconds),
                text.milliseconds(whole.get("p95")),
                figure(measured.get("prefill_tps")),
                figure(measured.get("decode_tps")),
                text.size(cell.get("peak_rss_bytes")),
                figure(cell.get("cold_start_s"), text.seconds),
                f"{text.number(joules)} J, {energy['label']}" if joules is not None else "unavailable",
            )
        )
        if cell.get("contended"):
            rows[-1][0] = Cell(f"{cell['id']} (contended)", "mono warn")
    if not rows:
        return None
    about: Document = next((w for w in report["bench"].get("workloads", []) if w.get("name") == workload), {})
    note = ""
    if all(cells[-1].text in (text.MISSING, "unavailable") for cells in rows):
        rows, note = [cells[:-1] for cells in rows], "Energy: unavailable on this machine."
    title = f"Speed, workload {workload}"
    if about.get("prompt_tokens"):
        title += f": {text.tick(about['prompt_tokens'])} tokens in, {text.tick(about.get('output_tokens') or 0)} out"
    head = [
        "cell", "TTFT p50", "TPOT p50", "request p50", "request p95", "prefill tokens/s", "decode tokens/s",
        "peak memory", "cold start", "energy of a request",
    ]  # fmt: skip
    return Table(title, head[: len(rows[0])], rows, note=note)


def speedup_table(report: Document) -> Table | None:
    """Speed-up and time saved, side by side."""
    rows = [
        row(
            Cell(str(item.get("cell")), "mono"),
            Cell(str(item.get("against")), "mono"),
            str(item.get("workload")),
            figure(item.get("ratio"), text.ratio),
            figure(item.get("time_saved"), text.percent),
        )
        for item in report["bench"].get("speedups", [])
        if str(item.get("cell")).startswith("student")
    ]
    return Table("Speed-up", ["cell", "against", "workload", "speed-up", "time saved"], rows, left=3) if rows else None
