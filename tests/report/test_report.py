"""The report: verdict first, nothing claimed for a failed student, nothing loaded, everything escaped."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from typing import Any

import pytest
import report_fixtures as made
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.report import charts, claims, cost_words, curves
from distill2edge.report import figures as text
from distill2edge.report.blocks import (
    Beside,
    Block,
    Cell,
    Chart,
    Code,
    Details,
    Fact,
    Facts,
    Listing,
    Notes,
    Paragraph,
    Section,
    Table,
    row,
)
from distill2edge.report.card import render_card
from distill2edge.report.document import build_report
from distill2edge.report.frontier import pareto
from distill2edge.report.html import breakable, render_html
from distill2edge.report.markdown import render_markdown
from distill2edge.report.section_list import SECTIONS
from distill2edge.report.sections import cost_section, data_section, gates_section, quality_section, speed_section
from distill2edge.report.sections.judge_section import judge_summary
from distill2edge.report.svg import TICK, Drawing, Scale, fit_scale, text_width

Document = dict[str, Any]
XSS = "<script>alert(1)</script><img src=x onerror=alert(2)>\"'`|[x](javascript:alert(3))"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Page(HTMLParser):
    """Tags, attributes, visible text, and whether the tags balance."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(page.replace("<wbr>", ""))  # a place where an id may break is no end of a word
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def passing() -> Document:
    return made.report()


@pytest.fixture(scope="module")
def failing() -> Document:
    return made.report(passing=False)


def test_it_is_json_with_a_version(passing: Document) -> None:
    assert passing["schema_version"] == 1
    assert json.loads(json.dumps(passing, allow_nan=False)) == passing


def test_the_headline_is_one_file_against_the_best_baseline(passing: Document) -> None:
    headline = passing["headline"]
    assert headline["model"] == "student/gguf:Q4_K_M"
    assert headline["teacher_size_of"] == "teacher/gguf:Q8_0"  # neither the fp32 weights nor the 4-bit file that fails
    assert headline["size_ratio"] == pytest.approx(145 / 57)
    assert headline["speedup"]["against"] == "teacher/gguf:Q8_0@cpu"
    assert headline["control_score"]["value"] == 0.836


def test_the_verdict_comes_first(passing: Document, failing: Document) -> None:
    for report, word in ((passing, "pass"), (failing, "fail")):
        page = Page(render_html(report))
        assert page.words.index(word) < page.words.index("Gates")
        assert render_markdown(report).startswith(f"# quickstart: {word.upper()}\n")


def test_a_failed_student_saves_nothing(failing: Document) -> None:
    assert failing["headline"] is None
    assert failing["cost"]["comparison"] is None
    words = Page(render_html(failing)).words
    assert "no saving is claimed" in words
    assert "4 of 16 gates failed" in words
    assert "Cost saved" not in words
    assert "Break-even" not in words
    assert "withheld" in render_markdown(failing)


def test_failures_are_named(failing: Document) -> None:
    words = Page(render_html(failing)).words
    assert "student/gguf:Q2_K could not be run: the runtime died with signal 6" in words
    assert "failed: killed after 600 s" in words


def test_what_the_reader_asked_for_is_there(passing: Document) -> None:
    words = Page(render_html(passing)).words
    for expected in (
        "distill2edge run recipes/quickstart.yaml",
        "AMD EPYC 7763",
        "torch 2.13.0",
        "Apache License 2.0",
        "exact",
        "(E2E - TTFT) / (n_out - 1)",
        "0.850 to 0.886",
        "speed measured on this machine",
        "Do the trained changes survive",
        "blk.0.ffn_down Q4_K -> Q5_0",
        "Raspberry Pi 5",
        "at the speed of the bench machine",
    ):
        assert expected in words, expected


def test_seven_charts_with_hover_titles(passing: Document) -> None:
    page = render_html(passing)
    assert page.count('<svg class="chart"') == 7
    assert "student/gguf:Q8_0@cpu: accuracy 0.869 (0.851 to 0.887)" in page
    assert "on the frontier" in page


