"""Runs side by side: refused where their figures don't compare."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
import report_fixtures as made

from distill2edge.cli.main import compare as compare_command
from distill2edge.errors import UserError
from distill2edge.report.check import check_report
from distill2edge.report.compare import compare, render_comparison_html, render_comparison_text
from distill2edge.report.document import build_report

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


def row_of(said: str, name: str) -> list[str]:
    line = next(line for line in said.splitlines() if line.startswith(name))
    return re.split(r"  +", line)[1:]


def test_what_is_not_claimed_is_shown_as_measured(report: Document) -> None:
    failing = made.report(passing=False)
    failing["name"] = "failing"
    result = compare([report, failing], allow=True)
    said = render_comparison_text(result)
    assert "warning: failing: its figures are as measured; no headline and no saving are claimed for a student" in said
    assert row_of(said, "headline") == ["claimed", "withheld"]
    # Of the files whose every gate passed, the fastest; and the figures of that file, each with its interval.
    assert row_of(said, "file") == ["student/gguf:Q4_K_M", "student/gguf:Q4_K_M"]
    for name in ("score", "quality kept", "KL to student", "time of a request", "speed-up", "cost of 1,000 requests"):
        claimed, measured = row_of(said, name)
        assert measured == claimed
        assert re.fullmatch(r"\S+( ms)? \(\S+( ms)? to \S+( ms)?\)", measured), name
    assert row_of(said, "size") == ["57.0 MB", "57.0 MB"]
    for name in ("saving, same box", "saving, own boxes", "break-even requests"):
        assert row_of(said, name)[1] == "–"  # noqa: RUF001


def test_a_warning_that_forbids_a_headline_takes_no_figure(report: Document) -> None:
    verify = made.passing_verify()
    verify["warnings"] = [{"kind": "baseline", "text": "the teacher is within noise", "headline": False}]
    bench = made.bench(verify["models"], broken=False)
    priced = made.cost(bench, verify, student={"device": "raspberry-pi-5"})
    poor = build_report(made.run(), made.data(), None, None, None, None, [], verify, bench, priced)
    runs = compare([report, poor], allow=True)["runs"]
    assert [run["headline"] for run in runs] == [True, False]
    for key in ("score", "retained", "kl_student", "size_bytes", "latency_ms", "speedup"):
        assert runs[0][key] is not None
        assert runs[1][key] is not None
    assert runs[0]["cost_per_1000"]["low"] < runs[0]["cost_per_1000"]["value"] < runs[0]["cost_per_1000"]["high"]


def test_where_every_file_failed_the_one_that_failed_least_is_shown(report: Document) -> None:
    failing = made.report(passing=False)
    for gate in failing["gates"]:
        gate["passed"] = gate["passed"] and gate["name"] == "loads" and gate["model"] == "student/gguf:Q4_0"
    assert compare([report, failing], allow=True)["runs"][1]["file"] == "student/gguf:Q4_0"
    for model in failing["models"]:
        model["cells"] = []
    failing["bench"] = {}
    failing["cost"] = None
    run = compare([report, failing], allow=True)["runs"][1]
    assert (run["file"], run["latency_ms"], run["cost_per_1000"]) == ("student/gguf:Q4_0", None, None)
    failing["models"] = []
    assert compare([report, failing], allow=True)["runs"][1]["score"] is None


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["models"][1].update(retained={"value": "x"}),
        lambda r: r["cost"]["four_cells"]["student_best_box"].update(place={}),
        lambda r: r["gates"][0].pop("target"),
        lambda r: r["models"][0].update(cells=[{"id": "x", "latency_ms": 3}]),
        lambda r: r["verdict"].update(warnings=["x"]),
    ],
)
def test_a_damaged_report_is_refused(report: Document, change: Callable[[Document], object]) -> None:
    with pytest.raises(UserError, match="not a report of this program, or a damaged one"):
        check_report(other(report, change), "report.json")
    assert check_report(copy.deepcopy(report), "report.json") == report


def test_the_seeds_of_one_recipe_are_pooled_by_run(report: Document) -> None:
    report = other(report, lambda r: r["reproduce"]["recipe"].update(seed=0))
    again = other(report, lambda r: r["reproduce"]["recipe"].update(seed=1))
    again["seed"] = 1
    assert compare([report, again])["warnings"] == [
        "these runs differ only in their seed; for one figure over all of them: distill2edge run RECIPE --seeds 0,1"
    ]


def test_a_name_can_neither_break_the_page_nor_steer_the_terminal(report: Document) -> None:
    evil = other(report, lambda r: r["headline"].update(model="<script>alert(1)</script>\x1b[31m"))
    result = compare([report, evil])
    assert "<script" not in render_comparison_html(result)
    assert "\x1b" not in render_comparison_text(result)
