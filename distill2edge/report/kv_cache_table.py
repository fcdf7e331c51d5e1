"""A table of a report: each file with keys and values in each type, what it costs and what it saves."""

from __future__ import annotations

from distill2edge.models.kv_cache import PLAIN
from distill2edge.report import figures
from distill2edge.report.blocks import Cell, Document, Table, figure, filled, row, verdict_cell


def kv_cache_table(report: Document) -> Table | None:
    """None where no file was measured with another type than llama.cpp's own."""
    models = {str(model["id"]): model for model in report["models"]}
    others = [model for model in models.values() if model.get("kv_cache")]
    rows = []
    for name in dict.fromkeys(str(model["kv_cache"]["file"]) for model in others):
        plain = models.get(name)
        of_it = [model for model in others if model["kv_cache"]["file"] == name]
        for model in ([plain] if plain is not None else []) + of_it:
            rows.append(_row(report, name, model, of_it[0]["kv_cache"]))
    note = (
        "Of a file with keys and values in each type, which llama.cpp keeps with flash attention. KL to the merged "
        "student in nats per token; memory is the greatest of the process at the lengths that were measured, and "
        "1,000 tokens are reckoned."
    )
    head = ["file", "keys and values", "score", "KL to student", "top-1 agreement", "decode tokens/s", "peak memory",
            "1,000 tokens take", "gates"]  # fmt: skip
    return filled("Keys and values", head, rows, note=note) if rows else None


def _row(report: Document, name: str, model: Document, told: Document) -> list[Cell]:
    own = model.get("kv_cache") or {"type": PLAIN, "token_bytes": told.get("plain_token_bytes")}
    cell: Document = next((one for one in report["bench"].get("cells", []) if one.get("model") == model["id"]), {})
    speeds = [workload.get("decode_tps") for workload in (cell.get("workloads") or {}).values()]
    size = own.get("token_bytes")
    return row(
        Cell(name, "mono"),
        Cell(str(own["type"]), "mono", beside=f"could not be run: {model['error']}" if model.get("error") else ""),
        figure(model.get("score")),
        figure(model.get("kl_student")),
        figure(model.get("top1_student"), figures.percent),
        figure(next((speed for speed in reversed(speeds) if speed), None)),
        figures.size(cell.get("peak_rss_bytes")),
        figures.MISSING if size is None else figures.size(1000 * size),
        verdict_cell(model.get("passed")),
    )
