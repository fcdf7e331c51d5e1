"""The model card: front matter that the hub reads, the licence's verdict, and an override that can't be missed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import report_fixtures as made
import yaml

from distill2edge.report.card import front_matter, render_card

Document = dict[str, Any]


@pytest.fixture
def report() -> Document:
    return copy.deepcopy(made.report())


def front_of(card: str) -> Document:
    _, front, _ = card.split("---\n", 2)
    found = yaml.safe_load(front)
    assert isinstance(found, dict)
    return found


def test_the_front_matter(report: Document) -> None:
    front = front_of(render_card(report))
    assert front["license"] == "apache-2.0"
    assert front["base_model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert front["base_model_relation"] == "finetune"
    assert front["pipeline_tag"] == "text-generation"
    assert front["metrics"] == ["accuracy"]
    assert {"gguf", "onnx", "distillation"} <= set(front["tags"])
    assert "datasets" not in front  # the rows came with a package, not from the hub
    assert front["distill2edge"]["verdict"] == "pass"
    assert front["distill2edge"]["licence_verdict"] == "permit"
    values = {
        result["metrics"][0]["name"]: result["metrics"][0]["value"] for result in front["model-index"][0]["results"]
    }
    assert values["accuracy, student/gguf:Q8_0"] == 0.869


def test_a_hub_data_set_is_named(report: Document) -> None:
    report["data"] |= {"source": "stanfordnlp/imdb", "kind": "hub"}
    assert front_matter(report)["datasets"] == ["stanfordnlp/imdb"]


@pytest.mark.parametrize(
    "source", ["./models/mine", "/home/me/model", "~/m/x", "models/teacher.gguf", "bundled:smollm2"]
)
def test_a_path_of_this_machine_is_no_base_model(report: Document, source: str) -> None:
    report["teacher"] |= {"source": source, "home": None}
    assert "base_model" not in front_matter(report)


def test_a_checkpoint_student_has_its_own_base(report: Document) -> None:
    report["reproduce"]["recipe"]["student"] = {"init": {"model": "Qwen/Qwen3-0.6B"}}
    assert front_matter(report)["base_model"] == "Qwen/Qwen3-0.6B"


def test_a_licence_that_the_hub_does_not_know(report: Document) -> None:
    report["licence"] = {"licence": "Acme-1.0", "verdict": "unknown", "source": "https://acme.example/terms"}
    front = front_matter(report)
    assert (front["license"], front["license_name"]) == ("other", "acme-1.0")
    assert front["license_link"] == "https://acme.example/terms"


def test_no_licence_is_unknown(report: Document) -> None:
    report["licence"] = {}
    card = render_card(report)
    assert front_of(card)["license"] == "unknown"
    assert "not recorded" in card


def test_an_override_and_its_reason_are_shown(report: Document) -> None:
    report["licence"] |= {"verdict": "deny", "accepted": "we hold a written permission of Acme, 2026-10-01"}
    card = render_card(report)
    assert front_of(card)["distill2edge"]["accept_licence"] == "we hold a written permission of Acme, 2026-10-01"
    assert "overridden, with this reason: we hold a written permission of Acme" in card


def test_conditions_of_the_licence_are_carried(report: Document) -> None:
    report["licence"] |= {"conditions": ["name the teacher"], "notice": "Built with Llama", "name_prefix": "Llama"}
    card = render_card(report)
    assert "Built with Llama" in card
    assert "name the teacher" in card


def test_folders_of_this_machine_stay_here(report: Document) -> None:
    report["data"] |= {"source": "/home/me/secret/rows.csv", "kind": "csv"}
    card = render_card(report)
    assert "rows.csv" in card
    assert "secret" not in card


def test_a_failed_student_carries_a_warning() -> None:
    card = render_card(made.report(passing=False))
    assert "The verdict is FAIL" in card
    assert "Do not rely on these files" in card
    assert front_of(card)["distill2edge"]["verdict"] == "fail"


def test_hostile_strings_stay_strings(report: Document) -> None:
    evil = "x\n---\nlicense: mit\n<script>alert(1)</script> [a](javascript:b)"
    report["name"] = evil
    report["teacher"]["name"] = evil
    report["data"]["source"] = evil
    card = render_card(report)
    assert front_of(card)["license"] == "apache-2.0"
    body = card.split("---\n\n", 1)[1]
    assert "<script" not in body
    assert "](javascript" not in body.replace("\\](", "")


@pytest.mark.parametrize(
    ("task", "data", "said", "not_said"),
    [
        ("classification", {"choices": ["a", "b`c"], "max_length": 40, "prompt": "{{ x }}"}, ["Labels: `a`, `` b`c ``.",
         "more than 40 tokens is cut", "```\n{{ x }}\n```"], ["Ollama", "GenAI", "chats"]),
        ("seq2seq", {"template": "plain"}, ["takes the source text"], ["Ollama", "closed set"]),
        ("causal-lm", {"template": "chat", "system": "Be ``` brief."}, ["after this system message",
         "````\nBe ``` brief.\n````", "Ollama", "GenAI"], ["plain text", "closed set"]),
        ("causal-lm", {"template": "plain", "choices": [" good", " bad"]}, ["as plain text", '`" good"`, `" bad"`.',
         "likelihood", "-no-cnv"], ["system message"]),
    ],
)  # fmt: skip
def test_use_is_that_of_the_task(
    report: Document, task: str, data: dict[str, object], said: list[str], not_said: list[str]
) -> None:
    report["reproduce"]["recipe"] |= {"task": task, "data": data}
    use = render_card(report).split("## Use")[1].split("## Limits")[0]
    for words in ("predict.py", "USE.md", *said):
        assert words in use
    for words in not_said:
        assert words not in use
