"""The tables of a report, made once and written as HTML and as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distill2edge.quantize.schemes import is_compared
from distill2edge.report import figures as text

Document = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One cell: its text, a kind that styles it (good, bad, weak, mono), an address it points to, and what stands
    under it in small type."""

    text: str
    kind: str = ""
    link: str | None = None
    beside: str = ""


@dataclass(frozen=True)
class Table:
    """A table; `left` columns hold words, the others figures (to the right)."""

    title: str
    head: list[str]
    rows: list[list[Cell]]
    left: int = 1
    note: str = ""


def row(*values: str | Cell) -> list[Cell]:
    """A row of cells; plain strings become cells."""
    return [value if isinstance(value, Cell) else Cell(value) for value in values]


def figure(value: Any, write: Callable[[Any], str] = text.number) -> Cell:
    """A figure with its interval under it."""
    return Cell(write(text.value_of(value)), beside=text.span(value, write))


def verdict_cell(passed: Any) -> Cell:
    """pass, fail, or no gates."""
    return Cell(
        text.yes(passed), {True: "good", False: "bad", None: "weak"}[passed if passed is None else bool(passed)]
    )


GATES = {
    "loads": "loads and runs",
    "min_retained": "quality kept",
    "max_kl": "KL to student",
    "min_top1": "top-1 agreement",
    "min_length": "answer length",
    "max_length": "answer length",
}


def gates_table(report: Document) -> Table | None:
    """A row for each model, a column for each gate; failures first."""
    gates = report["gates"]
    if not gates:
        return None
    columns = list(dict.fromkeys((gate["name"], gate["op"], gate["target"]) for gate in gates))
    defaults = {(gate["name"], gate["op"], gate["target"]) for gate in gates if gate.get("default")}
    by_model: dict[str, dict[Any, Document]] = {}
    for gate in gates:
        by_model.setdefault(str(gate["model"]), {})[(gate["name"], gate["op"], gate["target"])] = gate
    rows = []
    for model, own in by_model.items():
        passed = all(gate.get("passed") for gate in own.values())
        rows.append(
            row(Cell(model, "mono"), *[_gate_cell(own.get(column)) for column in columns], verdict_cell(passed))
        )
    sign = {">=": "at least", "<=": "at most"}
    heads = [
        GATES.get(name, str(name).replace("_", " "))
        + ("" if name == "loads" else f", {sign.get(op, op)} {text.tick(target)}")
        + (" (default)" if (name, op, target) in defaults else "")
        for name, op, target in columns
    ]
    rows.sort(key=lambda cells: cells[-1].kind != "bad")
    return Table("", ["model", *heads, "result"], rows)


def _gate_cell(gate: Document | None) -> Cell:
    if gate is None:
        return Cell(text.MISSING, "weak")
    if gate["name"] == "loads":
        return Cell("yes" if gate["passed"] else "no", "" if gate["passed"] else "bad")
    return Cell(text.number(gate.get("value")), "" if gate["passed"] else "bad")


