"""A student by way of an assistant: a larger one is taught first, and the student starts from its layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file
from test_end_to_end_classification import place as plain  # noqa: F401
from tiny import tiny_recipe

import distill2edge as d2e
from distill2edge.errors import UserError
from distill2edge.report.curves import training_charts
from distill2edge.student.assistant import in_whole_layers


@pytest.fixture(scope="module")
def place(plain: Path) -> Path:  # noqa: F811
    """The classifier's recipe, by way of an assistant."""
    path = plain / "tiny.yaml"
    recipe = yaml.safe_load(path.read_text())
    recipe["student"] |= {"init": {"from": "teacher", "layers": [0, 2]}, "assistant": {"layers": [0, 1, 3]}}
    recipe["teacher"]["fit"]["epochs"], recipe["distill"]["epochs"] = 2, 4
    recipe |= {"export": ["onnx:int8"], "quantize": {}}
    recipe["bench"]["torch"] = False
    path.write_text(yaml.safe_dump(recipe))
    return plain


@pytest.fixture(scope="module")
def run(place: Path) -> d2e.Run:
    return d2e.run(place / "tiny.yaml", store=place / "store", out=place / "out", quiet=True)


def weights(run: d2e.Run, stage: str) -> dict[str, Any]:
    return dict(load_file(run.artifacts[stage].path / "model" / "model.safetensors"))


LAYER = "bert.encoder.layer.{}.attention.self.query.weight"


def test_the_student_starts_from_what_the_assistant_has_learned(run: d2e.Run) -> None:
    taught, begun = weights(run, "merge assistant"), weights(run, "student assisted")
    for own, theirs in ((0, 0), (1, 2)):
        assert (begun[LAYER.format(own)] == taught[LAYER.format(theirs)]).all()
    assert (begun["classifier.weight"] == taught["classifier.weight"]).all()
    assert (taught[LAYER.format(2)] != weights(run, "student assistant")[LAYER.format(2)]).any()


def test_its_layers_are_counted_in_the_teacher_and_its_tokens_are_trimmed(run: d2e.Run) -> None:
    student = run.report.document["student"]
    assert student["layers"] == [0, 3]
    assert student["of"] == 4
    assert student["assistant"]["layers"] == [0, 1, 3]
    assert student["assistant"]["parameters"] > student["parameters"]
    assert student["vocabulary"]["kept"] < student["vocabulary"]["of"]


def test_the_control_knows_nothing_of_the_assistant(run: d2e.Run) -> None:
    """It is the student without a teacher, and the assistant has one."""
    start = run.artifacts["distill control"].manifest["parents"]
    assert run.artifacts["student"].key in start.values()
    assert run.artifacts["student assisted"].key not in start.values()
    assert run.artifacts["student assisted"].key in run.artifacts["distill"].manifest["parents"].values()


def test_layers_are_compared_between_the_two_and_not_with_the_teacher(run: d2e.Run) -> None:
    assert run.recipe.distill.loss.hidden
    read = {arm: set(run.artifacts[f"distill{arm}"].manifest["parents"]) for arm in ("", " assistant", " control")}
    assert "merge assistant" in read[""]
    assert "fit" not in read[""] | read[" assistant"] | read[" control"]


def test_an_asked_teacher_has_no_layers_but_an_assistant_has(place: Path) -> None:
    """A decoder teaches the encoder by its answers, and hidden states are those of the taught encoder."""
    changes = {
        "teacher": {"model": "bundled:smollm2-135m-instruct", "ask": {"prompt": "{{ prompt }}:"}},
        "student.init": {"model": "bundled:all-minilm-l6-v2", "layers": [1, 3, 5]},
        "student.assistant": {},
        "export": ["onnx:int8"],
    }
    assert d2e.load(place / "tiny.yaml", changes).distill.loss.hidden
    with pytest.raises(UserError, match=r"or teach a student\.assistant first"):
        d2e.load(place / "tiny.yaml", {**changes, "student.assistant": None})


