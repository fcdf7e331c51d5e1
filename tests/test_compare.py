"""Runs side by side: refused where their figures don't compare."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import report_fixtures as made

from distill2edge.cli import compare as compare_command
from distill2edge.errors import UserError
from distill2edge.report.compare import compare, render_comparison_html, render_comparison_text

Document = dict[str, Any]


@pytest.fixture(scope="module")
def report() -> Document:
    return made.report()


def other(report: Document, change: Callable[[Document], object]) -> Document:
    changed = copy.deepcopy(report)
    changed["name"] = "other"
    change(changed)
    return changed


DIFFERENCES: list[tuple[str, Callable[[Document], object]]] = [
    ("machine", lambda r: r["bench"]["machine"].update(cpu="Cortex-A76")),
    ("machine", lambda r: r["bench"].update(threads=4)),
    ("workload", lambda r: r["bench"]["workloads"][0].update(sha256="f" * 64)),
    ("workload", lambda r: r["bench"]["workloads"].pop()),
    ("metric", lambda r: r["metric"].update(name="exact_match")),
    ("test data", lambda r: r["data"]["splits"]["test"].update(sha256="e" * 64)),
    ("price date", lambda r: r["cost"]["prices"].update(as_of="2020-01-01")),
    ("price date", lambda r: r["cost"]["prices"].update(source="catalogue of the package, with mine.yaml on top")),
]


def test_like_runs_stand_side_by_side(report: Document) -> None:
    result = compare([report, other(report, lambda r: None)])
    assert result["warnings"] == []
    assert [run["verdict"] for run in result["runs"]] == ["pass", "pass"]
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    said = render_comparison_text(result)
    assert "quickstart" in said
    assert "student/gguf:Q4_K_M" in said
    assert "97.4% (96.0% to 98.8%)" in said


@pytest.mark.parametrize(("what", "change"), DIFFERENCES)
def test_unlike_runs_are_refused(report: Document, what: str, change: Callable[[Document], object]) -> None:
    with pytest.raises(UserError, match=f"differ in {what}") as caught:
        compare([report, other(report, change)])
    options = {option for parameter in compare_command.params for option in parameter.opts}
    named = re.findall(r"--[a-z-]+", caught.value.fix)
    assert named
    assert set(named) - {"--seeds"} <= options  # what the message names exists


@pytest.mark.parametrize(("what", "change"), DIFFERENCES)
def test_or_said_aloud(report: Document, what: str, change: Callable[[Document], object]) -> None:
    result = compare([report, other(report, change)], allow=True)
    assert [difference["what"] for difference in result["differences"]] == [what]
    assert render_comparison_text(result).startswith(f"warning: {what} differs")
    assert f"{what} differs" in render_comparison_html(result)


def test_what_differs_between_the_recipes_is_a_table(report: Document) -> None:
    changed = other(report, lambda r: r["reproduce"]["recipe"].update(cost={"utilisation": 0.5}, seed=3))
    result = compare([report, changed])
    assert result["recipe_changes"] == [
        {"key": "cost.utilisation", "values": [0.2, 0.5]},
        {"key": "seed", "values": [None, 3]},
    ]
    said = render_comparison_text(result)
    assert re.search(r"^cost\.utilisation +0\.2 +0\.5$", said, re.M)
    assert "What differs between the recipes" in render_comparison_html(result)
    assert "What differs" not in render_comparison_text(compare([report, report]))


def test_one_run_is_no_comparison(report: Document) -> None:
    with pytest.raises(UserError, match="at least two"):
        compare([report])


def test_another_schema_is_refused(report: Document) -> None:
    with pytest.raises(UserError, match="schema version"):
        compare([report, {**report, "schema_version": 9}])


def test_runs_of_one_name_are_told_apart(report: Document) -> None:
    assert compare([report, report])["names"] == ["quickstart (1)", "quickstart (2)"]


def test_a_failed_run_shows_no_figures(report: Document) -> None:
    failing = made.report(passing=False)
    said = render_comparison_text(compare([report, failing], allow=True))
    line = next(line for line in said.splitlines() if line.startswith("saving, own boxes"))
    assert line.endswith("–")  # noqa: RUF001
    assert "fail" in said


def test_a_name_can_neither_break_the_page_nor_steer_the_terminal(report: Document) -> None:
    evil = other(report, lambda r: r["headline"].update(model="<script>alert(1)</script>\x1b[31m"))
    result = compare([report, evil])
    assert "<script" not in render_comparison_html(result)
    assert "\x1b" not in render_comparison_text(result)
