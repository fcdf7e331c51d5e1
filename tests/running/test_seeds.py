"""Several seeds: one split and teacher, one report over all; the verdict is that of every seed."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import report_fixtures as made

from distill2edge import stages
from distill2edge.errors import UserError
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.recipe.load import parse_recipe
from distill2edge.report import claims
from distill2edge.report.compare import compare
from distill2edge.report.html import render_html
from distill2edge.report.markdown import render_markdown
from distill2edge.running.seeds import combine, parse_seeds
from distill2edge.util.progress import SilentProgress

Document = dict[str, Any]
RECIPE = """\
name: keys
seed: {seed}
teacher: {{model: owner/teacher, fit: {{max_rows: 10}}}}
data: {{source: rows.jsonl, choices: [" a", " b"]}}
student: {{init: {{from: teacher, layers: 2}}}}
distill: {{control: true}}
export: [onnx:int8]
"""


def keys(monkeypatch: pytest.MonkeyPatch, own: int, seed: int) -> dict[str, str]:
    monkeypatch.setattr("distill2edge.data.row_sources.fingerprint", lambda *args: {"sha256": "rows"})
    monkeypatch.setattr("distill2edge.intake.obtain.fingerprint", lambda *args: {"sha256": "model"})
    recipe = parse_recipe(RECIPE.format(seed=own), "keys.yaml")
    return keys_of(stages.build_stages(recipe, SilentProgress(), seed=seed))


def test_seeds_share_the_split_and_the_teacher_and_train_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, other = keys(monkeypatch, 0, 0), keys(monkeypatch, 0, 1)
    recipe = parse_recipe(RECIPE.format(seed=0), "keys.yaml")
    assert plain == keys_of(stages.build_stages(recipe, SilentProgress()))  # as without --seeds
    same = {name for name in plain if plain[name] == other[name]}
    assert same == {"data", "teacher", "fit", "signal"}
    assert keys(monkeypatch, 1, 1)["data"] != plain["data"]  # a recipe's own seed splits the rows


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "1.5", "0;1", "9" * 5000, "²"])
def test_what_is_no_list_of_seeds_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="not a list of seeds"):
        parse_seeds(text)


@pytest.mark.parametrize("text", ["0,0", "2,1,02"])
def test_a_seed_that_is_named_twice_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="is named twice") as caught:
        parse_seeds(text)
    assert caught.value.fix == f"write --seeds {text[0]}" + (",1" if "1" in text else "")


def test_a_list_of_seeds() -> None:
    assert parse_seeds("0, 1,7") == (0, 1, 7)


@pytest.mark.parametrize(("signal", "loss", "same"), [("gold", "ce: 1", True), ("logits", "forward_kl: 1", False)])
def test_a_control_of_a_student_without_a_teacher_is_its_own_training(
    monkeypatch: pytest.MonkeyPatch, signal: str, loss: str, same: bool
) -> None:
    monkeypatch.setattr("distill2edge.data.row_sources.fingerprint", lambda *args: {"sha256": "rows"})
    monkeypatch.setattr("distill2edge.intake.obtain.fingerprint", lambda *args: {"sha256": "model"})
    text = RECIPE.format(seed=0).replace("control: true", f"control: true, loss: {{{loss}}}")
    recipe = parse_recipe(f"{text}signal: {{kind: {signal}}}\n", "keys.yaml")
    found = keys_of(stages.build_stages(recipe, SilentProgress()))
    assert (found["distill control"] == found["distill"]) == same  # one artifact, of which the report warns


def reports() -> list[Document]:
    """Two seeds on eight rows; the file is right on other rows in each."""
    found = []
    for seed, right in ((0, [1, 1, 1, 1, 1, 1, 0, 0]), (1, [1, 1, 1, 1, 1, 0, 1, 1])):
        report = made.report()
        report["seed"] = seed
        report["metric"]["rows"] = 8
        teacher = [1.0, 1, 1, 1, 1, 1, 1, 0]
        scores = {model["id"]: teacher if model["role"] == "teacher" else right for model in report["models"]}
        report["row_scores"] = {"units": [1.0] * 8, "scores": scores}
        for model in report["models"]:
            if model["kl_student"]:
                model["kl_student"]["value"] = 0.01 + 0.02 * seed
        for gate in report["gates"]:
            if gate["name"] == "max_kl":
                gate["value"] = 0.01 + 0.02 * seed
        found.append(report)
    return found


def test_scores_are_means_over_seeds_paired_by_row() -> None:
    combined = combine(reports())
    model = next(model for model in combined["models"] if model["id"] == "student/gguf:Q4_K_M")
    assert model["score"]["value"] == pytest.approx((6 / 8 + 7 / 8) / 2)
    assert model["score"]["n"] == 8  # rows, not rows times seeds
    assert model["retained"]["value"] == pytest.approx((6 + 7) / 2 / 7)
    assert model["retained"]["low"] < model["retained"]["value"] < model["retained"]["high"]
    assert model["kept"]["teacher/gguf:Q8_0"]["value"] == pytest.approx((6 + 7) / 2 / 7)
    assert (model["kl_student"]["value"], model["kl_student"]["n"]) == (pytest.approx(0.02), 2)
    assert [run["seed"] for run in combined["seeds"]["runs"]] == [0, 1]
    assert combined["headline"]["kept"] == model["kept"]["teacher/gguf:Q8_0"]
    assert "(8 held-out rows, seeds 0, 1)" in claims.lead(combined)


def test_the_verdict_is_that_of_every_seed_and_a_gate_has_its_worst_value() -> None:
    both = reports()
    gate = next(gate for gate in both[1]["gates"] if gate["name"] == "max_kl")
    combined = combine(both)
    assert [g["value"] for g in combined["gates"] if g["name"] == "max_kl"] == [pytest.approx(0.03)] * 3
    assert combined["verdict"]["result"] == "pass"
    assert combined["verdict"]["summary"].startswith("Over 2 seeds: all 9 gates passed.")
    gate |= {"value": 0.2, "passed": False}
    both[1]["verdict"]["result"] = "fail"
    failed = combine(both)
    assert failed["verdict"]["result"] == "fail"
    assert [g["value"] for g in failed["verdict"]["failed_gates"]] == [0.2]
    assert failed["headline"] is None
    assert failed["cost"]["comparison"] is None


def test_a_warning_of_one_seed_says_which() -> None:
    both = reports()
    forbids = {"kind": "baseline", "text": "no better than nothing", "headline": False}
    both[1]["verdict"]["warnings"] = [forbids]
    combined = combine(both)
    assert [warning["text"] for warning in combined["verdict"]["warnings"]] == ["no better than nothing (seed 1)"]
    assert combined["headline"] is None


def test_the_combined_report_is_a_page_a_text_and_comparable() -> None:
    combined = combine(reports())
    for page in (render_html(combined), render_markdown(combined)):
        words = re.sub(r"<[^>]+>|\s+", " ", page.replace("<wbr>", ""))
        assert "By seed" in words
        assert "seed-1/report.html" in words
    other = copy.deepcopy(combined)
    other["name"] = "other"
    assert [run["seeds"] for run in compare([combined, other])["runs"]] == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["data"]["splits"]["test"].update(sha256="e" * 64),
        lambda r: r["metric"].update(name="exact_match"),
        lambda r: r["models"].pop(),
    ],
)
def test_other_rows_are_no_seeds(change: Any) -> None:
    both = reports()
    change(both[1])
    with pytest.raises(UserError, match="not of one recipe under several seeds"):
        combine(both)