def models_table(report: Document) -> Table:
    """Quality of every model and file, with 95% intervals; below them what needs no model."""
    metric = report["metric"]
    rows = []
    for model in report["models"]:
        error = model.get("error")
        rows.append(
            row(
                Cell(str(model["id"]), "mono", beside=f"could not be run: {error}" if error else ""),
                figure(model.get("score")),
                text.number(model.get("balanced_accuracy")),
                figure(model.get("retained"), text.percent),
                figure(model.get("kl_student")),
                figure(model.get("top1_student"), text.percent),
                figure(model.get("output_length_ratio")),
                text.count(model.get("parameters")),
                text.size(model.get("size_bytes")),
                verdict_cell(model.get("passed")),
            )
        )
    head = [
        "model", text.metric(metric["name"]), "balanced accuracy", "retained", "KL to student", "top-1 agreement",
        "length ratio", "parameters", "size", "gates",
    ]  # fmt: skip
    baseline = metric.get("baseline") or {}
    for name, value in ((baseline.get("name"), baseline.get("score")), ("a guess (chance)", baseline.get("chance"))):
        if value is not None:
            rows.append(row(Cell(str(name), "weak"), figure(value), *[text.MISSING] * (len(head) - 2)))
    note = (
        f"{text.count(metric.get('rows'))} held-out rows, {text.count(metric.get('tokens'))} positions compared; "
        f"with 95% intervals over rows. KL in nats per {metric.get('unit') or 'token'}, "
        "from the merged student to the file; top-1 agreement with it. "
        "Retained is the score over the teacher's on the same rows."
    )
    classes = metric.get("classes") or {}
    if classes:
        shown = sorted(classes.items(), key=lambda item: -item[1])
        note += " Rows of each class: " + ", ".join(f"{name} {text.count(n)}" for name, n in shown[:12])
        note += f", and {len(shown) - 12} smaller ones." if len(shown) > 12 else "."
    return filled("", head, rows, note=note)


def distances_table(report: Document) -> Table | None:
    """How far each model is from the teacher, and the tail of its distance from the student."""
    rows = [
        row(
            Cell(str(model["id"]), "mono"),
            text.number(model.get("kl_student_p99")),
            figure(model.get("kl_teacher")),
            figure(model.get("top1_teacher"), text.percent),
            figure(model.get("perplexity"), lambda x: text.number(x, 4)),
        )
        for model in report["models"]
        if not model.get("error")
    ]
    head = ["model", "p99 of KL to student", "KL to teacher", "agreement with teacher", "perplexity"]
    what = ("texts", "label") if report["metric"].get("unit") == "text" else ("positions", "token")
    note = f"Agreement with teacher: share of the {what[0]} where the teacher's most likely {what[1]} is the model's."
    table = filled("Further distances", head, rows, note=note)
    return table if rows and len(table.head) > 1 else None


def seeds_table(report: Document) -> Table | None:
    """Verdict and scores of each seed; None for a run of one."""
    runs = (report.get("seeds") or {}).get("runs") or []
    if not runs:
        return None
    names = [name for name in runs[0]["scores"] if not is_compared(name)]
    rows = [
        row(
            str(run["seed"]),
            verdict_cell(run["verdict"] == "pass"),
            *[text.number(run["scores"].get(name)) for name in names],
            Cell(f"seed-{run['seed']}/report.html", "mono small"),
        )
        for run in runs
    ]
    note = (
        "The seeds share the split of the rows, the teacher and its signal. Scores above are means over the seeds, row "
        "by row, with an interval over rows; divergences are means with the wider of two intervals, over seeds and "
        "over rows. Sizes, speeds and cost are those of the first seed."
    )
    return filled("By seed", ["seed", "verdict", *names, "its report"], rows, note)


def filled(title: str, head: list[str], rows: list[list[Cell]], note: str = "") -> Table:
    """A table without the columns that hold nothing in any row."""
    kept = [
        index for index in range(len(head)) if not index or any(cells[index].text != text.MISSING for cells in rows)
    ]
    return Table(title, [head[i] for i in kept], [[cells[i] for i in kept] for cells in rows], note=note)


def files_table(report: Document) -> Table | None:
    """What ships: size, effective bits, what fell back to another type, and the types really used."""
    if not report["files"]:
        return None
    rows = [
        row(
            Cell(str(file["model"]), "mono"),
            text.size(file.get("size_bytes")),
            text.number(file.get("effective_bits")),
            Cell(types_text(file.get("types")), "small"),
            Cell(fallbacks_text(file.get("fallbacks")), "small"),
        )
        for file in report["files"]
        if not is_compared(str(file["model"]))
    ]
    note = (
        "Bits per weight are effective: of all weights. A fallback is a tensor that could not take the type asked for."
    )
    return Table("Files to ship", ["file", "size", "bits per weight", "types", "fallbacks"], rows, note=note)


