"""A closed set of responses: what is one choice, and the fix that a message names works when it is applied."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.choice_matching import Choices
from distill2edge.data.prepare import prepare
from distill2edge.data.rows import Dropped, Rows
from distill2edge.errors import RecipeErrors, UserError
from distill2edge.preflight.data import problems
from distill2edge.recipe import schema
from distill2edge.recipe.load import parse_recipe
from distill2edge.util.nearest import nearest
from distill2edge.util.progress import SilentProgress

RECIPE = "name: a\nteacher: {model: o/t}\nstudent: {init: {from: teacher, layers: 1}}\n"
COMPOSED, APART = "caf\u00e9", "cafe\u0301"


def data(choices: list[str], response: str = "{{ label }}", **more: Any) -> schema.Data:
    return schema.Data(source="a.jsonl", prompt="{{ text }}", response=response, choices=tuple(choices), **more)


def label_of(section: schema.Data, row: dict[str, Any]) -> int:
    ((_, item),) = Rows(section).items([{"text": "x", **row}], Dropped())
    return item.row.label


@pytest.mark.parametrize(
    ("value", "choices", "label"),
    [
        (0.0, ["0", "1"], 0),
        (Decimal("1.00"), ["0", "1"], 1),
        ("1", ["0.0", "1.0"], 1),
        ("2.5", ["1.00", "2.50"], 1),
        ("7", ["007", "010"], 0),
        (True, ["0", "1"], 1),
        (True, ["false", "true"], 1),
        (False, ["no", "yes"], 0),
        ("Yes", ["no", "yes"], 1),
        ("no", ["NO", "YES"], 0),
        ("good", ["Good", "Bad"], 0),
        ("new york", ["New York", "San Jose"], 0),
        ("IOS", ["Android", "iOS"], 1),
        ("1", ["negative", "positive"], 1),
        (0, ["negative", "positive"], 0),
    ],
)
def test_the_template_that_is_named_makes_the_choice(value: Any, choices: list[str], label: int) -> None:
    with pytest.raises(UserError, match=r"row 1: the response .* is not one of data\.choices") as caught:
        label_of(data(choices), {"label": value})
    template = re.search(r'write data\.response: "(.*)"$', caught.value.fix)
    assert template, caught.value.fix
    assert label_of(data(choices, template[1]), {"label": value}) == label


@pytest.mark.parametrize("written", ["{{ label }}", "{{ label | trim }}", "{{ row['label'] }}", "{{ label or 'a' }}"])
def test_the_filter_that_is_named_leaves_the_row_out(written: str) -> None:
    with pytest.raises(UserError) as caught:
        label_of(data(["good", "bad"], written), {"label": "god"})
    assert "did you mean good?" in caught.value.fix
    found = re.search(r'data\.filter: "(.*)"$', caught.value.fix)
    assert found
    dropped = Dropped()
    rows = Rows(data(["good", "bad"], written, filter=found[1]))
    assert [item.row.label for _, item in rows.items([{"text": "x", "label": v} for v in ("god", "bad")], dropped)] == [
        1
    ]
    assert dropped.counts["filter"] == 1


def test_check_and_the_data_stage_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"text": f"film {n}", "label": float(n % 2)}) + "\n" for n in range(60)))
    text = f"{RECIPE}data: {{source: {path}, template: plain, prompt: '{{{{ text }}}}', response: '{{{{ label }}}}'"
    recipe = parse_recipe(text + ", choices: ['0', '1']}\n", "a.yaml")
    told = [problem for problem in problems(recipe, []) if problem.path == ("data", "response")]
    with pytest.raises(UserError) as caught:
        prepare(recipe.data, 0, tmp_path / "w", SilentProgress())
    assert [(problem.what, problem.fix) for problem in told] == [(caught.value.what, caught.value.fix)]
    assert 'write data.response: "{{ label | int }}"' in caught.value.fix


def test_one_text_in_two_forms_is_one_choice() -> None:
    assert label_of(data(["tea", COMPOSED]), {"label": APART}) == 1
    assert label_of(data(["tea", APART]), {"label": COMPOSED}) == 1
    assert Choices([" good", "bad "]).index("bad") == 1
    assert Choices([" good", "bad "]).index("good\n") == 0


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ([COMPOSED, APART], "two forms of Unicode"),
        (["good", " good"], "differ in blanks alone"),
        (["good ", "good"], "differ in blanks alone"),
        (["good", "good"], "twice"),
        (["", "good"], "empty"),
        (["good", " "], "empty"),
    ],
)
def test_choices_that_cannot_be_told_apart(choices: list[str], said: str) -> None:
    with pytest.raises(RecipeErrors, match=said) as caught:
        parse_recipe(f"{RECIPE}data: {{source: a.csv, choices: {json.dumps(choices)}}}\n", "a.yaml")
    assert caught.value.errors[0].fix


def test_yaml_keeps_words_and_dates_as_texts() -> None:
    recipe = parse_recipe(f"{RECIPE}data: {{source: a.csv, choices: [yes, no, on, 2024-01-31, 1_0]}}\n", "a.yaml")
    assert recipe.data.choices == ("yes", "no", "on", "2024-01-31", "1_0")


@pytest.mark.parametrize(
    ("line", "where", "fix"),
    [
        ("teacher: {model: o/t, revision: 1234567}", "teacher.revision", 'write it in quotes: "1234567"'),
        ("teacher: {model: o/t, revision: 12e4567}", "teacher.revision", "a text that looks like a number"),
        ("teacher: {model: o/t, licence: 2.0}", "teacher.licence", 'write it in quotes: "2.0"'),
        ("teacher: {model: }", "teacher.model", "write its value"),
        ("teacher: {model: null}", "teacher.model", 'in quotes: "null"'),
        ("student: {init: {from: teacher, layers: 1}, lora: }", "student.lora", "take the key out"),
        ("data: {source: 010}", "data.source", 'write it in quotes: "010"'),
        ("student: {init: {model: 5}}", "student.init.model", 'write it in quotes: "5"'),
        ("student: {init: {model: m}, lora: {targets: [1, q]}}", "student.lora.targets", 'write ["1", "q"]'),
        ("export: [8]", "export", 'write ["8"]'),
    ],
)
def test_texts_that_yaml_reads_as_something_else(line: str, where: str, fix: str) -> None:
    key = line.partition(":")[0]
    rest = {"teacher": "{model: o/t}", "data": "{source: a.csv}", "student": "{init: {from: teacher, layers: 1}}"}
    text = "name: a\n" + "".join(f"{name}: {value}\n" for name, value in rest.items() if name != key) + line + "\n"
    with pytest.raises(UserError) as caught:
        parse_recipe(text, "a.yaml")
    errors = caught.value.errors if isinstance(caught.value, RecipeErrors) else [caught.value]
    assert [error.where.rpartition(": ")[2] for error in errors] == [where]
    assert fix in errors[0].fix


def test_what_the_command_line_gives_is_quoted_as_it_was_written() -> None:
    with pytest.raises(RecipeErrors, match=r'write \["010", "b"\]'):
        parse_recipe(f"{RECIPE}data: {{source: a.csv}}\n", "a.yaml", ["data.choices=[010, b]"])


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("distill.loss={fkl: 1}", "forward_kl"),
        ("distill.loss={rkl: 1}", "reverse_kl"),
        ("distill.lr=1e-4", "learning_rate"),
        ("distill.bs=4", "batch_size"),
        ("export=[gguf:q4km]", "gguf:Q4_K_M"),
        ("export=[q4km]", "gguf:Q4_K_M"),
        ("export=[Q8]", "gguf:Q8_0"),
        ("export=[int8]", "onnx:int8"),
        ("export=[onnx:int4]", "onnx:int4-b32"),
        ("data.template=CHATML", "chat"),
        ("task=CausalLM", "causal-lm"),
        ("signal={kind: Logit}", "logits"),
        ("quantize.calibration=imat", "imatrix"),
        ("distill.dtype=bf16", "bfloat16"),
        ("distill.schedule=cos", "cosine"),
    ],
)
def test_the_value_that_was_meant(override: str, near: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(f"{RECIPE}data: {{source: a.csv}}\n", "a.yaml", [override])
    assert f"did you mean {near}?" in str(caught.value)


def test_nothing_is_meant_by_what_is_like_nothing() -> None:
    assert nearest("zzz", ["good", "bad"]) is None
    assert nearest("", ["good"]) is None
    assert nearest("!!", ["a!"]) is None
    assert nearest("god", ["good", "bad"]) == "good"
