"""Plain, calibrated and trained, side by side for each scheme; a mix of types against the stock ones."""

from __future__ import annotations

from distill2edge.quantize.schemes import PLAIN_SUFFIX, UNTRAINED_SUFFIX, is_compared
from distill2edge.report import figures
from distill2edge.report.tables import Cell, Document, Table, figure, row, types_text

ARMS = ("plain", "calibrated", "trained")


def quantization_table(report: Document) -> Table | None:
    """Every scheme of which there is more than one file; None where there is none."""
    models = {str(model["id"]): model for model in report["models"]}
    files = {str(file["model"]): file for file in report["files"]}
    compared = {base(name) for name in files if is_compared(name)}
    rows = []
    for scheme in dict.fromkeys(base(name) for name in files):
        if scheme not in compared:
            continue
        own = [name for name in files if base(name) == scheme]
        for name in sorted(own, key=lambda name: ARMS.index(arm(files[name]))):
            file, model = files[name], models.get(name, {})
            rows.append(
                row(
                    Cell(scheme.partition("/")[2], "mono"),
                    Cell(arm(file), beside="" if is_compared(name) else "ships"),
                    figures.size(file.get("size_bytes")),
                    figures.number(file.get("effective_bits")),
                    figure(model.get("kl_student")),
                    figure(model.get("top1_student"), figures.percent),
                    figure(model.get("score")),
                    figure(model.get("retained"), figures.percent),
                    figure(decode(report, name)),
                    Cell(types_text(file.get("types")), "small"),
                )
            )
    if not rows:
        return None
    head = [
        "scheme", "weights", "size", "bits per weight", "KL to student", "top-1 agreement",
        figures.metric(report["metric"]["name"]), "retained", "decode tokens/s", "types",
    ]  # fmt: skip
    note = (
        "Plain: rounded as they are. Calibrated: rounded by what the calibration rows show of each weight's input. "
        "Trained: trained once more on the grid of the file. Only one of each ships."
    )
    return Table("What calibration and training on the grid bring", head, rows, left=2, note=note)


def frontier_table(report: Document) -> Table | None:
    """Size, KL and speed of every file, and which of them no other beats in all three; None without a mix of types."""
    points = report["pareto"].get("kl") or []
    if not points:
        return None
    places = [
        (
            float(figures.value_of(point["x"]) or 0),
            float(figures.value_of(point["y"]) or 0),
            -float(figures.value_of(decode(report, str(point["id"]))) or 0),
        )
        for point in points
    ]

    def beaten(place: tuple[float, float, float]) -> bool:
        return any(other != place and all(a <= b for a, b in zip(other, place, strict=True)) for other in places)

    rows = [
        row(
            Cell(str(point["id"]), "mono"),
            figures.size(1e6 * place[0]),
            figure(point["y"]),
            figure(decode(report, str(point["id"]))),
            "" if beaten(place) else "yes",
        )
        for point, place in zip(points, places, strict=True)
    ]
    note = "On the front: no other file here is as small, as close to the student and as fast."
    head = ["file", "size", "KL to student", "decode tokens/s", "on the front"]
    return Table("Size, fidelity and speed", head, rows, note=note)


def base(name: str) -> str:
    """A file's id without what it is compared as."""
    return name.removesuffix(PLAIN_SUFFIX).removesuffix(UNTRAINED_SUFFIX)


def arm(file: Document) -> str:
    """One of `ARMS`."""
    return "trained" if file.get("trained") else "calibrated" if file.get("calibration") else "plain"


def decode(report: Document, name: str) -> Document | None:
    """Tokens per second of the first workload that generates."""
    for cell in report["bench"].get("cells", []):
        if cell.get("model") == name:
            for measured in (cell.get("workloads") or {}).values():
                if measured.get("decode_tps"):
                    return dict(measured["decode_tps"])
    return None