def test_nothing_is_loaded_and_nothing_runs(passing: Document, failing: Document) -> None:
    for report in (passing, failing):
        page = Page(render_html(report))
        for tag, attributes in page.tags:
            assert tag not in {"script", "link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}
            assert "src" not in attributes
            assert not any(name.startswith("on") for name in attributes)
            if "href" in attributes:
                assert tag == "a"
                assert re.match(r"https?://|#", attributes["href"] or "")
            assert "url(" not in (attributes.get("style") or "")
        css = re.search(r"<style>(.*?)</style>", render_html(report), re.S)
        assert css is not None
        assert "url(" not in css[1]
        assert "@import" not in css[1]
        policy = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
        assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
        assert page.open == []


def hostile_report() -> Document:
    verify = made.passing_verify()
    bench = made.bench(verify["models"])
    cost = made.cost(bench, verify, student={"device": "raspberry-pi-5"})
    documents = [made.run(), made.data(), made.teacher(), {"layers": [0, 1]}, made.train(), made.merge(),
                 made.exports(verify["models"]), verify, bench, cost]  # fmt: skip
    verify["samples"] = [{"prompt": "ask", "expected": "answer", "outputs": {"student": "said"}}]
    report = build_report(*[_hostile(document) for document in documents], control=made.train())  # type: ignore[arg-type]
    report["licence"]["source"] = "javascript:alert(1)"
    report["judge"] = made.hostile(judge_summary(made.judge(made.verify()["models"]), None) or {}, XSS)
    report["name"] += XSS
    report["metric"]["name"] += XSS
    return report


def _hostile(document: Any) -> Any:
    return [made.hostile(item, XSS) for item in document] if isinstance(document, list) else made.hostile(document, XSS)


def test_every_string_is_escaped() -> None:
    source = render_html(hostile_report())
    page = Page(source)
    assert "<script" not in source
    assert "<img" not in source
    assert source.count("&lt;script&gt;") > 100
    assert page.open == []
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert not (attributes.get("href") or "").startswith("javascript:")
    for place in ("ask", "answer", "said", "student's answer 0", "Answer A, I think"):
        assert f"{place}<script>" in page.words  # shown as text


def test_markdown_escapes_too() -> None:
    source = render_markdown(hostile_report())
    outside = re.sub(r"(`+).*?\1", "", source, flags=re.S)
    assert "<script" not in outside
    assert "<img" not in outside
    assert not re.search(r"(?<!\\)\]\(javascript", outside)
    for line in source.splitlines():
        if line.startswith("| "):  # a pipe of a model's name makes no column
            assert re.search(r"(?<!\\)\|$", line)


def test_the_judge_has_a_section_with_the_first_pair_of_each_outcome() -> None:
    report = made.report(passing=False, judged=True)
    for words in (Page(render_html(report)).words, render_markdown(report)):
        assert "Judged by owner/judge" in words
        assert "could not be run: the runtime died with signal 6" in words
        assert "50.0%" in words
        assert "student's answer 3" in words
        assert "favour their own answers" not in words
    samples = report["judge"]["samples"]
    assert samples["model"] == "student/gguf:Q4_0"  # no headline: the last that ran
    assert [pair["outcome"] for pair in samples["pairs"]] == ["win", "loss", "inconsistent", "unreadable"]
    assert "pairs" not in report["judge"]
    headline = made.report(judged=True)
    assert headline["judge"]["samples"]["model"] == headline["headline"]["model"]
    headline["judge"]["judge"] |= {"akin": ["teacher"], "model": "/home/me/judge-8b"}
    assert "The judge is the teacher's own model" in render_markdown(headline)
    assert "**Judged by judge-8b**" in render_markdown(headline)
    assert "Judged by" not in render_markdown(made.report())


@pytest.mark.parametrize(
    "options",
    [
        {"control": False},
        {"teacher_schemes": False},
        {"control": False, "teacher_schemes": False},
    ],
)
def test_missing_arms_render(options: dict[str, bool]) -> None:
    page = Page(render_html(made.report(**options)))
    assert ("without the teacher" in page.words) == options.get("control", True)
    assert render_markdown(made.report(**options))


def test_a_student_larger_than_its_teacher_is_said_to_cost_what_was_measured() -> None:
    document = made.report()
    assert "costs more" not in claims.lead(document)
    for model in document["models"]:
        if model["role"] == "teacher":
            model["parameters"] = 12_000_000
    # Its parameters alone say nothing of its cost: what was measured does, and here it is cheaper like for like.
    assert claims.lead(document).endswith(
        "5.62x the teacher's parameters. Yet like for like (both in llama.cpp, the same quantization) it saves 52.5% "
        "of the teacher's cost per request."
    )
    document["cost"]["comparison"]["split"]["model"] = 0.8
    assert claims.lead(document).endswith(
        "The gain is quality: like for like (both in llama.cpp, the same quantization) the student costs 25.0% more "
        "per request; only another runtime or quantization of its file makes it cheaper."
    )
    document["cost"]["comparison"]["split"] = None
    assert "was not measured" in claims.lead(document)


def test_only_verify_is_enough() -> None:
    verify = made.passing_verify()
    report = build_report(made.run(stages=[], environment={}), None, None, None, None, None, [], verify, None, None)
    page = Page(render_html(report))
    assert "Speed and memory" not in page.words
    assert "Cost" not in page.words
    assert report["headline"]["model"].startswith("student/")
    assert "## Speed" not in render_markdown(report)


def test_a_teacher_at_an_api_is_compared_by_what_a_request_costs_there() -> None:
    tokens = {"input": 2000, "cached": 500, "output": 100, "counted_with": "own count"}
    api = {"teacher": {"api": "openai-gpt-5.6-luna"}, "tokens": tokens}
    report = made.report(with_cost=api)
    comparison = report["cost"]["comparison"]
    for words in (Page(render_html(report)).words, render_markdown(report)):
        assert "OpenAI gpt-5.6-luna at 2,000 tokens in and 500 cached and 100 out for each request" in words
        assert "If the teacher's price falls" in words
        assert "By utilisation" in words
        assert text.percent(comparison["saving"]) in words
        assert text.percent(comparison["teacher_price_drop_that_erases"]) in words
    assert "1,000 requests at OpenAI gpt-5.6-luna" in Page(render_html(report)).words  # the headline's tile


def test_no_gates_and_no_models() -> None:
    verify = {"metric": "accuracy", "rows": 1, "tokens": 1, "models": [], "gates": [], "verdict": "pass"}
    report = build_report(made.run(), made.data(), None, None, None, None, [], verify, None, None)
    assert "sets no gates" in Page(render_html(report)).words
    assert report["headline"] is None


def test_a_likelihood_is_better_when_higher() -> None:
    verify = {**made.passing_verify(), "metric": "neg_log_likelihood"}
    report = build_report(made.run(), None, None, None, None, None, [], verify, made.bench(verify["models"]), None)
    assert report["metric"]["higher_is_better"]
    assert "probability per token" in Page(render_html(report)).words


def test_contended_cells_are_told() -> None:
    verify = made.passing_verify()
    bench = made.bench(verify["models"], contended=True)
    report = build_report(made.run(), None, None, None, None, None, [], verify, bench, None)
    words = Page(render_html(report)).words
    assert "12% of the time was stolen" in words
    assert "teacher@cpu (contended)" in words


def test_numbers_that_are_none_or_not_finite_are_dashes() -> None:
    for value in (None, float("nan"), float("inf"), "x", True):
        for write in (text.number, text.percent, text.usd, text.size, text.milliseconds, text.seconds, text.count):
            assert write(value) == text.MISSING
    assert text.interval({"value": 0.5, "low": None, "high": float("inf")}) == "0.500"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.number(0.8712), "0.871"),
        (text.number(0), "0"),
        (text.number(12345.6), "12,346"),
        (text.number(0.0000123), "1.2e-05"),
        (text.number(0.99999), "1.00"),
        (text.percent(0.974), "97.4%"),
        (text.usd(0.0536), "$0.0536"),
        (text.usd(-12.5), "-$12.50"),
        (text.usd(1234.5), "$1,234"),
        (text.size(91.7e6), "91.7 MB"),
        (text.milliseconds(655), "655 ms"),
        (text.milliseconds(12_300), "12.3 s"),
        (text.seconds(752), "12 min 32 s"),
        (text.seconds(7300), "2 h 01 min"),
        (text.seconds(86400 * 10), "10 days"),
        (text.count(134_515_008), "134.5M"),
    ],
)
def test_how_figures_are_written(written: str, expected: str) -> None:
    assert written == expected


