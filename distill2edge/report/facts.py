"""Short lists of facts: headline tiles, training, licence, data, environment. Words and figures, no markup."""

from __future__ import annotations

from typing import Any

from distill2edge.report import text
from distill2edge.terminal import in_short

Document = dict[str, Any]
Pair = tuple[str, str]


def lead(report: Document) -> str:
    """One sentence under the verdict."""
    headline = report["headline"]
    if headline is None:
        return _no_headline(report)
    measured = measured_on(report)
    if headline["kept"] is None:  # a teacher behind an endpoint is not scored; of one that scores 0 nothing is kept
        score = text.interval(headline["score"])
        said = f"{headline['model']} scores {score} ({text.metric(headline['metric'])}), {measured}"
        if headline["teacher_score"] is None:
            return f"{said}; the teacher was not measured."
        return f"{said}; the teacher scores {text.number(text.value_of(headline['teacher_score']))}."
    kept = text.interval(headline["kept"], text.percent)
    metric = text.metric(headline["metric"])
    whose = f"the teacher's {metric}" if headline["rival"] == "teacher" else f"the {metric} of {headline['rival']}"
    said = f"{headline['model']} keeps {kept} of {whose} ({measured})"
    times = _times_larger(report, headline)
    if times is not None and times > 1:
        return f"{said}. It has {text.ratio(times)} the teacher's parameters. {_price_of_size(report)}"
    if headline["size_ratio"]:
        said += f", is {_either_way(headline['size_ratio'], 'smaller', 'larger')}"
    if headline["speedup"]:
        busy = ", measured on a busy machine" if headline["contended"] else ""
        said += f", and {text.interval(headline['speedup']['ratio'], text.ratio)} as fast{busy}"
    return f"{said}."


def measured_on(report: Document) -> str:
    """`500 held-out rows, one seed`: what stands behind the figures."""
    seeds = report.get("seeds") or {}
    said = f"seeds {', '.join(map(str, seeds['seeds']))}" if seeds else "one seed"
    return f"{text.count(report['metric']['rows'])} held-out rows, {said}"


def _no_headline(report: Document) -> str:
    """Why there is none."""
    if report["verdict"]["result"] == "fail":
        return "No headline and no saving are claimed for a student that failed."
    forbidding = [warning["text"] for warning in warnings(report) if not warning["headline"]]
    if forbidding:
        return f"No headline and no saving are claimed: {forbidding[0]}."
    if any(model.get("role") == "student" and model.get("above_baseline") is False for model in report["models"]):
        return "No headline is claimed: no file beats what needs no model by more than noise."
    return "No file that ships could be measured, so there is no headline."


def levels(report: Document) -> list[tuple[str, float]]:
    """Name and score of what needs no model, as lines of a chart."""
    baseline = report["metric"].get("baseline") or {}
    name = str(baseline.get("name", "")).split(",")[0].split(":")[0]
    found = [(name, text.value_of(baseline.get("score"))), ("chance", text.value_of(baseline.get("chance")))]
    return [(name, value) for name, value in found if value is not None]


def warnings(report: Document) -> list[Document]:
    """Those of the verdict."""
    found: list[Document] = report["verdict"].get("warnings") or []
    return found


def _price_of_size(report: Document) -> str:
    """What a student larger than its teacher costs, as measured: like for like, and by its file."""
    comparison = (report["cost"] or {}).get("comparison") or {}
    split = comparison.get("split")
    if split is None:
        return "The gain is quality; what its size costs per request was not measured in a runtime that both have."
    added = 1 / split["model"] - 1
    like = f"like for like ({_like(split)})"
    if added <= 0:
        return f"Yet {like} it {_saves(-added)} of the teacher's cost per request."
    said = f"The gain is quality: {like} the student costs {text.percent(added)} more per request"
    if (comparison.get("saving_same_box") or 0) > 0:
        return f"{said}; only another runtime or quantization of its file makes it cheaper."
    return f"{said}."


def _like(split: Document) -> str:
    """How the step of a split is like the teacher's cell."""
    return f"both in {split['runtime']}" + (", the same quantization" if split["same"] == "scheme" else "")


def split_sentence(split: Document | None) -> str:
    """The model's part of a ratio of costs, and that of runtime and quantization; empty where it is all the model's."""
    if split is None or abs(split["rest"] - 1) < 0.005:
        return ""
    return (
        f"Of the {text.ratio(split['model'] * split['rest'])} lower cost the student's model gives "
        f"{text.ratio(split['model'])} ({_like(split)}: {split['cell']}), its runtime and quantization "
        f"{text.ratio(split['rest'])}."
    )


