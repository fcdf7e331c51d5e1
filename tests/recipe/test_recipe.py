"""The recipe: all errors at once, with line and fix; YAML 1.2; overrides; every recipe of the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe import yaml12
from distill2edge.recipe.load import dump_recipe, edit_recipe, load_recipe, parse_recipe, recipe_schema
from distill2edge.recipe.new import New, new_recipe
from distill2edge.recipe.schema import FromModel, FromTeacher, Recipe

ROOT = Path(__file__).parents[2]
MINIMAL = """\
name: x
teacher: {model: a}
data: {source: b}
student: {init: {from: teacher, layers: 3}}
"""


def errors_of(text: str) -> dict[str, UserError]:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(text, "r.yaml")
    return {error.where: error for error in caught.value.errors}


def test_every_error_is_reported_with_its_line_and_the_fix() -> None:
    found = errors_of(
        "name: Bad Name\n"
        "teecher: {model: a}\n"
        "teacher:\n"
        "  model: a\n"
        "  fit: {lora: {rnk: 3}}\n"
        "data: {source: b}\n"
        "signal: {kind: logit}\n"
        "student:\n"
        "  init: {from: teacher, layers: 3}\n"
        "  lora: {rank: -1}\n"
        "distill: {loss: {kle: 1}}\n"
    )
    assert set(found) == {
        "r.yaml:1: name",
        "r.yaml:2: teecher",
        "r.yaml:5: teacher.fit.lora.rnk",
        "r.yaml:7: signal",
        "r.yaml:10: student.lora.rank",
        "r.yaml:11: distill.loss.kle",
    }
    assert found["r.yaml:2: teecher"].fix == "did you mean teacher?"
    assert found["r.yaml:5: teacher.fit.lora.rnk"].fix == "did you mean rank?"
    assert "forward_kl" in found["r.yaml:11: distill.loss.kle"].fix


def test_a_missing_section_is_named() -> None:
    found = errors_of("name: x\ndata: {source: b}\nstudent: {init: {model: c}}\n")
    assert any("teacher" in where and "required" in error.what for where, error in found.items())


def test_an_unknown_scheme_names_the_nearest() -> None:
    with pytest.raises(RecipeErrors, match=r"did you mean onnx:int8\?"):
        parse_recipe(MINIMAL + "export: [onnx:int9]\n", "r.yaml")


def test_contradictions_of_sections_are_shown_together_with_their_lines() -> None:
    found = errors_of(
        "name: x\n"
        "task: classification\n"
        "teacher: {model: a, backend: llama.cpp}\n"
        "data: {source: b}\n"
        "student: {init: {from: teacher, layers: 3}}\n"
        "bench: {workloads: [chat-128-64]}\n"
        "export: [onnx:int8, onnx:int8]\n"
        "verify: {judge: {model: c}}\n"
    )
    assert set(found) == {
        "r.yaml:1: distill.loss",
        "r.yaml:1: signal.kind",
        "r.yaml:3: teacher.backend",
        "r.yaml:4: data",
        "r.yaml:4: data.template",
        "r.yaml:6: bench.workloads",
        "r.yaml:7: export[1]",
        "r.yaml:8: verify.judge",
    }
    assert found["r.yaml:4: data"].fix == "set data.choices"


def test_wrong_keys_do_not_hide_what_else_is_wrong() -> None:
    found = errors_of(
        "name: My Name\n"
        "task: classificaton\n"
        "teacher: {modle: a}\n"
        "data: {source: b, choices: [a, a]}\n"
        "student: {init: {from: teacher, layers: twelve}}\n"
        "export: [onnx:int3]\n"
        "verify: {min_retained: 95}\n"
        "cost: {teacher: {rented: a, device: b}}\n"
    )
    assert set(found) == {
        "r.yaml:1: name",
        "r.yaml:2: task",
        "r.yaml:3: teacher.modle",
        "r.yaml:4: data.choices",
        "r.yaml:5: student.init.layers",
        "r.yaml:6: export[0]",
        "r.yaml:7: verify.min_retained",
        "r.yaml:8: cost.teacher",
    }
    assert found["r.yaml:1: name"].fix == "write name: my-name"
    assert found["r.yaml:3: teacher.modle"].fix == "did you mean model?"


def test_a_loss_that_needs_logits_refuses_another_signal() -> None:
    with pytest.raises(RecipeErrors, match=r"signal: \{kind: logits\}"):
        parse_recipe(MINIMAL + "signal: {kind: text}\n", "r.yaml")


SAMPLED = MINIMAL + "signal: {kind: logits, sample: 50}\n"


@pytest.mark.parametrize(
    ("overrides", "where", "said"),
    [
        (["distill.loss={forward_kl: 0.5, reverse_kl: 0.5}"], "distill.loss.reverse_kl", "reverse KL needs the"),
        (["distill.loss={jsd: 1}"], "distill.loss.jsd", "weigh forward_kl in place of jsd"),
        (["distill.on_policy={rounds: 1}"], "distill.on_policy.reverse_kl", "weigh forward_kl in place of reverse_kl"),
        (["signal.top_k=128"], "signal.top_k", "keeps no top k"),
        (["signal.mass=0.9"], "signal.mass", "leave mass or sample out"),
        (["signal.align=vocabulary", "student.init={model: b/c}"], "signal.sample", "draws the teacher's own tokens"),
        (
            ["signal={kind: logits, mass: 0.9, align: vocabulary}", "student.init={model: b/c}"],
            "signal.mass",
            "leave one of the two out",
        ),
    ],
)
def test_a_random_sample_gives_the_forward_kl_alone(overrides: list[str], where: str, said: str) -> None:
    parse_recipe(SAMPLED, "r.yaml", ["distill.loss={ce: 0.2, forward_kl: 0.8}"])
    parse_recipe(SAMPLED, "r.yaml", ["distill.on_policy={rounds: 1, reverse_kl: 0, forward_kl: 1}"])
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(SAMPLED, "r.yaml", overrides)
    (error,) = [each for each in caught.value.errors if where in each.where]
    assert said in str(error) + error.fix


@pytest.mark.parametrize(
    ("keys", "sample"),
    [
        ([], 64),
        (["signal={kind: logits, temperature: 1}"], 64),
        (
            ["distill.loss={ce: 0.2, forward_kl: 0.8}", "distill.on_policy={rounds: 1, reverse_kl: 0, forward_kl: 1}"],
            64,
        ),
        (["distill.loss={jsd: 1}"], None),
        (["distill.loss={forward_kl: 0.5, reverse_kl: 0.5}"], None),
        (["distill.on_policy={rounds: 1}"], None),
        (["signal={kind: logits, align: vocabulary}", "student.init={model: b/c}"], None),
        (["signal={kind: logits, top_k: 64}"], None),
        (["signal={kind: logits, mass: 0.9}"], None),
        (["signal={kind: logits, sample: null}"], None),
        (["signal={kind: logits, sample: 16}"], 16),
    ],
)
def test_a_signal_without_a_form_is_a_random_sample_where_the_losses_allow_it(
    keys: list[str], sample: int | None
) -> None:
    recipe = parse_recipe(MINIMAL, "r.yaml", keys)
    assert recipe.signal.sample == sample
    for kept in (recipe.model_dump(by_alias=True), recipe.model_dump(by_alias=True, exclude_unset=True)):
        assert Recipe.model_validate(kept) == recipe  # what a run writes down reads as the same


@pytest.mark.parametrize(
    ("keys", "form"),
    [
        ({"distill.loss.jsd": 1}, (None, None, 64)),
        ({"distill.on_policy": {"rounds": 1}}, (None, None, 64)),
        ({"student.init": {"model": "b/c"}, "signal.align": "vocabulary"}, (None, None, 64)),
        ({"signal.top_k": 16}, (None, None, 16)),
        ({"signal.mass": 0.9}, (None, 0.9, 64)),
        ({"signal.temperature": 1}, (64, None, 64)),
    ],
)
def test_an_edit_decides_anew_what_no_recipe_named(keys: Any, form: tuple[int | None, float | None, int]) -> None:
    edited = edit_recipe(parse_recipe(MINIMAL, "r.yaml"), keys)
    assert (edited.signal.sample, edited.signal.mass, edited.signal.top_k) == form
    with pytest.raises(RecipeErrors, match="Jensen-Shannon"):
        edit_recipe(parse_recipe(SAMPLED, "r.yaml"), {"distill.loss.jsd": 1})


def test_a_server_that_scores_the_rows_keeps_what_it_lists() -> None:
    recipe = parse_recipe(ENDPOINT, "r.yaml", ["signal={kind: logits, temperature: 1}", "distill.loss={forward_kl: 1}"])
    assert (recipe.signal.sample, recipe.signal.top_k) == (None, 64)


def test_a_key_written_twice_is_refused() -> None:
    with pytest.raises(UserError, match="twice"):
        parse_recipe(MINIMAL + "name: y\n", "r.yaml")


def test_the_init_is_told_by_its_keys() -> None:
    assert isinstance(parse_recipe(MINIMAL, "r").student.init, FromTeacher)
    text = MINIMAL.replace("{from: teacher, layers: 3}", "{model: c}")
    assert isinstance(parse_recipe(text, "r").student.init, FromModel)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("2E3", 2000.0),
        ("010", 10),
        ("0x1f", 31),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("~", None),
        ("1_000", "1_000"),
        (".5", 0.5),
        ("12:30", "12:30"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    read = yaml12.parse_value(text).value
    assert read == value
    assert type(read) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_reads_back(number: float) -> None:
    assert yaml12.parse_value(repr(number)).value == number


def test_overrides_reach_nested_values_and_are_checked() -> None:
    recipe = parse_recipe(MINIMAL, "r", ["student.init.layers=5", "distill.learning_rate=1e-4", "export=[gguf:Q4_0]"])
    assert recipe.student.init.layers == 5  # type: ignore[union-attr]
    assert recipe.distill.learning_rate == 1e-4
    assert recipe.export == ("gguf:Q4_0",)
    with pytest.raises(RecipeErrors, match="unknown key"):
        parse_recipe(MINIMAL, "r", ["student.init.layrs=5"])
    with pytest.raises(UserError, match="cannot read"):
        parse_recipe(MINIMAL, "r", ["student.init.layers"])


def test_a_shown_recipe_reads_back_to_the_same() -> None:
    recipe = parse_recipe(MINIMAL, "r")
    assert parse_recipe(dump_recipe(recipe), "shown") == recipe


def test_a_recipe_is_frozen() -> None:
    recipe = parse_recipe(MINIMAL, "r")
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "y"  # type: ignore[misc]


def test_the_json_schema_knows_every_key() -> None:
    schema = json.loads(recipe_schema())
    assert set(schema["properties"]) == set(Recipe.model_fields)
    assert schema["additionalProperties"] is False


def test_a_new_recipe_passes_the_check() -> None:
    recipe = parse_recipe(new_recipe(New("support-bot")), "new")
    assert recipe.name == "support-bot"
    assert recipe.distill.learning_rate == 1e-3
    with pytest.raises(RecipeErrors):
        new_recipe(New("Not A Name"))


def test_every_recipe_of_the_repository_is_fine() -> None:
    paths = sorted((ROOT / "recipes").rglob("*.yaml"))
    assert len(paths) >= 1
    assert ROOT / "recipes" / "quickstart.yaml" in paths
    for path in paths:
        recipe = load_recipe(path)
        assert path.read_text().startswith("#"), f"{path} has no header"
        assert recipe.schemes


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.yaml").write_text(MINIMAL)
    with pytest.raises(UserError) as caught:
        load_recipe(tmp_path / "quickstrat.yaml")
    assert "quickstart.yaml" in caught.value.fix


ENDPOINT = """\
name: served
teacher: {model: "endpoint:https://host.example/v1", endpoint: {model: m, max_tokens: 1000}, licence: mit}
data: {source: rows.jsonl}
signal: {kind: text}
student: {init: {model: owner/student}}
distill: {loss: {ce: 1}}
"""


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("signal.kind=logits", "not known at another temperature"),
        ("signal={kind: logits, temperature: 1, align: vocabulary}", "in the student's own tokens"),
        ("signal={kind: logits, temperature: 1, sample: 50}", "a server lists its likeliest tokens alone"),
        ("student.init={from: teacher, layers: 2}", "layers and tokenizer are not here"),
        ("teacher.fit={}", "cannot be fitted"),
        ("teacher.endpoint=null", "belong together"),
        ("verify.min_retained=0.9", "compares with a teacher that runs here"),
        ("verify.teacher_schemes=[gguf:Q8_0]", "cannot be exported"),
        ("signal.verify=[{kind: likelihood, min_mean_logprob: -1}]", "asks the teacher's weights"),
    ],
)
def test_an_endpoint_has_no_weights_here(override: str, said: str) -> None:
    parse_recipe(ENDPOINT, "served.yaml")
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(
            ENDPOINT, "served.yaml", [override, "distill.loss={forward_kl: 1}"] if "logits" in override else [override]
        )
    assert said in str(caught.value)