def test_another_schema_version_is_refused(passing: Document) -> None:
    with pytest.raises(UserError, match="schema version '2'"):
        render_html({**passing, "schema_version": 2})


points = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(points, st.booleans())
def test_the_frontier_is_what_nothing_beats(drawn: list[tuple[int, int]], higher: bool) -> None:
    marked = pareto([{"x": {"value": x}, "y": {"value": y}} for x, y in drawn], higher)
    assert len(marked) == len(drawn)
    assert any(point["frontier"] for point in marked)
    sign = 1 if higher else -1
    for point in marked:
        x, y = point["x"]["value"], sign * point["y"]["value"]
        beaten = any(a <= x and sign * b >= y and (a, b) != (x, sign * y) for a, b in drawn)
        assert point["frontier"] == (not beaten)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=20))
def test_scales_hold_their_values_and_have_ticks(values: list[float]) -> None:
    scale = fit_scale(values, 0, 100)
    for value in values:
        assert 0 <= scale(value) <= 100
    ticks = scale.ticks()
    assert ticks == sorted(ticks)
    assert 1 <= len(ticks) <= 14


@given(st.floats(1e-7, 1e5), st.floats(1.5, 1e6))
def test_numbers_of_an_axis_never_touch(low: float, span: float) -> None:
    drawing = Drawing("axis")
    drawing.x_axis(fit_scale([low, low * span], 180, 440, log=True), 100, 0, text.tick, "nats")
    spots = [
        (float(x), number)
        for x, number in re.findall(r'<text x="([0-9.]+)"[^>]*class="tick"[^>]*>([^<]+)</text>', str(drawing.render()))
    ]
    assert spots
    for (left, a), (right, b) in itertools.pairwise(spots):
        assert left + text_width(a, TICK) / 2 <= right - text_width(b, TICK) / 2