def test_the_report_shows_its_training(run: d2e.Run, place: Path) -> None:
    assert run.report.document["training"]["assistant"]["log"]
    page = (place / "out" / "report.md").read_text()
    assert "assistant: weights" in page
    assert "assistant: supervised tokens" in page


def test_its_curve_is_drawn_by_the_loss_that_it_has(run: d2e.Run, place: Path) -> None:
    """Without the terms on layers, so it is no other line in the student's chart; and in a colour."""
    titles = [title for title, _ in training_charts(run.report.document)]
    assert any("hidden states" in title for title in titles)
    assert any("forward KL" in title and "hidden states" not in title for title in titles)
    page = (place / "out" / "report.html").read_text()
    assert 'class="series assistant' in page
    assert ".series.assistant" in page


def test_a_recipe_without_one_trains_the_same_control(run: d2e.Run, place: Path) -> None:
    without = d2e.plan(place / "tiny.yaml", {"student.assistant": None}, store=place / "store", quiet=True)
    cached = {stage.name for stage in without.stages if stage.cached}
    assert {"data", "fit", "signal", "student", "distill control", "merge control"} <= cached
    assert "distill" not in cached


def test_the_plan_counts_the_assistant_s_training(place: Path) -> None:
    planned = d2e.plan(place / "tiny.yaml", store=place / "elsewhere", quiet=True)
    names = [stage.name for stage in planned.stages]
    assert names.index("merge assistant") < names.index("student assisted") < names.index("distill")
    assert all(stage.seconds for stage in planned.stages if stage.name == "distill assistant")


def test_a_writing_student_too(tmp_path: Path) -> None:
    path = tiny_recipe(tmp_path)
    changes = {
        "student.init": {"from": "teacher", "layers": 1},
        "student.assistant": {"layers": 2},
        "student.vocabulary": "trim",
    }
    run = d2e.run(path, changes, upto="merge", store=tmp_path / "store", quiet=True)
    (taught, begun), name = (weights(run, stage) for stage in ("merge assistant", "student assisted")), "mlp.up_proj"
    (first,) = [key for key in begun if name in key]
    assert (begun[first] == taught[first]).all()
    assert begun["model.embed_tokens.weight"].shape[0] < taught["model.embed_tokens.weight"].shape[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"student.assistant.layers": [0, 2]}, "an assistant of 2 layers is no larger than its student of 2"),
        ({"student.assistant.layers": None}, "all layers of the teacher are it"),
        ({"student.assistant.layers": 5}, "5 layers: the teacher has 4"),
        ({"student.init.layers": [0, 3]}, "layer 3 is out of range: the assistant has 3 layers"),
        ({"distill.loss": {"hidden": 1}}, "the assistant learns by the terms that compare no layers"),
        ({"distill.loss.layer_map": [0, 3]}, "layer 3 is out of range: the assistant has 3 layers"),
        ({"student.pretrain": {"epochs": 1}}, "take one of the two out"),
        ({"student.init": {"model": "bundled:all-minilm-l6-v2"}}, "which is to be larger"),
    ],
)
def test_what_makes_no_sense_is_said_before_anything_runs(place: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("(", r"\(")):
        d2e.run(place / "tiny.yaml", change, store=place / "nowhere", quiet=True)
    assert not (place / "nowhere" / "data").exists()


@pytest.mark.parametrize(
    ("own", "theirs", "wanted"),
    [([1, 3, 5], None, [1, 3, 5]), ([0, 2], [0, 1, 3], [0, 3]), (None, [0, 4], [0, 4]), (None, None, None)],
)
def test_layers_of_layers(own: list[int] | None, theirs: list[int] | None, wanted: list[int] | None) -> None:
    larger = {"source": "teacher", "layers": theirs, "of": 6, "parameters": 10}
    assert in_whole_layers({"source": "model", "layers": own, "of": 3}, larger)["layers"] == wanted
