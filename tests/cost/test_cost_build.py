"""cost.json: the figures a reader compares, and its notes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import report_fixtures as made
from golden import stages as golden

from distill2edge.cost import formulas
from distill2edge.cost.catalogue import load_catalogue
from distill2edge.cost.cost_document import SUMS, build_cost
from distill2edge.errors import UserError
from distill2edge.recipe.schema import Cost
from distill2edge.stages import KINDS, Stage

Document = dict[str, Any]
DEVICE = {"student": {"device": "raspberry-pi-5"}}
API = {"teacher": {"api": "openai-gpt-5.6-luna"}}


@pytest.fixture
def verify() -> Document:
    return made.passing_verify()


@pytest.fixture
def bench(verify: Document) -> Document:
    return made.bench(verify["models"])


def test_the_cost_follows_from_speed_and_price(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify)
    price = load_catalogue().rented_machine("cpu-2-vcpu").usd_per_hour.value
    assert len(cost["cells"]) == len(bench["cells"]) - 1  # one cell failed
    for cell in cost["cells"]:
        for name, value in cell["cost_per_1000"].items():
            assert value == pytest.approx(formulas.rented_per_1000(price, cell["requests_per_s"], float(name)))
        assert cell["low"] <= cell["at_utilisation"] <= cell["high"]
        assert cell["at_utilisation"] == pytest.approx(cell["cost_per_1000"]["0.2"])
    assert json.loads(json.dumps(cost, allow_nan=False)) == cost


def test_the_shares_are_those_of_the_contract(bench: Document, verify: Document) -> None:
    assert list(made.cost(bench, verify)["cells"][0]["cost_per_1000"]) == ["0.05", "0.2", "0.5", "1.0"]


def test_on_one_box_the_four_cells_are_two(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify)
    four = cost["four_cells"]
    assert four["teacher_same_box"] == four["teacher_best_box"]
    assert four["student_same_box"] == four["student_best_box"]
    assert cost["comparison"]["saving"] == pytest.approx(cost["comparison"]["saving_same_box"])


def test_the_teacher_gets_its_best_honest_file(bench: Document, verify: Document) -> None:
    # The teacher's 4-bit file is faster, but keeps less than the student must.
    assert made.cost(bench, verify)["comparison"]["teacher"] == "teacher/gguf:Q8_0@cpu"


def test_a_student_file_that_failed_its_gate_is_not_compared() -> None:
    verify = made.verify()
    cost = made.cost(made.bench(verify["models"]), verify)
    assert cost["comparison"]["student"] == "student/gguf:Q4_K_M@cpu"  # Q4_0 is faster, and failed


def test_nothing_passed_nothing_compared(bench: Document, verify: Document) -> None:
    for gate in verify["gates"]:
        gate["passed"] = False
    for entry in verify["models"]:
        if entry["id"] == "student":  # the dense student has no gate, but must not slip in
            entry["retained"]["value"] = 0.5
    cost = made.cost(bench, verify)
    assert cost["comparison"] is None
    assert cost["four_cells"]["student_best_box"] is None
    assert any("no student file is good enough to be compared" in note for note in cost["notes"])


def test_a_device_says_that_its_speed_was_not_measured_there(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify, **DEVICE)
    on_device = [cell for cell in cost["cells"] if cell["place"] == "device:raspberry-pi-5"]
    assert on_device
    assert all("not on the device" in cell["speed_note"] for cell in on_device)
    assert any("speed measured on this machine" in note for note in cost["notes"])
    assert {cell["model"].split("/")[0] for cell in on_device} == {"student"}
    assert {entry["id"] for entry in cost["prices"]["entries_used"]} == {
        "rented:cpu-2-vcpu", "device:raspberry-pi-5", "electricity"}  # fmt: skip
    assert cost["prices"]["as_of"] == min(entry["as_of"] for entry in cost["prices"]["entries_used"])


def test_device_bounds_come_from_the_prices(bench: Document, verify: Document) -> None:
    for cell in made.cost(bench, verify, **DEVICE)["cells"]:
        assert cell["low"] < cell["at_utilisation"] < cell["high"] or cell["low"] == cell["at_utilisation"]


def test_an_api_is_billed_by_the_request(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify, **API)
    api = next(cell for cell in cost["cells"] if cell["place"].startswith("api:"))
    assert len(set(api["cost_per_1000"].values())) == 1
    assert api["at_utilisation"] == pytest.approx(1000 * (47.3 * 0.2 + 4 * 1.2) / 1e6)
    assert cost["comparison"]["teacher"] == "api:openai-gpt-5.6-luna"
    assert cost["four_cells"]["teacher_same_box"]["cell"] == "teacher/gguf:Q8_0@cpu"
    assert any("not with the tokenizer of" in note for note in cost["notes"])


def test_given_tokens_are_used(bench: Document, verify: Document) -> None:
    given = {"input": 100, "cached": 900, "output": 10, "counted_with": "own count"}
    cost = build_cost(Cost.model_validate({**API, "tokens": given}), bench, verify, {})
    assert cost["tokens"] == {"input": 100.0, "cached": 900.0, "output": 10.0, "counted_with": "own count"}
    assert cost["cells"][0]["at_utilisation"] == pytest.approx(1000 * (100 * 0.2 + 900 * 0.02 + 10 * 1.2) / 1e6)


def test_tokens_without_an_api_are_refused() -> None:
    with pytest.raises(ValueError, match="only an API bills by the token"):
        Cost.model_validate({"tokens": {"input": 1, "output": 1, "counted_with": "own count"}})


def test_the_saving_is_shown_busy_and_idle_and_at_a_lower_price(bench: Document, verify: Document) -> None:
    tokens = {"input": 2000, "output": 100, "counted_with": "own count"}
    comparison = made.cost(bench, verify, **API, tokens=tokens)["comparison"]
    busy = comparison["by_utilisation"]
    assert list(busy) == ["0.05", "0.2", "0.5", "1.0"]
    assert busy["0.2"]["saving"] == pytest.approx(comparison["saving"])
    assert busy["0.2"]["break_even_requests"] == pytest.approx(comparison["break_even_requests"])
    savings = [at["saving"] for at in busy.values()]
    assert savings == sorted(savings)
    for at in busy.values():  # at the cut that erases it, both cost the same
        assert at["teacher_per_1000"] * (1 - at["price_cut_that_erases"]) == pytest.approx(at["student_per_1000"])
    cuts = comparison["by_price_cut"]
    assert cuts["0"]["saving"] == pytest.approx(comparison["saving"])
    assert [cut for cut, at in cuts.items() if at["break_even_requests"] is None] == [
        cut for cut in cuts if float(cut) >= comparison["teacher_price_drop_that_erases"]
    ]


def test_the_api_and_the_model_measured_here_are_told_apart(bench: Document, verify: Document) -> None:
    notes = made.cost(bench, verify, **API)["notes"]
    assert any("not OpenAI gpt-5.6-luna, whose quality" in note for note in notes)
    assert not any("whose quality" in note for note in made.cost(bench, verify)["notes"])


def test_an_api_that_is_cheaper_never_breaks_even(bench: Document, verify: Document) -> None:
    bench["workloads"][0] |= {"prompt_tokens": 5, "output_tokens": 1}
    comparison = made.cost(bench, verify, **API, utilisation=0.05)["comparison"]
    assert comparison["saving"] < 0
    assert comparison["break_even_requests"] is None
    assert comparison["teacher_price_drop_that_erases"] is None


def test_no_second_of_work_is_lost(bench: Document, verify: Document) -> None:
    one_off = made.cost(bench, verify)["one_off"]
    seconds = one_off["seconds"]
    assert seconds["total"] == pytest.approx(sum(made.SECONDS.values()))
    assert seconds["training"] == pytest.approx(95 + 4 + 187 + 6)
    assert seconds["teacher_generation"] == pytest.approx(3.1 + 41 + 61)
    assert one_off["total_usd"] == pytest.approx(seconds["total"] / 3600 * 0.096)


@pytest.fixture(scope="module")
def every_stage() -> dict[str, Stage]:
    """By name, of the graphs of all recipes and variants that are held."""
    return {stage.name: stage for graph in golden.built().values() for stage in graph}


def test_every_kind_of_stage_has_a_declared_sum() -> None:
    assert {kind.bucket for kind in KINDS.values()} <= set(SUMS)


@pytest.mark.parametrize(
    ("stage", "bucket"),
    [
        ("quantization-aware gguf:Q4_0", "training"),
        ("pretrain", "training"),
        ("signal student", "training"),
        ("distill on-policy 1", "training"),
        ("merge warm-start", "training"),
        ("distill verified 1", "training"),
        ("signal verified 1", "teacher_generation"),
        ("signal unverified 1", "evaluation"),
        ("distill unverified 2", "evaluation"),
        ("merge unverified 2", "evaluation"),
        ("distill control", "evaluation"),
        ("merge control", "evaluation"),
        ("calibration student", "export"),
        ("sensitivity student", "export"),
        ("export student/gguf:Q4_0", "export"),
        ("export student/gguf:Q4_0-untrained", "export"),
        ("export student/gguf:Q4_0-plain", "evaluation"),
        ("export teacher/gguf:Q4_0", "evaluation"),
        ("calibration teacher", "evaluation"),
        ("rounds", "evaluation"),
    ],
)
def test_time_is_booked_where_it_was_spent(every_stage: dict[str, Stage], stage: str, bucket: str) -> None:
    assert every_stage[stage].spent_on == bucket


def test_what_an_endpoint_was_paid_is_booked_beside_the_time(bench: Document, verify: Document) -> None:
    paid = {"teacher_generation": 2.0, "evaluation": 1.0}
    one_off = build_cost(Cost(), bench, verify, {}, paid)["one_off"]
    assert (one_off["teacher_generation_usd"], one_off["evaluation_usd"], one_off["total_usd"]) == (2.0, 1.0, 3.0)
    assert "$3.00 paid" in one_off["note"]


def test_break_even_repays_the_one_off(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify)
    comparison = cost["comparison"]
    gain = (comparison["teacher_per_1000"] - comparison["student_per_1000"]) / 1000
    assert comparison["break_even_requests"] * gain == pytest.approx(cost["one_off"]["total_usd"])
    assert comparison["break_even_months"] == pytest.approx(comparison["break_even_requests"] / 100_000)
    low, high = comparison["saving_low"], comparison["saving_high"]
    assert low <= comparison["saving"] <= high
    assert comparison["teacher_price_drop_that_erases_in_a_year"] < comparison["teacher_price_drop_that_erases"]


def test_a_gpu_machine_is_priced_only_with_gpu_cells(bench: Document, verify: Document) -> None:
    cost = made.cost(bench, verify, teacher={"rented": "gpu-l4"})
    assert all(cell["place"] != "rented:gpu-l4" for cell in cost["cells"])
    assert cost["comparison"] is None
    assert any("could be priced" in note for note in cost["notes"])
    cell = made._cell("teacher", "torch", 40.0, 538_000_000)
    bench["cells"].append({**cell, "id": "teacher@gpu", "device": "gpu"})
    cost = made.cost(bench, verify, teacher={"rented": "gpu-l4"})
    assert cost["comparison"]["teacher"] == "teacher@gpu"


def test_the_control_is_not_for_sale(bench: Document, verify: Document) -> None:
    bench["cells"].append(made._cell("control", "torch", 10.0, 1))
    assert all(cell["model"] != "control" for cell in made.cost(bench, verify)["cells"])


def test_an_empty_bench_is_told_not_raised(verify: Document) -> None:
    cost = made.cost({"machine": {}, "workloads": [], "cells": []}, verify)
    assert cost["cells"] == []
    assert cost["comparison"] is None
    assert cost["notes"]


def test_contention_is_carried_along(verify: Document) -> None:
    cost = made.cost(made.bench(verify["models"], contended=True), verify)
    assert [cell["cell"] for cell in cost["cells"] if cell["contended"]] == ["teacher@cpu"]


def test_an_unknown_machine(bench: Document, verify: Document) -> None:
    with pytest.raises(UserError, match="no rented entry"):
        made.cost(bench, verify, teacher={"rented": "cpu-3-vcpu"})