def test_scales_run_the_way_they_are_told() -> None:
    scale = Scale(1, 100, 200, 0, log=True)
    assert scale(10) == pytest.approx(100)
    assert scale(1e9) == 0


def test_charts_with_one_point_or_none() -> None:
    metric = {"name": "accuracy", "higher_is_better": True}
    point = {
        "id": "a@cpu",
        "role": "student",
        "x": {"value": 3.0},
        "y": {"value": 0.0},
        "frontier": True,
        "passed": None,
    }
    assert charts.pareto_chart([], metric, x_title="x", x_unit="u") is None
    assert "<circle" in str(charts.pareto_chart([point], metric, x_title="x", x_unit="u"))
    assert charts.kl_chart([], []) is None
    assert curves.cost_chart({}) is None
    free = {"cell": "student@cpu", "model": "student", "place": "mine", "label": "mine", "cost_per_1000": {"1.0": 0.0}}
    assert curves.cost_chart({"cells": [free]}) is None
    assert curves.break_even_chart({"comparison": None}) is None
    training = {"student": {"log": None, "eval": None}, "control": None}
    assert curves.training_charts({"training": training, "reproduce": {"recipe": {}}}) == []


def test_a_break_even_that_never_comes_is_drawn_without_one() -> None:
    cost = {"comparison": {"teacher_per_1000": 1.0, "student_per_1000": 2.0, "break_even_requests": None},
            "one_off": {"total_usd": 5.0}, "requests_per_month": 1000}  # fmt: skip
    drawn = str(curves.break_even_chart(cost))
    assert 'class="saved"' not in drawn
    assert "teacher" in drawn


