"""What devices proved of the files that ship, beside this run's own machine."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Cell, Document, Notes, Section, Table, filled, present, row, verdict_cell

_HEAD = ["device", "file", "proof", "divergence", "top-1", "prefill tokens/s", "decode tokens/s", "texts/s",
         "peak memory", "$ per 1,000 requests"]  # fmt: skip


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    proved = report.get("devices") or []
    if not proved:
        return []
    faults = [f"{each['device']}, {each['model']}: {fault}" for each in proved for fault in each["faults"]]
    return present(devices_table(report, proved), Notes(tuple(faults)) if faults else None)


def devices_table(report: Document, proved: list[Document]) -> Table:
    """This machine's figures of each file that a device proved, then the devices'."""
    models = list(dict.fromkeys(each["model"] for each in proved))
    rows = [own for model in models for own in _own(report, model)]
    for each in proved:
        rows.append(
            row(
                Cell(str(each["device"]), beside=str(each["cpu"]) if each["cpu"] != each["device"] else ""),
                Cell(str(each["model"]), "mono"),
                verdict_cell(each["passed"]),
                Cell(figures.number(each["divergence"]), beside=f"at most {figures.number(each['tolerance'])}"),
                figures.percent(each["top1"]),
                figures.number(each["prefill_tps"]),
                figures.number(each["decode_tps"]),
                figures.number(each["texts_per_s"]),
                figures.size(each["peak_rss_bytes"]),
                figures.usd(each["usd_per_1000"]),
            )
        )
    note = (
        "Each device ran the self-test of a pack on one thread. Divergence: KL in nats from what the verified file "
        "computed on this machine (of vectors and numbers their squared distance). This run's own speeds are those of "
        "its bench, on its threads and prompts. Dollars: the package's price of a device of that name at this run's "
        "requests."
    )
    return filled("Devices", _HEAD, rows, note)


def _own(report: Document, model: str) -> list[list[Cell]]:
    bench = report["bench"]
    name = str((report["pareto"] or {}).get("workload") or "")
    found = []
    for cell in bench.get("cells", []):
        if cell.get("model") != model or cell.get("error"):
            continue
        measured = (cell.get("workloads") or {}).get(name) or {}
        writes = figures.value_of(measured.get("decode_tps")) is not None
        priced = [each for each in (report.get("cost") or {}).get("cells") or [] if each.get("cell") == cell["id"]]
        found.append(
            row(
                Cell("this run's machine", beside=f"{bench.get('threads', '?')} threads, {name}"),
                Cell(model, "mono"),
                figures.MISSING,
                figures.MISSING,
                figures.MISSING,
                figures.number(figures.value_of(measured.get("prefill_tps"))) if writes else figures.MISSING,
                figures.number(figures.value_of(measured.get("decode_tps"))),
                figures.MISSING if writes else figures.number(figures.value_of(measured.get("requests_per_s"))),
                figures.size(cell.get("peak_rss_bytes")),
                figures.usd(priced[0].get("at_utilisation") if priced else None),
            )
        )
    return found


SECTION = Section("devices", "Devices", "What devices proved", blocks, on_card=True)
