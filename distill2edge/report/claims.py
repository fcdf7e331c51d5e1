"""What a report claims: the sentence under the verdict and the headline tiles. Words and figures, no markup."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.report.cost_words import same_as, saves, volume_sentence

Document = dict[str, Any]


def warnings(report: Document) -> list[Document]:
    """What a reader is warned of beside the verdict: `kind`, `text`, `headline`."""
    found: list[Document] = report["verdict"].get("warnings") or []
    return found


def lead(report: Document) -> str:
    """One sentence under the verdict."""
    headline = report["headline"]
    if headline is None:
        return no_headline(report)
    measured = measured_on(report)
    if headline["kept"] is None:  # a teacher behind an endpoint is not scored; of one that scores 0 nothing is kept
        score = figures.interval(headline["score"])
        said = f"{headline['model']} scores {score} ({figures.metric(headline['metric'])}), {measured}"
        if headline["teacher_score"] is None:
            return f"{said}; the teacher was not measured."
        return f"{said}; the teacher scores {figures.number(figures.value_of(headline['teacher_score']))}."
    kept = figures.interval(headline["kept"], figures.percent)
    metric = figures.metric(headline["metric"])
    whose = f"the teacher's {metric}" if headline["rival"] == "teacher" else f"the {metric} of {headline['rival']}"
    said = f"{headline['model']} keeps {kept} of {whose} ({measured})"
    times = _times_larger(report, headline)
    if times is not None and times > 1:
        return f"{said}. It has {figures.ratio(times)} the teacher's parameters. {_price_of_size(report)}"
    if headline["size_ratio"]:
        said += f", is {_either_way(headline['size_ratio'], 'smaller', 'larger')}"
    if headline["speedup"]:
        busy = ", measured on a busy machine" if headline["contended"] else ""
        said += f", and {figures.interval(headline['speedup']['ratio'], figures.ratio)} as fast{busy}"
    return f"{said}."


def measured_on(report: Document) -> str:
    """`500 held-out rows, one seed`: what stands behind the figures."""
    seeds = report.get("seeds") or {}
    said = f"seeds {', '.join(map(str, seeds['seeds']))}" if seeds else "one seed"
    return f"{figures.count(report['metric']['rows'])} held-out rows, {said}"


def no_headline(report: Document) -> str:
    """Why a report without a headline has none."""
    if report["verdict"]["result"] == "fail":
        return "No headline and no saving are claimed for a student that failed."
    forbidding = [one["text"] for one in warnings(report) if not one["headline"]]
    if forbidding:
        return f"No headline and no saving are claimed: {forbidding[0]}."
    if any(model.get("role") == "student" and model.get("above_baseline") is False for model in report["models"]):
        return "No headline is claimed: no file beats a baseline without a model by more than noise."
    return "No file that ships could be measured, so there is no headline."


def _price_of_size(report: Document) -> str:
    """What a student larger than its teacher costs, as measured: like for like, and by its file."""
    comparison = (report["cost"] or {}).get("comparison") or {}
    split = comparison.get("split")
    if split is None:
        return "The gain is quality; what its size costs per request was not measured in a runtime that both ran in."
    added = 1 / split["model"] - 1
    like = f"like for like ({same_as(split)})"
    if added <= 0:
        return f"Yet {like} it {saves(-added)} per request."
    said = f"The gain is quality: {like} the student costs {figures.percent(added)} more per request"
    if (comparison.get("saving_same_box") or 0) > 0:
        return f"{said}; only another runtime or quantization of its file makes it cheaper."
    return f"{said}."


def _times_larger(report: Document, headline: Document) -> float | None:
    """The student's parameters over the teacher's. More than one is a normal case, with another use."""
    counts = {str(model["id"]): model.get("parameters") for model in report["models"]}
    student, teacher = counts.get(str(headline["model"])), counts.get("teacher")
    return student / teacher if student and teacher else None


Tile = tuple[str, str, str]
"""Name, value, what stands beside it."""


def tiles(report: Document) -> list[Tile]:
    """Headline figures."""
    headline = report["headline"]
    if headline is None:
        return []
    found = [_quality_tile(report, headline), _size_tile(headline)]
    if headline["speedup"]:
        found.append(_speed_tile(headline))
    if headline["saving"] is not None:
        found += [_saving_tile(report, headline), _break_even_tile(report, headline)]
    return found


def _quality_tile(report: Document, headline: Document) -> Tile:
    score, theirs, control = (
        figures.number(figures.value_of(headline[key])) for key in ("score", "rival_score", "control_score")
    )
    kept, metric = headline["kept"], figures.metric(headline["metric"])
    name, write = ("Quality kept", figures.percent) if kept else (metric.capitalize(), figures.number)
    said = [
        figures.span(kept or headline["score"], write),
        measured_on(report),
        f"{score} against {theirs} of {headline['rival']}" if kept else "the teacher was not scored",
        f"{control} without the teacher" if headline["control_score"] else "",
    ]
    return name, write(figures.value_of(kept or headline["score"])), "; ".join(filter(None, said))


def _size_tile(headline: Document) -> Tile:
    beside = "there is no file of the teacher to compare with"
    if headline["rival"]:
        ratio = _either_way(headline["size_ratio"], "smaller", "larger")
        beside = f"{ratio} than {headline['rival']}, {figures.size(headline['teacher_size_bytes'])}"
    return "Size", figures.size(headline["size_bytes"]), beside


def _speed_tile(headline: Document) -> Tile:
    speedup = headline["speedup"]
    saved, ratio = figures.value_of(speedup.get("time_saved")), speedup["ratio"]
    said = [
        f"{figures.percent(saved and abs(saved), 0)} {'of the time saved' if (saved or 0) >= 0 else 'more time'}",
        figures.span(ratio, figures.ratio),
        f"against {speedup['against']}" + ("; on a busy machine: rough" if headline["contended"] else ""),
    ]
    return "Speed-up", figures.ratio(figures.value_of(ratio)), ", ".join(filter(None, said))


def _break_even_tile(report: Document, headline: Document) -> Tile:
    requests = headline["break_even_requests"]
    never = requests is None
    beside = "the student is not cheaper" if never else "requests until it has paid for itself"
    beside += "" if headline["same_place"] else f", served on {_place(report, headline)}"
    return "Break-even", "never" if never else figures.count(requests), beside


def _either_way(ratio: Any, above: str, below: str) -> str:
    """A ratio as a factor above one: `2.00x smaller`, and of 0.5 `2.00x larger`."""
    factor = figures.value_of(ratio)
    return f"{figures.ratio(factor)} {above}" if not factor or factor >= 1 else f"{figures.ratio(1 / factor)} {below}"


def _saving_tile(report: Document, headline: Document) -> Tile:
    """The saving, what has to be true for it, and whether the speeds behind it were measured on a quiet machine."""
    name, value, beside = _saving(report, headline)
    busy = " Speeds of a busy machine." if headline["contended"] else ""
    return name, value, f"{beside}. {volume_sentence(report['cost'])}{busy}"


def _saving(report: Document, headline: Document) -> Tile:
    """The saving on one and the same box first: only there were both speeds measured."""
    saving, same = headline["saving"], headline["saving_same_box"]
    student, teacher = figures.usd(headline["cost_per_1000"]), figures.usd(headline["teacher_cost_per_1000"])
    prices = f"{student} against {teacher} per 1,000 requests"
    if headline.get("saving_of") and headline["saving_of"] != headline["cell"]:
        prices += f", {headline['saving_of']} against {headline['saving_against']}: the runtime that both have"
    if str(headline.get("teacher_place")).startswith("api:"):  # what is paid today; no box is shared with it
        prices = f"{prices} at {_label(report, headline['teacher_place'])}"
        return ("Cost saved" if saving >= 0 else "Cost added", figures.percent(abs(saving)), prices)
    if headline["same_place"] or same is None:
        return ("Cost saved" if saving >= 0 else "Cost added", figures.percent(abs(saving)), prices)
    place = _place(report, headline)
    return (
        "Cost saved, same box" if same >= 0 else "Cost added, same box",
        figures.percent(abs(same)),
        f"{figures.percent(saving)} if served on {place} at the speed of the bench machine: {prices}",
    )


def _place(report: Document, headline: Document) -> str:
    return _label(report, headline["student_place"])


def _label(report: Document, place: str) -> str:
    cells = (report["cost"] or {}).get("cells") or []
    return next((str(cell["label"]) for cell in cells if cell["place"] == place), "its own box")