def test_the_report_package_is_light() -> None:
    code = (
        "import sys\n"
        "import distill2edge.report.document, distill2edge.report.html, distill2edge.report.markdown\n"
        "import distill2edge.report.card, distill2edge.report.compare\n"
        "heavy = {'torch', 'transformers', 'numpy', 'matplotlib', 'onnx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "folders = {m.split('.')[1] for m in sys.modules if m.startswith('distill2edge.')}\n"
        "above = folders - {'errors', 'util', 'gguf', 'quantize', 'recipe', 'models', 'bench', 'cost', 'report'}\n"
        "assert not above, above\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what a claim stands on ----------------------------------------------------------------------------------------


def test_the_sentence_has_interval_rows_and_seeds_and_one_baseline(passing: Document) -> None:
    headline = passing["headline"]
    baseline = headline["rival"]
    assert baseline == headline["teacher_size_of"] == "teacher/gguf:Q8_0"
    assert baseline == headline["speedup"]["against"].split("@")[0]
    assert claims.lead(passing) == (
        "student/gguf:Q4_K_M keeps 97.6% (96.1% to 99.1%) of the accuracy of teacher/gguf:Q8_0 (500 held-out rows, one "
        "seed), is 2.54x smaller, and 2.14x (2.07x to 2.20x) as fast."
    )
    beside = {name: said for name, _, said in claims.tiles(passing)}
    assert beside["Quality kept"].startswith(
        "96.1% to 99.1%; 500 held-out rows, one seed; 0.861 against 0.882 of teacher"
    )
    assert "against teacher/gguf:Q8_0@cpu" in beside["Speed-up"]


def test_contention_stands_on_the_tiles_and_in_the_sentence() -> None:
    verify = made.passing_verify()
    bench = made.bench(verify["models"])
    for cell in bench["cells"]:
        if cell["model"] == "teacher/gguf:Q8_0":
            cell["contended"] = True
    cost = made.cost(bench, verify)
    report = build_report(made.run(), None, None, None, None, None, [], verify, bench, cost)
    beside = {name: said for name, _, said in claims.tiles(report)}
    assert "busy machine" in beside["Speed-up"]
    assert "busy machine" in beside["Cost saved"]
    assert claims.lead(report).endswith("as fast, measured on a busy machine.")
    assert [warning["kind"] for warning in report["verdict"]["warnings"]] == ["contention"]


def test_the_cost_says_what_has_to_be_true_at_the_users_volume(passing: Document) -> None:
    at = made.report(with_cost={"utilisation": 0.2})["cost"]["comparison"]["at_volume"]
    assert at["teacher_alone_usd"] == pytest.approx(at["student_alone_usd"])  # one box each, hardly busy: no saving
    said = cost_words.volume_sentence(passing["cost"])
    assert said.startswith(
        "This holds at 20% busy, that is, if other work shares the box: your 100,000 requests a month keep"
    )
    busy = made.report(with_cost={"requests_per_month": 10_000_000})
    at = busy["cost"]["comparison"]["at_volume"]
    assert "busier than that" in cost_words.volume_sentence(busy["cost"])
    assert at["student_alone_usd"] <= at["teacher_alone_usd"]


def test_what_needs_no_model_is_a_row_and_a_line(passing: Document) -> None:
    for words in (Page(render_html(passing)).words, render_markdown(passing)):
        assert "always 'pos', the largest class" in words
        assert "a guess (chance)" in words
        assert "Rows of each class: pos 265, neg 235" in words
    assert render_html(passing).count('class="level"') == 4  # two charts, two lines


FORBID = {"kind": "baseline", "text": "the teacher is within noise of a baseline without a model", "headline": False}


def test_a_warning_that_forbids_a_headline_takes_the_saving_too() -> None:
    verify = {**made.passing_verify(), "warnings": [FORBID]}
    bench = made.bench(verify["models"])
    report = build_report(made.run(), None, None, None, None, None, [], verify, bench, made.cost(bench, verify))
    assert report["verdict"]["result"] == "pass"
    assert report["headline"] is None
    assert report["cost"]["comparison"] is None
    assert "No headline and no saving are claimed: the teacher is within noise" in claims.lead(report)
    assert claims.tiles(report) == []
    for words in (Page(render_html(report)).words, render_markdown(report)):
        assert "so no saving is claimed" in words


def test_a_file_that_beats_nothing_is_not_quoted() -> None:
    verify = made.passing_verify()
    for model in verify["models"]:
        if model["id"] == "student/gguf:Q4_K_M":
            model["above_baseline"] = False
    bench = made.bench(verify["models"])
    report = build_report(made.run(), None, None, None, None, None, [], verify, bench, made.cost(bench, verify))
    assert report["headline"]["model"] == "student/gguf:Q8_0"
    assert report["cost"]["comparison"]["student"] == "student/gguf:Q8_0@cpu"


def test_default_gates_are_named() -> None:
    verify = made.passing_verify()
    verify["gates"] = [{**gate, "default": gate["name"] == "max_kl"} for gate in verify["gates"]]
    report = build_report(made.run(), None, None, None, None, None, [], verify, None, None)
    assert report["verdict"]["summary"] == "All 9 gates passed. The limit on KL of 0.1 is the default."
    assert "at most 0.1 (default)" in Page(render_html(report)).words


# --- how it looks --------------------------------------------------------------------------------------------------


def with_rounds() -> Document:
    report = made.report(judged=True)
    report["rounds"] = {"metric": "exact_match", "rows": 9, "arms": {"verified": [
        {"round": n, "score": made.figure(0.5, 0.1), "written": 9, "passed": 8, "kept": 7}
        for n in range(2)]}}  # fmt: skip
    return report


def test_page_navigation_and_markdown_have_one_order() -> None:
    report = with_rounds()
    page = render_html(report)
    anchors = re.findall(r'<section id="(\w+)">', page)
    assert re.findall(r'<a href="#(\w+)">', page) == anchors
    assert "rounds" in anchors
    headings = re.findall(r"^## (.*)$", render_markdown(report), re.M)
    shown = [section.heading for section in SECTIONS if section.anchor in anchors and section.anchor != "frontier"]
    assert headings == shown
    assert anchors == [section.anchor for section in SECTIONS if section.anchor in anchors]


def test_a_section_is_added_in_one_place() -> None:
    """A section that no file of the package knows stands where its line stands: on page, card, and in Markdown."""
    said = "one <kind> of each"

    def blocks(report: Document) -> list[Block]:
        return [
            Paragraph((said, " with ", Code("a `code`")), "warning"),
            Beside((Chart("drawn", Drawing("empty").render(), "noted"), Facts((Fact("weight", "3 kg"),)))),
            Table("Toys", ["toy", "price"], [row(Cell("bear", "mono"), "$1")]),
            Notes((f"of {report['name']}",)),
            Listing("make toys", is_command=True),
            Details("How", (Facts((Fact("f", "x + y", is_code=True),)),)),
        ]

    toys = Section("toys", "Toys", "The toys", blocks, on_card=True)
    at = [section.anchor for section in SECTIONS].index("cost")
    several = [*SECTIONS[:at], toys, Section("none", "None", "None", lambda report: []), *SECTIONS[at:]]
    report = with_rounds()
    page = render_html(report, several)
    parsed = Page(page)
    assert parsed.open == []
    anchors = re.findall(r'<section id="(\w+)">', page)
    assert re.findall(r'<a href="#(\w+)">', page) == anchors
    assert anchors[anchors.index("toys") - 1] == "speed"
    assert anchors[anchors.index("toys") + 1] == "cost"
    assert "none" not in anchors
    for words in (said, "a `code`", "noted", "3 kg", "of quickstart", "make toys", "x + y"):
        assert words in parsed.words
    markdown = render_markdown(report, several)
    headings = re.findall(r"^## (.*)$", markdown, re.M)
    assert headings[headings.index("The toys") - 1 :][:3] == ["Speed and memory", "The toys", "Cost"]
    body = markdown.split("## The toys\n")[1].split("\n## ")[0]
    assert body == (
        "\n**one &lt;kind&gt; of each with `` a `code` ``**\n\n- weight: 3 kg\n\n**Toys**\n\n"
        "| toy | price |\n|---|--:|\n| `bear` | $1 |\n\n- of quickstart\n\n```\nmake toys\n```\n"
    )
    card = render_card(report, several)
    assert "## Toys\n\n**Toys**\n\n| toy" in card
    assert card.index("## Judge") < card.index("## Toys") < card.index("## Licence")


def test_red_is_for_what_ships_and_fails(failing: Document) -> None:
    def red(report: Document) -> list[str]:
        return re.findall(r'<t[hd][^>]*class="[^"]*\bbad\b[^"]*"[^>]*>([^<]*)', render_html(report))

    assert red(made.report()) == []
    for model in made.report()["models"]:
        assert model["passed"] is None or model["role"] == "student"
    assert "student/onnx:fp16@cpu" not in red(failing)
    assert "0.231" in red(failing)


def test_no_figure_is_repeated_at_every_utilisation(passing: Document) -> None:
    table = cost_section.busy_table(made.report(with_cost={"utilisation": 0.2}))
    assert table is not None
    for column in range(1, len(table.head)):
        assert len({cells[column].text for cells in table.rows}) > 1
    assert "Saved: 53.2% at each of them" in table.note


def test_the_tables_fit_a_page_of_1300_pixels(passing: Document, failing: Document) -> None:
    for report in (passing, failing):
        tables_of = [quality_section.models_table(report), quality_section.distances_table(report),
                     gates_section.gates_table(report),
                     *[speed_section.bench_table(report, w) for w in report["bench"]["workloads"]],
                     cost_section.cost_table(report)]  # fmt: skip
        for table in tables_of:
            assert table is not None
            columns = zip(*[[len(cell.text) for cell in cells] for cells in table.rows], strict=True)
            beside = zip(*[[len(cell.beside) * 0.8 for cell in cells] for cells in table.rows], strict=True)
            widths = [
                max(*figures, *(small if index else [0]), 8) * 7.2 + 20
                for index, (figures, small) in enumerate(zip(columns, beside, strict=True))
            ]
            assert sum(widths) <= 1072, table.head


def test_rows_are_counted_in_whole_numbers_and_a_classifier_agrees_on_texts() -> None:
    report = made.report()
    report["leakage"] = {"test_rows": 116, "near": 13, "fraction": 0.112, "action": "drop", "dropped": 18}
    found = {fact.name: fact.value for fact in data_section.data_facts(report)}
    assert (found["leakage: near"], found["leakage: dropped"], found["leakage: fraction"]) == ("13", "18", "0.112")
    report["metric"]["unit"] = "text"
    table = quality_section.models_table(report)
    assert "share of the texts where the teacher's most likely label" in table.note
    further = quality_section.distances_table(report)
    assert further is not None
    assert "agreement with teacher" not in further.head


def classifier() -> Document:
    """A report of a classifier trained in full."""
    verify = {**made.passing_verify(), "unit": "text"}
    bench = made.bench(verify["models"], broken=True)
    bench["workloads"] = [{**bench["workloads"][0], "output_tokens": 1}]
    merge = {**made.merge(), "kind": "full", "max_logit_difference": 0.0, "mean_logit_difference": 0.0}
    return build_report(made.run(), made.data(), None, None, made.train(), merge, [], verify, bench, None)


def test_a_classifier_has_the_latency_of_a_text_and_texts_per_second() -> None:
    report = classifier()
    table = speed_section.bench_table(report, report["bench"]["workloads"][0])
    assert table is not None
    assert table.head == ["cell", "text p50", "text p95", "texts/s", "peak memory", "cold start"]
    assert table.title == "Speed, workload task: 47.3 tokens in"
    assert all(len(cells) == len(table.head) for cells in table.rows)
    rate = 1000 / 655
    assert table.rows[0][3].text == text.number(rate)
    assert " to " in table.rows[0][3].beside
    for words in (Page(render_html(report)).words, render_markdown(report)):
        assert not re.search(r"ttft|tpot|decode tokens|\d out\b", words, re.I)
    assert "milliseconds per text, task" in render_html(report)
    table = speed_section.bench_table(made.report(), made.report()["bench"]["workloads"][0])
    assert table is not None
    assert table.head[1:7] == ["TTFT p50", "TPOT p50", "request p50", "request p95", "prefill tokens/s",
                               "decode tokens/s"]  # fmt: skip


def test_a_column_that_nothing_fills_is_left_out() -> None:
    report = made.report()
    for cell in report["bench"]["cells"]:
        for measured in cell["workloads"].values():
            measured["tpot_ms"] = measured["decode_tps"] = None  # one token out
    table = speed_section.bench_table(report, report["bench"]["workloads"][0])
    assert table is not None
    assert not {"TPOT p50", "decode tokens/s"} & set(table.head)


def test_a_student_trained_in_full_has_no_merge_to_speak_of(passing: Document) -> None:
    assert "logit difference" not in Page(render_html(classifier())).words
    assert "merge: max logit difference 3.1e-05" in Page(render_html(passing)).words


def test_notes_speak_of_no_place_that_only_the_page_has(passing: Document) -> None:
    report = made.report(judged=True)
    for said in (render_markdown(report), render_card(report)):
        assert not re.search(r"under the figures|under it|hover|above\.", said, re.I)
        assert "with 95% intervals over rows" in said
        assert re.search(r"\| 0\.861 \(0\.843 to 0\.879\) \|", said)


def test_a_control_that_is_the_student_is_warned_of() -> None:
    def said(control: Document | None, student: Document | None = None) -> list[str]:
        verify = made.passing_verify()
        report = build_report(
            made.run(), None, None, None, student or made.train(), None, [], verify, None, None, control=control
        )
        return [w["text"] for w in report["verdict"]["warnings"] if w["kind"] == "control"]

    same = ["control and student are the same training: comparing them says nothing about the teacher's contribution"]
    assert said(made.train(0.44, 3)) == []
    assert said(None) == []
    assert said({**made.train(), "wall_s": 9.0}) == same  # every loss is the same
    silent = {**made.train(), "log": []}
    assert said(silent) == []
    assert said(silent, {**silent, "wall_s": 9.0}) == []
    assert said(silent, silent) == same  # one artifact of the store


def test_ids_break_between_their_parts() -> None:
    assert breakable("student/onnx:int8@cpu") == "student/<wbr>onnx:int8<wbr>@cpu"
    assert breakable("teacher") == "teacher"
    assert breakable("verify.max_kl") == "verify.<wbr>max_kl"
    assert breakable("<b>/&@") == "&lt;b&gt;/<wbr>&amp;<wbr>@"
    assert max(map(len, breakable("x" * 500).split("<wbr>"))) == 24
    css = re.search(r"<style>(.*?)</style>", render_html(made.report()), re.S)
    assert css is not None
    assert not re.search(r"tbody th \{[^}]*anywhere", css[1])


def test_a_small_share_is_not_nothing() -> None:
    assert (text.percent(0.0000003), text.percent(0.0), text.percent(0.0006)) == ("<0.1%", "0.0%", "0.1%")
    assert text.percent(0.001, 0) == "<1%"
    assert text.percent(-0.0001) == ">-0.1%"


def test_one_sample_has_no_interval() -> None:
    assert text.interval({"value": 2.0, "low": 2.0, "high": 2.0, "n": 1}, text.ratio) == "2.00x"
    assert text.interval({"value": 1.0, "low": 0.2, "high": 1.0, "n": 1}) == "1.00 (0.200 to 1.00)"  # a share has one
    assert text.interval({"value": 0.0, "low": 0.0, "high": 0.0, "n": 500}) == "0 (0 to 0)"
    report = made.report()
    for item in report["bench"]["speedups"]:
        for key in ("ratio", "time_saved"):  # one round
            item[key] |= {"low": item[key]["value"], "high": item[key]["value"], "n": 1}
    assert claims.lead(report).endswith("and 2.14x as fast.")