def _times_larger(report: Document, headline: Document) -> float | None:
    """The student's parameters over the teacher's. More than one is a normal case, with another use."""
    counts = {str(model["id"]): model.get("parameters") for model in report["models"]}
    student, teacher = counts.get(str(headline["model"])), counts.get("teacher")
    return student / teacher if student and teacher else None


def tiles(report: Document) -> list[tuple[str, str, str]]:
    """Headline figures: name, value, what stands beside it."""
    headline = report["headline"]
    if headline is None:
        return []
    score, rival, control = (
        text.number(text.value_of(headline[key])) for key in ("score", "rival_score", "control_score")
    )
    busy = "; on a busy machine: a lower bound" if headline["contended"] else ""
    quality = headline["kept"]
    against = f"{score} against {rival} of {headline['rival']}" if quality else "the teacher was not scored"
    found = [
        (
            "Quality kept" if quality else text.metric(headline["metric"]).capitalize(),
            text.percent(text.value_of(quality)) if quality else score,
            "; ".join(
                part
                for part in (
                    text.span(quality or headline["score"], text.percent if quality else text.number),
                    measured_on(report),
                    against,
                    f"{control} without the teacher" if headline["control_score"] else "",
                )
                if part
            ),
        ),
        (
            "Size",
            text.size(headline["size_bytes"]),
            f"{_either_way(headline['size_ratio'], 'smaller', 'larger')} than {headline['rival']}, "
            f"{text.size(headline['teacher_size_bytes'])}"
            if headline["rival"]
            else "the teacher's file is not here",
        ),
    ]
    speedup = headline["speedup"]
    if speedup:
        saved = text.value_of(speedup.get("time_saved"))
        span = text.span(speedup["ratio"], text.ratio)
        found.append(
            (
                "Speed-up",
                text.ratio(text.value_of(speedup["ratio"])),
                f"{text.percent(saved and abs(saved), 0)} {'of the time saved' if (saved or 0) >= 0 else 'more time'}, "
                + (f"{span}, " if span else "")
                + f"against {speedup['against']}{busy}",
            )
        )
    if headline["saving"] is not None:
        found.append(_saving_tile(report, headline))
        requests = headline["break_even_requests"]
        found.append(
            (
                "Break-even",
                "never" if requests is None else text.count(requests),
                ("the student is not cheaper" if requests is None else "requests until it has paid for itself")
                + ("" if headline["same_place"] else f", served on {_place(report, headline)}"),
            )
        )
    return found


def _either_way(ratio: Any, above: str, below: str) -> str:
    """A ratio as a factor above one: `2.00x smaller`, and of 0.5 `2.00x larger`."""
    factor = text.value_of(ratio)
    return f"{text.ratio(factor)} {above}" if not factor or factor >= 1 else f"{text.ratio(1 / factor)} {below}"


def _saving_tile(report: Document, headline: Document) -> tuple[str, str, str]:
    """The saving, what has to be true for it, and whether the speeds behind it were measured on a quiet machine."""
    name, value, beside = _saving(report, headline)
    busy = " Speeds of a busy machine." if headline["contended"] else ""
    return name, value, f"{beside}. {volume_sentence(report['cost'])}{busy}"


def volume_sentence(cost: Document) -> str:
    """What the user's own volume costs a month, as assumed and on a box that serves nothing else."""
    comparison = cost["comparison"]
    at = comparison.get("at_volume")
    if not at:
        return f"At {cost['utilisation']:.0%} busy."
    volume, assumed = f"{text.count(at['requests_per_month'])} requests a month", f"{cost['utilisation']:.0%}"
    student, teacher = text.usd(at["student_alone_usd"]), text.usd(at["teacher_alone_usd"])
    busy = [at[key] for key in ("student_busy", "teacher_busy") if at[key] is not None]
    if min(busy) >= cost["utilisation"]:
        return f"At {assumed} busy; your {volume} keep a box busier than that."
    alone = f"a box that serves nothing else costs {student} a month against {teacher}"
    shares = f"your {volume} keep the student's box {text.percent(at['student_busy'])} busy"
    return f"True at {assumed} busy, so if other work shares the box: {shares}, and {alone}."


