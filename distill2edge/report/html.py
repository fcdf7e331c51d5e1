"""The report as one HTML page: no script, no network, every string of a model or a data set escaped."""

from __future__ import annotations

import json
import re
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill2edge.errors import UserError
from distill2edge.report import charts, claims, cost_words, curves, facts, quantization, tables
from distill2edge.report.section_list import SECTIONS
from distill2edge.report.sections import cost_section, judge_section, rounds_section, speed_section

SCHEMA_VERSION = 1
Document = dict[str, Any]
_LONGEST = 24
"""Characters that a column is always wide enough for, on a phone too, or may scroll."""


def environment() -> Environment:
    """Templates of this package, escaping always."""
    made = Environment(
        loader=PackageLoader("distill2edge.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["breakable"] = breakable
    return made


def breakable(name: str) -> Markup:
    """An id that a column may break between its parts (`student/`, `onnx:int8`, `@cpu`, `model.`), not within one."""
    parts = re.split(r"(?<=[/.])(?!$)|(?=@)(?<!^)", name)
    pieces = (part[n : n + _LONGEST] for part in parts for n in range(0, len(part), _LONGEST))
    return Markup("<wbr>").join(pieces)


def check_version(report: Document) -> None:
    """Refuse a report of another schema.

    Raises:
        UserError: the schema version is not ours.
    """
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"the report has schema version {str(version)[:40]!r}, this program reads {SCHEMA_VERSION}",
            fix="write it again with this version: distill2edge run RECIPE",
        )


def render_html(report: Document) -> str:
    """report.json as a self-contained page.

    Raises:
        UserError: the schema version is not ours.
    """
    check_version(report)
    cost = report["cost"] or {}
    metric, pareto = report["metric"], report["pareto"]
    one = "text" if metric.get("unit") == "text" else "request"
    recipe = report["reproduce"]["recipe"]
    workloads = [str(workload["name"]) for workload in report["bench"].get("workloads", [])]
    parts: Document = dict(  # noqa: C408 (the names that the template reads)
        report=report,
        failed=report["verdict"]["result"] != "pass",
        lead=claims.lead(report),
        warnings=facts.warnings(report),
        tiles=claims.tiles(report),
        roles=sorted(
            {str(model.get("role")) for model in report["models"]}, key=["teacher", "student", "control"].index
        ),
        latency_chart=charts.pareto_chart(
            pareto["latency"],
            metric,
            x_title=f"milliseconds per {one}, {pareto['workload']}",
            x_unit=f"ms per {one}",
            levels=facts.levels(report),
        ),
        size_chart=charts.pareto_chart(
            pareto["size"], metric, x_title="megabytes on disk", x_unit="MB", levels=facts.levels(report)
        ),
        mix_chart=charts.pareto_chart(
            pareto.get("kl", []),
            {"name": "kl_student", "higher_is_better": False},
            x_title="megabytes on disk",
            x_unit="MB",
        ),
        frontier=quantization.frontier_table(report),
        kl_chart=charts.kl_chart(report["models"], report["gates"], metric.get("unit") or "token"),
        cost_chart=curves.cost_chart(cost),
        break_even_chart=curves.break_even_chart(cost),
        rounds_chart=rounds_section.rounds_chart(report.get("rounds")),
        rounds_table=rounds_section.rounds_table(report),
        training_charts=curves.training_charts(report),
        gates=tables.gates_table(report),
        models=tables.models_table(report),
        by_seed=tables.seeds_table(report),
        distances=tables.distances_table(report),
        files=tables.files_table(report),
        quantized=quantization.quantization_table(report),
        bench_tables=[t for name in workloads if (t := speed_section.bench_table(report, name)) is not None],
        speedups=speed_section.speedup_table(report),
        cost_table=cost_section.cost_table(report),
        four=cost_section.four_table(report),
        busy=cost_section.busy_table(report),
        price_cuts=cost_section.price_cut_table(report),
        prices=cost_section.prices_table(report),
        survival=tables.survival_table(report),
        stages=tables.stages_table(report),
        samples=tables.samples_table(report),
        judged=judge_section.judge_table(report),
        judged_pairs=judge_section.judge_samples(report),
        cost_sentences=cost_words.cost_sentences(report),
        cost=cost,
        training_facts=facts.training_facts(report),
        merge_facts=facts.merge_facts(report),
        licence_facts=facts.licence_facts(report),
        data_facts=facts.data_facts(report),
        ledger_facts=facts.ledger_facts(report),
        environment_facts=facts.environment_facts(report),
        contention=facts.contention(report),
        formulas={**speed_section.formulas(report), **cost.get("formulas", {})},
        recipe_text=json.dumps(recipe, indent=2, ensure_ascii=False) if recipe else "",
    )
    filled = {
        "gates": True,
        "frontier": parts["latency_chart"] or parts["size_chart"],
        "files": parts["files"] or parts["kl_chart"],
        "quality": True,
        "judge": parts["judged"],
        "speed": parts["bench_tables"],
        "cost": cost,
        "rounds": parts["rounds_chart"],
        "training": parts["training_charts"] or parts["training_facts"],
        "licence": parts["licence_facts"],
        "data": parts["data_facts"],
        "synthetic": parts["ledger_facts"],
        "reproduce": True,
    }
    parts["sections"] = [section for section in SECTIONS if filled[section.anchor]]
    return environment().get_template("report.html.j2").render(parts)
