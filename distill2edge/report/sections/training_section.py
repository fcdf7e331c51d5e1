"""The training: losses by step, tokens, speed, memory and time."""

from __future__ import annotations

from distill2edge.report import figures
from distill2edge.report.blocks import Block, Document, Fact, Section, beside, chart, facts, present
from distill2edge.report.curves import training_charts


def blocks(report: Document) -> list[Block]:
    """As `Section.blocks`."""
    charts = [chart(svg, title) for title, svg in training_charts(report)]
    return present(beside(*charts, facts(training_facts(report))))


def training_facts(report: Document) -> list[Fact]:
    """Tokens, speed, memory and time of the distillation."""
    found = []
    for role in ("student", "control", "assistant"):
        record = report["training"].get(role)
        if record is None:
            continue
        found += [
            Fact(f"{role}: supervised tokens", figures.count(record.get("supervised_tokens"))),
            Fact(f"{role}: tokens per second", figures.number(record.get("tokens_per_s"))),
            Fact(f"{role}: time", figures.seconds(record.get("wall_s"))),
            Fact(f"{role}: peak memory", figures.size(record.get("peak_rss_bytes"))),
            Fact(f"{role}: number format", str(record.get("dtype") or figures.MISSING)),
        ]
    kept = report["student"].get("layers_kept") or report["student"].get("layers")
    if kept == []:
        found.append(Fact("layers kept", "none: a table of token vectors"))
    if kept:
        found.append(Fact("layers kept", ", ".join(map(str, kept)) if isinstance(kept, list) else str(kept)))
    if assistant := report["student"].get("assistant"):
        found.append(Fact("assistant: weights", figures.count(assistant["parameters"])))
    for name, width in (report["student"].get("width") or {}).items():
        if isinstance(width, dict):
            found.append(Fact(f"width kept: {name}", f"{width['kept']:,} of {width['of']:,}"))
    vocabulary = report["student"].get("vocabulary")
    if vocabulary:
        found.append(Fact("vocabulary", f"{vocabulary['kept']:,} of {vocabulary['of']:,} tokens"))
        share = figures.percent(vocabulary["unseen_on_test"]["rate"])
        found.append(Fact("test tokens outside the vocabulary, written in smaller pieces", share))
    return found


SECTION = Section("training", "Training", "Training", blocks)
