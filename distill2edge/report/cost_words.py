"""What the cost section says in words."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.util.quantities import readable_share

Document = dict[str, Any]


def same_as(split: Document) -> str:
    """How the step of a split is like the teacher's cell."""
    return f"both in {split['runtime']}" + (", the same quantization" if split["same"] == "scheme" else "")


def split_sentence(split: Document | None) -> str:
    """The model's part of a ratio of costs, and that of runtime and quantization; empty where it is all the model's."""
    if split is None or abs(split["rest"] - 1) < 0.005:
        return ""
    return (
        f"The cost ratio of {figures.ratio(split['model'] * split['rest'])} is {figures.ratio(split['model'])} "
        f"from the student's model ({same_as(split)}: {split['cell']}) times {figures.ratio(split['rest'])} from its "
        "runtime and quantization."
    )


def volume_sentence(cost: Document) -> str:
    """What the user's own volume costs a month, as assumed and on a box that serves nothing else."""
    comparison = cost["comparison"]
    at = comparison.get("at_volume")
    if not at:
        return f"At {readable_share(cost['utilisation'])} busy."
    volume, assumed = (
        f"{figures.count(at['requests_per_month'])} requests a month",
        f"{readable_share(cost['utilisation'])}",
    )
    student, teacher = figures.usd(at["student_alone_usd"]), figures.usd(at["teacher_alone_usd"])
    busy = [at[key] for key in ("student_busy", "teacher_busy") if at[key] is not None]
    if min(busy) >= cost["utilisation"]:
        return f"This holds at {assumed} busy; your {volume} keep a box busier than that."
    alone = f"a box that serves nothing else costs {student} a month against {teacher} for the teacher"
    shares = f"your {volume} keep the student's box only {figures.percent(at['student_busy'])} busy"
    return f"This holds at {assumed} busy, that is, if other work shares the box: {shares}, and {alone}."


def cost_sentences(report: Document) -> list[str]:
    """What the cost section says in words."""
    cost = report["cost"]
    if cost is None:
        return []
    if cost.get("withheld"):
        return [f"Comparison withheld: {cost['withheld']}. The figures below are what each cell costs, no more."]
    comparison, one_off = cost.get("comparison"), cost.get("one_off") or {}
    if not comparison:
        return ["There is no pair of teacher and student to compare by cost; the notes say why."]
    busy = f"{readable_share(cost['utilisation'])} busy"
    saving, same = comparison["saving"], comparison.get("saving_same_box")
    labels = {cell["place"]: cell["label"] for cell in cost["cells"]}
    bounds = (
        f"({figures.percent(comparison.get('saving_low'))} to {figures.percent(comparison.get('saving_high'))} "
        "over the bounds of the prices)"
    )
    said = []
    if comparison["teacher_place"] == comparison["student_place"]:
        place = labels[comparison["teacher_place"]]
        said.append(f"With both on {place} and {busy}, the student {saves(saving)} {bounds}.")
    else:
        if same is not None:
            box = (cost["four_cells"].get("teacher_same_box") or {}).get("label")
            said.append(f"With both on {box} and {busy}, the student {saves(same)}.")
        if comparison["teacher_place"].startswith("api:"):
            counted = cost["tokens"]
            cached = f" and {figures.number(counted['cached'])} cached" if counted["cached"] else ""
            said.append(
                f"On {labels[comparison['student_place']]}, {busy}, against "
                f"{labels[comparison['teacher_place']]} at {figures.number(counted['input'])} tokens in{cached} and "
                f"{figures.number(counted['output'])} out for each request, the student {saves(saving)} {bounds}."
            )
        else:
            said.append(
                f"With the student on {labels[comparison['student_place']]} and the teacher on "
                f"{labels[comparison['teacher_place']]}, both {busy} and at the speed of the bench machine, the "
                f"student {saves(saving)} {bounds}."
            )
    said.append(volume_sentence(cost))
    said += _compared(comparison)
    requests = comparison.get("break_even_requests")
    spent = figures.seconds((one_off.get("seconds") or {}).get("total"))
    made = f"Making the student cost {figures.usd(one_off.get('total_usd'))} ({spent})"
    if requests is None:
        said.append(f"{made}, and it never pays for itself.")
    else:
        wait = figures.seconds((comparison.get("break_even_months") or 0) * 365.25 / 12 * 86400)
        repaid = f"{figures.count(requests)} requests ({wait} at your volume)"
        said.append(f"{made}, which is repaid after {repaid}.")
    drop = comparison.get("teacher_price_drop_that_erases")
    if drop is not None:
        said.append(
            f"The saving is gone if the teacher's price falls by {figures.percent(drop)} and the student's does not."
        )
    return said


def _compared(comparison: Document) -> list[str]:
    """Which cells stand for the two sides, and what of the difference is the model's."""
    said = [f"The comparison is of {comparison['teacher']} and {comparison['student']}, the cheapest that passed"]
    shipped = comparison.get("shipped")
    runtime = comparison.get("student_runtime")
    apart = shipped is not None and shipped["cell"] != comparison["student"]
    said[0] += f" in {runtime}, where both were measured." if apart else "."
    if parts := split_sentence(comparison.get("split")):
        said.append(parts)
    if apart and shipped is not None:
        said.append(
            f"The file that ships, {shipped['cell']}, costs {figures.usd(shipped['per_1000'])} per 1,000 requests: "
            f"it {saves(shipped['saving'])}. {split_sentence(shipped['split'])}".rstrip()
        )
    split = comparison.get("split")
    if comparison.get("student_is_larger") and split is not None and split["model"] < 1:
        said.append(
            f"The student is larger than its teacher and, {same_as(split)}, costs "
            f"{figures.percent(1 / split['model'] - 1)} more per request: where it is cheaper, "
            "its runtime or quantization makes it so, not the model."
        )
    return said


def saves(share: float | None) -> str:
    """What a student does to the teacher's cost."""
    if share is None:
        return "cannot be compared by cost: the teacher costs nothing"
    if share >= 0:
        return f"saves {figures.percent(share)} of the teacher's cost"
    return f"costs {figures.percent(-share)} more than the teacher"
