"""The verdict of a report: what the gates came to, what a reader is warned of, whether anything may be claimed."""

from __future__ import annotations

from typing import Any

from distill2edge.report.figures import tick

Document = dict[str, Any]


def verdict_of(passed: bool, gates: list[Document], models: list[Document]) -> Document:
    """pass or fail, in words, with the gates that failed and the models that could not be run."""
    failed = [gate for gate in gates if not gate.get("passed")]
    errors = [{"model": model["id"], "error": model["error"]} for model in models if model.get("error")]
    if not gates:
        summary = "No gates apply: everything is reported, nothing is enforced."
    elif passed:
        summary = f"All {len(gates)} gates passed." if len(gates) != 1 else "The only gate passed."
    else:
        summary = f"{len(failed)} of {len(gates)} gates failed."
    defaults = sorted({float(gate["target"]) for gate in gates if gate.get("default")})
    if defaults:
        limits = " and ".join(tick(limit) for limit in defaults)
        words = ("limits", "are defaults") if len(defaults) > 1 else ("limit", "is the default")
        summary += f" The {words[0]} on KL of {limits} {words[1]}."
    if errors:
        summary += f" {len(errors)} model{'s' if len(errors) != 1 else ''} could not be run."
    return {"result": "pass" if passed else "fail", "summary": summary, "failed_gates": failed, "errors": errors}


def verdict_warnings(
    verify: Document, data: Document | None, bench: Document, student: Document | None, control: Document | None
) -> list[Document]:
    """What stands beside the verdict: verify's own warnings, classes never trained on, a control that is the student,
    cells of a busy machine.

    Args:
        student, control: train.json of each, None where there is none.

    Returns:
        `kind`, `text`, and `headline`: whether a headline may be claimed in spite of it. Those that forbid one first.
    """
    found = list(verify.get("warnings", []))
    choices = (((data or {}).get("splits") or {}).get("train") or {}).get("choices") or {}
    absent = [repr(label.strip()) for label, count in choices.items() if not count]
    if absent:
        named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
        text = f"no training row has {'class' if len(absent) == 1 else 'classes'} {named}"
        found.append({"kind": "class", "text": text, "headline": True})
    if _same_training(student, control):
        text = "control and student are the same training: comparing them says nothing about the teacher's contribution"
        found.append({"kind": "control", "text": text, "headline": True})
    cells = [cell for cell in bench.get("cells", []) if cell.get("contended")]
    if cells:
        busy = f"{len(cells)} of {len(bench['cells'])} speeds were measured while the machine was busy with other work"
        text = f"{busy}: speeds are lower bounds, and their ratios are rough"
        found.append({"kind": "contention", "text": text, "headline": True})
    return found


def _same_training(student: Document | None, control: Document | None) -> bool:
    """Whether student and control are one training: one document, or the same loss at every step."""
    if student is None or control is None:
        return False
    logs = [[(row.get("step"), row.get("loss")) for row in record.get("log") or ()] for record in (student, control)]
    return student == control or (bool(logs[0]) and logs[0] == logs[1])


def withheld_by(passed: bool, warnings: list[Document]) -> str:
    """Why nothing is claimed; empty where a headline may stand."""
    if not passed:
        return "the verdict is fail"
    return next((str(warning["text"]) for warning in warnings if not warning["headline"]), "")