def types_text(types: Any) -> str:
    """`Q4_K x 151 (80.1 MB), F32 x 61`."""
    if not isinstance(types, dict) or not types:
        return text.MISSING
    parts = []
    for name, held in types.items():
        tensors, held_bytes = _held(held)
        size = f" ({text.size(held_bytes)})" if held_bytes is not None else ""
        parts.append(f"{name} x {text.count(tensors)}{size}" if tensors is not None else f"{name}{size}")
    return ", ".join(parts)


def _held(held: Any) -> tuple[float | None, float | None]:
    if isinstance(held, dict):
        tensors = next((held[key] for key in ("tensors", "count", "n") if key in held), None)
        return tensors, held.get("bytes")
    return held, None


def fallbacks_text(fallbacks: Any) -> str:
    """How many tensors fell back, and to what, the first three named."""
    if not fallbacks:
        return "none"
    if not isinstance(fallbacks, list):
        return str(fallbacks)
    names = [_fallback(item) for item in fallbacks]
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{len(names)}: {'; '.join(names[:3])}{rest}"


def _fallback(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    if "used" in item:
        return f"{item.get('tensor')} {item.get('wanted')} -> {item['used']}"
    return f"{item.get('tensor')}: {item.get('reason')}"


def survival_table(report: Document) -> Table | None:
    """Whether the trained change is larger than the quantization step of each scheme."""
    survival = report["merge"].get("survival") or {}
    failed = {str(model.get("scheme")) for model in report["models"] if model.get("passed") is False}
    rows = []
    for scheme, tensors in survival.items():
        ratios = sorted(r for tensor in tensors if (r := text.value_of(tensor.get("ratio"))) is not None)
        if not ratios:
            continue
        weakest = min(tensors, key=lambda tensor: _ratio(tensor))
        drowned = sum(ratio < 0.5 for ratio in ratios) / len(ratios)
        rows.append(
            row(
                Cell(str(scheme), "mono"),
                text.count(len(ratios)),
                text.number(statistics.median(ratios)),
                text.number(ratios[0]),
                Cell(text.percent(drowned, 0), "bad" if str(scheme) in failed else ""),
                Cell(str(weakest.get("tensor")), "mono small"),
            )
        )
    note = (
        "Ratio: root mean square of what training changed, over the quantization step. Where it is small, rounding may "
        "swallow the change of a single weight; the sum over many still shows, so judge by the KL to the student."
    )
    head = ["scheme", "tensors", "median ratio", "smallest", "below half a step", "weakest tensor"]
    return Table("Does the trained change survive quantization?", head, rows, note=note) if rows else None


def _ratio(tensor: Document) -> float:
    value = text.value_of(tensor.get("ratio"))
    return float("inf") if value is None else value


def stages_table(report: Document) -> Table | None:
    """Wall time, as first computed, and key of each stage."""
    rows = [
        row(
            str(stage.get("stage")),
            text.seconds(stage.get("wall_s")),
            Cell(str(stage.get("key", ""))[:16], "mono"),
        )
        for stage in report["stages"]
    ]
    return Table("Stages", ["stage", "wall time", "key"], rows) if rows else None


def samples_table(report: Document) -> Table | None:
    """Some held-out prompts with what each model answers."""
    samples: Sequence[Document] = report.get("samples") or []
    if not samples:
        return None
    names = list(dict.fromkeys(name for sample in samples for name in (sample.get("outputs") or {})))
    rows = [
        row(
            Cell(str(sample.get("prompt", "")), "small"),
            Cell(str(sample.get("expected", text.MISSING)), "small"),
            *[Cell(str((sample.get("outputs") or {}).get(name, text.MISSING)), "small") for name in names],
        )
        for sample in samples
    ]
    return Table("Samples", ["prompt", "expected", *names], rows, left=2 + len(names))