def _saving(report: Document, headline: Document) -> tuple[str, str, str]:
    """The saving on one and the same box first: only there were both speeds measured."""
    saving, same = headline["saving"], headline["saving_same_box"]
    student, teacher = text.usd(headline["cost_per_1000"]), text.usd(headline["teacher_cost_per_1000"])
    prices = f"{student} against {teacher} per 1,000 requests"
    if headline.get("saving_of") and headline["saving_of"] != headline["cell"]:
        prices += f", {headline['saving_of']} against {headline['saving_against']}: the runtime that both have"
    if str(headline.get("teacher_place")).startswith("api:"):  # what is paid today; no box is shared with it
        prices = f"{prices} at {_label(report, headline['teacher_place'])}"
        return ("Cost saved" if saving >= 0 else "Cost added", text.percent(abs(saving)), prices)
    if headline["same_place"] or same is None:
        return ("Cost saved" if saving >= 0 else "Cost added", text.percent(abs(saving)), prices)
    place = _place(report, headline)
    return (
        "Cost saved, same box" if same >= 0 else "Cost added, same box",
        text.percent(abs(same)),
        f"{text.percent(saving)} if served on {place} at the speed of the bench machine: {prices}",
    )


def _place(report: Document, headline: Document) -> str:
    return _label(report, headline["student_place"])


def _label(report: Document, place: str) -> str:
    cells = (report["cost"] or {}).get("cells") or []
    return next((str(cell["label"]) for cell in cells if cell["place"] == place), "its own box")


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
    busy = f"{cost['utilisation']:.0%} busy"
    saving, same = comparison["saving"], comparison.get("saving_same_box")
    labels = {cell["place"]: cell["label"] for cell in cost["cells"]}
    bounds = (
        f"over the bounds of the prices between {text.percent(comparison.get('saving_low'))} and "
        f"{text.percent(comparison.get('saving_high'))}"
    )
    said = []
    if comparison["teacher_place"] == comparison["student_place"]:
        place = labels[comparison["teacher_place"]]
        said.append(f"Both on {place} and {busy}, the student {_saves(saving)} of what the teacher costs; {bounds}.")
    else:
        if same is not None:
            box = (cost["four_cells"].get("teacher_same_box") or {}).get("label")
            said.append(f"Both on {box} and {busy}, the student {_saves(same)} of what the teacher costs.")
        if comparison["teacher_place"].startswith("api:"):
            counted = cost["tokens"]
            cached = f" and {text.number(counted['cached'])} cached" if counted["cached"] else ""
            said.append(
                f"The student on {labels[comparison['student_place']]}, {busy}, against "
                f"{labels[comparison['teacher_place']]} at {text.number(counted['input'])} tokens in{cached} and "
                f"{text.number(counted['output'])} out for each request, {_saves(saving)}; {bounds}."
            )
        else:
            said.append(
                f"The student on {labels[comparison['student_place']]} against the teacher on "
                f"{labels[comparison['teacher_place']]}, both {busy} and both at the speed of the bench machine, "
                f"{_saves(saving)}; {bounds}."
            )
    said.append(volume_sentence(cost))
    said += _compared(comparison)
    requests = comparison.get("break_even_requests")
    spent = text.seconds((one_off.get("seconds") or {}).get("total"))
    made = f"Making it took {text.usd(one_off.get('total_usd'))} ({spent})"
    if requests is None:
        said.append(f"{made}, and it never pays for itself.")
    else:
        wait = text.seconds((comparison.get("break_even_months") or 0) * 365.25 / 12 * 86400)
        repaid = f"{text.count(requests)} requests ({wait} at your volume)"
        said.append(f"{made}, which is repaid after {repaid}.")
    drop = comparison.get("teacher_price_drop_that_erases")
    if drop is not None:
        said.append(
            f"The saving is gone if the teacher's price falls by {text.percent(drop)} and the student's does not."
        )
    return said


def _compared(comparison: Document) -> list[str]:
    """Which cells stand for the two sides, and what of the difference is the model's."""
    said = [f"Compared are {comparison['teacher']} and {comparison['student']}, the cheapest that pass"]
    shipped = comparison.get("shipped")
    runtime = comparison.get("student_runtime")
    apart = shipped is not None and shipped["cell"] != comparison["student"]
    said[0] += f" in {runtime}, which both were measured in." if apart else "."
    if parts := split_sentence(comparison.get("split")):
        said.append(parts)
    if apart and shipped is not None:
        said.append(
            f"The file that ships, {shipped['cell']}, costs {text.usd(shipped['per_1000'])} per 1,000 requests: "
            f"against this teacher it {_saves(shipped['saving'])}. {split_sentence(shipped['split'])}".rstrip()
        )
    split = comparison.get("split")
    if comparison.get("student_is_larger") and split is not None and split["model"] < 1:
        said.append(
            f"The student is larger than its teacher and, {_like(split)}, costs {text.percent(1 / split['model'] - 1)} "
            "more per request: where it is cheaper, its runtime or quantization makes it so, not the model."
        )
    return said


