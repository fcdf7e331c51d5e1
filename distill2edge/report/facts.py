"""Short lists of facts: training, licence, data, environment. Words and figures, no markup."""

from __future__ import annotations

from typing import Any

from distill2edge.report import figures
from distill2edge.util.terminal import in_short

Document = dict[str, Any]
Pair = tuple[str, str]


def levels(report: Document) -> list[tuple[str, float]]:
    """Name and score of what needs no model, as lines of a chart."""
    baseline = report["metric"].get("baseline") or {}
    name = str(baseline.get("name", "")).split(",")[0].split(":")[0]
    found = [(name, figures.value_of(baseline.get("score"))), ("chance", figures.value_of(baseline.get("chance")))]
    return [(name, value) for name, value in found if value is not None]


def warnings(report: Document) -> list[Document]:
    """Those of the verdict."""
    found: list[Document] = report["verdict"].get("warnings") or []
    return found


def training_facts(report: Document) -> list[Pair]:
    """Tokens, speed, memory and time of the distillation."""
    found = []
    for role in ("student", "control"):
        record = report["training"].get(role)
        if record is None:
            continue
        found += [
            (f"{role}: supervised tokens", figures.count(record.get("supervised_tokens"))),
            (f"{role}: tokens per second", figures.number(record.get("tokens_per_s"))),
            (f"{role}: time", figures.seconds(record.get("wall_s"))),
            (f"{role}: peak memory", figures.size(record.get("peak_rss_bytes"))),
            (f"{role}: type", str(record.get("dtype") or figures.MISSING)),
        ]
    kept = report["student"].get("layers_kept") or report["student"].get("layers")
    if kept:
        found.append(("layers kept", ", ".join(map(str, kept)) if isinstance(kept, list) else str(kept)))
    return found


def merge_facts(report: Document) -> list[Pair]:
    """Logits before and after the merge; nothing of a student trained in full, whose weights need none."""
    merge = report["merge"]
    if merge.get("kind") == "full":
        return []
    found = []
    for key, value in merge.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "difference" in key:
            found.append((f"merge: {key.replace('_', ' ')}", figures.number(value)))
    return found


LICENCE = {
    "accepted": "accepted against the verdict, because",
    "derivative": "the student is made of the teacher's own weights",
    "basis": "how the terms are known",
    "read": "terms read on",
    "declared": "declared as",
    "others": "other declarations",
    "name_prefix": "the student's name must begin with",
}


def licence_facts(report: Document) -> list[tuple[str, str, str | None]]:
    """The teacher's licence record: name, value, address."""
    found = []
    for key, value in report["licence"].items():
        said = "; ".join(map(str, value)) if isinstance(value, list) else "yes" if value is True else str(value)
        found.append((LICENCE.get(key, key.replace("_", " ")), said, figures.web_address(value)))
    return found


NOT_DISTILLATION = "not distillation"


def ledger_facts(report: Document) -> list[Pair]:
    """The synthetic rows: how many were kept, why others were not, by which method, and whether it is distillation."""
    found = []
    for stage, rows in (report.get("ledgers") or {}).items():
        head = f"{stage}: "
        dropped = ", ".join(f"{reason} {figures.count(number)}" for reason, number in rows["dropped"].items())
        methods = ", ".join(f"{name} {figures.count(number)}" for name, number in rows["methods"].items())
        found += [
            (f"{head}rows kept", f"{figures.count(rows['kept'])} of {figures.count(rows['rows'])}"),
            (f"{head}rows dropped", dropped or "none"),
            (f"{head}methods", methods),
        ]
        human = int(rows["not_distillation"])
        taught = int(rows["kept"]) - human
        said = f"{figures.count(taught)} kept rows are responses of the teacher"
        if human:
            said += (
                f"; {figures.count(human)} are {NOT_DISTILLATION}: human texts with instructions that the teacher "
                "wrote for them"
            )
        found.append((f"{head}distillation", said))
        highest = (rows.get("overlap") or {}).get("highest")
        if highest is not None:
            found.append((f"{head}highest overlap with a test row", figures.number(highest)))
        if rows.get("cost_usd"):
            found.append((f"{head}paid to the endpoint", figures.usd(rows["cost_usd"])))
        verifiers = rows.get("verifiers") or {}
        for name, counts in verifiers.items():
            said = f"accepted {figures.count(counts['accepted'])}, refused {figures.count(counts['refused'])}"
            found.append((f"{head}verifier {name}", said))
    return found


def data_facts(report: Document) -> list[Pair]:
    """Source, licence, counts and leakage of the data."""
    data = report["data"]
    found = []
    for key in ("source", "revision", "sha256", "licence"):
        if data.get(key):
            found.append((key, str(data[key])))
    splits = data.get("splits") or {}
    if splits:
        found.append(
            ("rows", ", ".join(f"{name} {figures.count(split.get('rows'))}" for name, split in splits.items()))
        )
    if isinstance(data.get("dropped"), dict):
        held = {name: number for name, number in data["dropped"].items() if number}
        said = ", ".join(f"{name.replace('_', ' ')} {figures.count(number)}" for name, number in held.items())
        found.append(("rows left out", said or "none"))
    leakage = report["leakage"]
    if isinstance(leakage, dict):
        for key, value in leakage.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                shown = (
                    figures.count(value) if key in ("test_rows", "exact", "near", "dropped") else figures.number(value)
                )
                found.append((f"leakage: {key.replace('_', ' ')}", shown))
            elif isinstance(value, str):
                found.append((f"leakage: {key.replace('_', ' ')}", value))
    return found


def environment_facts(report: Document) -> list[Pair]:
    """The machine and the versions."""
    environment = report["environment"]
    machine = environment.get("bench_machine") or environment.get("machine") or {}
    found = []
    for key, value in machine.items():
        if key == "versions" or value in (None, [], ""):
            continue
        if key.endswith("_bytes"):
            found.append((key.removesuffix("_bytes").replace("_", " "), figures.size(value)))
        elif isinstance(value, list):
            found.append((key.replace("_", " "), ", ".join(map(str, value))))
        elif not isinstance(value, dict):
            found.append((key.replace("_", " "), str(value)))
    bench = report["bench"]
    if bench:
        found.append(("threads", figures.count(bench.get("threads"))))
        found.append(("rounds", f"{figures.count(bench.get('rounds'))} fresh processes per cell"))
    versions = machine.get("versions") or environment.get("versions") or {}
    if versions:
        found.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    if report.get("seed") is not None:
        found.append(("seed", str(report["seed"])))
    return found


def contention(report: Document) -> str:
    """A warning where the machine was not quiet."""
    cells = [cell for cell in report["bench"].get("cells", []) if cell.get("contended")]
    if not cells:
        return ""
    why = in_short(str(reason) for cell in cells for reason in (cell.get("contention") or {}).get("reasons", []))
    names = ", ".join(str(cell["id"]) for cell in cells)
    reasons = f"{why[0].upper()}{why[1:]}. " if why else ""
    return f"The machine was busy with other work: {names}. {reasons}Those speeds are a lower bound."
