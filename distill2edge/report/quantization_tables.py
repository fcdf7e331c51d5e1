"""What quantization did: plain, calibrated and trained side by side, a mix of types against the stock ones, and whether
the trained change survives."""

from __future__ import annotations

import statistics
from typing import Any

from distill2edge.quantize.schemes import PLAIN_SUFFIX, UNTRAINED_SUFFIX, is_compared
from distill2edge.report import figures
from distill2edge.report.blocks import Cell, Document, Table, figure, row

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
        "Plain: weights rounded as they are. Calibrated: rounded with regard to the inputs that the calibration rows "
        "give each weight. Trained: trained once more with the rounding of the file. One file of each scheme ships."
    )
    return Table("What calibration and quantization-aware training gain", head, rows, left=2, note=note)


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
    note = "On the frontier: no other file here is at least as small, as close to the student and as fast."
    head = ["file", "size", "KL to student", "decode tokens/s", "on the frontier"]
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


def survival_table(report: Document) -> Table | None:
    """Whether the trained change is larger than the quantization step of each scheme."""
    survival = report["merge"].get("survival") or {}
    failed = {str(model.get("scheme")) for model in report["models"] if model.get("passed") is False}
    rows = []
    for scheme, tensors in survival.items():
        ratios = sorted(r for tensor in tensors if (r := figures.value_of(tensor.get("ratio"))) is not None)
        if not ratios:
            continue
        weakest = min(tensors, key=lambda tensor: _ratio(tensor))
        drowned = sum(ratio < 0.5 for ratio in ratios) / len(ratios)
        rows.append(
            row(
                Cell(str(scheme), "mono"),
                figures.count(len(ratios)),
                figures.number(statistics.median(ratios)),
                figures.number(ratios[0]),
                Cell(figures.percent(drowned, 0), "bad" if str(scheme) in failed else ""),
                Cell(str(weakest.get("tensor")), "mono small"),
            )
        )
    note = (
        "Ratio: root mean square of the change that training made, divided by the quantization step. Where it is "
        "small, rounding can hide the change of a single weight, but not the sum over many: judge by the KL to "
        "the student."
    )
    head = ["scheme", "tensors", "median ratio", "smallest", "below half a step", "weakest tensor"]
    return Table("Do the trained changes survive quantization?", head, rows, note=note) if rows else None


def _ratio(tensor: Document) -> float:
    value = figures.value_of(tensor.get("ratio"))
    return float("inf") if value is None else value


def types_text(types: Any) -> str:
    """`Q4_K x 151 (80.1 MB), F32 x 61`."""
    if not isinstance(types, dict) or not types:
        return figures.MISSING
    parts = []
    for name, held in types.items():
        tensors, held_bytes = _held(held)
        size = f" ({figures.size(held_bytes)})" if held_bytes is not None else ""
        parts.append(f"{name} x {figures.count(tensors)}{size}" if tensors is not None else f"{name}{size}")
    return ", ".join(parts)


def _held(held: Any) -> tuple[float | None, float | None]:
    if isinstance(held, dict):
        tensors = next((held[key] for key in ("tensors", "count", "n") if key in held), None)
        return tensors, held.get("bytes")
    return held, None