def _saves(share: float | None) -> str:
    if share is None:
        return "cannot be compared"
    return f"saves {text.percent(share)}" if share >= 0 else f"adds {text.percent(-share)}"


def training_facts(report: Document) -> list[Pair]:
    """Tokens, speed, memory and time of the distillation."""
    found = []
    for role in ("student", "control"):
        record = report["training"].get(role)
        if record is None:
            continue
        found += [
            (f"{role}: supervised tokens", text.count(record.get("supervised_tokens"))),
            (f"{role}: tokens per second", text.number(record.get("tokens_per_s"))),
            (f"{role}: time", text.seconds(record.get("wall_s"))),
            (f"{role}: peak memory", text.size(record.get("peak_rss_bytes"))),
            (f"{role}: type", str(record.get("dtype") or text.MISSING)),
        ]
    kept = report["student"].get("layers_kept") or report["student"].get("layers")
    if kept:
        found.append(("layers kept", ", ".join(map(str, kept)) if isinstance(kept, list) else str(kept)))
    return found


def merge_facts(report: Document) -> list[Pair]:
    """Logits before and after the merge."""
    merge = report["merge"]
    found = []
    for key, value in merge.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "difference" in key:
            found.append((key.replace("_", " "), text.number(value)))
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
        found.append((LICENCE.get(key, key.replace("_", " ")), said, text.web_address(value)))
    return found


NOT_DISTILLATION = "not distillation"


def ledger_facts(report: Document) -> list[Pair]:
    """The synthetic rows: how many were kept, why others were not, by which method, and whether it is distillation."""
    found = []
    for stage, rows in (report.get("ledgers") or {}).items():
        head = f"{stage}: "
        dropped = ", ".join(f"{reason} {text.count(number)}" for reason, number in rows["dropped"].items())
        methods = ", ".join(f"{name} {text.count(number)}" for name, number in rows["methods"].items())
        found += [
            (f"{head}rows kept", f"{text.count(rows['kept'])} of {text.count(rows['rows'])}"),
            (f"{head}rows dropped", dropped or "none"),
            (f"{head}methods", methods),
        ]
        human = int(rows["not_distillation"])
        taught = int(rows["kept"]) - human
        said = f"{text.count(taught)} kept rows are responses of the teacher"
        if human:
            said += (
                f"; {text.count(human)} are {NOT_DISTILLATION}: human texts with instructions that the teacher wrote "
                "for them"
            )
        found.append((f"{head}distillation", said))
        highest = (rows.get("overlap") or {}).get("highest")
        if highest is not None:
            found.append((f"{head}highest overlap with a test row", text.number(highest)))
        if rows.get("cost_usd"):
            found.append((f"{head}paid to the endpoint", text.usd(rows["cost_usd"])))
        verifiers = rows.get("verifiers") or {}
        for name, counts in verifiers.items():
            said = f"accepted {text.count(counts['accepted'])}, refused {text.count(counts['refused'])}"
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
        found.append(("rows", ", ".join(f"{name} {text.count(split.get('rows'))}" for name, split in splits.items())))
    if isinstance(data.get("dropped"), dict):
        held = {name: number for name, number in data["dropped"].items() if number}
        said = ", ".join(f"{name.replace('_', ' ')} {text.count(number)}" for name, number in held.items())
        found.append(("rows left out", said or "none"))
    leakage = report["leakage"]
    if isinstance(leakage, dict):
        for key, value in leakage.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                shown = text.count(value) if key in ("test_rows", "exact", "near", "dropped") else text.number(value)
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
            found.append((key.removesuffix("_bytes").replace("_", " "), text.size(value)))
        elif isinstance(value, list):
            found.append((key.replace("_", " "), ", ".join(map(str, value))))
        elif not isinstance(value, dict):
            found.append((key.replace("_", " "), str(value)))
    bench = report["bench"]
    if bench:
        found.append(("threads", text.count(bench.get("threads"))))
        found.append(("rounds", f"{text.count(bench.get('rounds'))} fresh processes per cell"))
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
