"""Rows that are sound one by one and wrong together: answers in prompts, absent classes, what is dropped."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row
from distill2edge.data.filters import refusal
from distill2edge.data.prepare import prepare
from distill2edge.data.selection import Selection
from distill2edge.data.sorted_items import Item
from distill2edge.data.split_files import read_rows
from distill2edge.errors import UserError
from distill2edge.preflight.data import problems
from distill2edge.recipe import schema
from distill2edge.recipe.load import parse_recipe
from distill2edge.util.progress import SilentProgress

WORDS = "the a film was very slow good bad long story end music actor town river night cold warm old new".split()  # noqa: SIM905


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []

    def say(self, line: str) -> None:
        self.said.append(line)

    def warn(self, line: str) -> None:
        self.warned.append(line)


def run(tmp_path: Path, rows: list[dict[str, Any]], heard: Heard | None = None, **options: Any) -> dict[str, Any]:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"source": str(path), "splits": {"train": 24, "validation": 8, "calibration": 4, "test": 12}}
    settings["leakage"] = {"near_duplicate": 1.0, "max_fraction": 1.0}
    data = schema.Data.model_validate(settings | options)
    return prepare(data, 0, tmp_path / "work", heard or Heard())


def sentence(n: int) -> str:
    return " ".join(WORDS[(n * k + k * k) % len(WORDS)] for k in range(1, 9)) + f" {n}"


ANSWERED = [
    {"text": f"Question: {sentence(n)} Answer: {sentence(n + 500)}", "answer": sentence(n + 500)} for n in range(60)
]


@pytest.mark.parametrize(
    ("prompt", "rows"),
    [
        ("{{ text }}", ANSWERED),
        ("{{ answer }} Repeat: {{ answer }}", ANSWERED),
        (
            "{{ messages | tojson }}",
            [{"messages": [{"content": f"q {n}"}, {"content": f'"a"\n{n}'}], "answer": f'"a"\n{n}'} for n in range(60)],
        ),
        ("{{ text }}", [{"text": f"What is {n} times 2? It is {2 * n}", "answer": str(2 * n)} for n in range(60)]),
    ],
)
def test_an_answer_in_the_prompt_is_refused(tmp_path: Path, prompt: str, rows: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="the response stands in the prompt of 24 of 24 rows") as caught:
        run(tmp_path, rows, prompt=prompt, response="{{ answer }}")
    assert caught.value.where == "data.prompt"
    assert "data.leakage.response_in_prompt" in caught.value.fix
    assert not (tmp_path / "work").exists()
    allowed = {"near_duplicate": 1.0, "max_fraction": 1.0, "response_in_prompt": 1.0}
    facts = run(tmp_path, rows, prompt=prompt, response="{{ answer }}", leakage=allowed)
    assert facts["splits"]["train"]["rows"] == 24


@pytest.mark.parametrize(
    "rows",
    [
        # A short answer out of a text, class names among options, the first words of a text, and no answer at all.
        [{"text": f"{sentence(n)} In {n + 1900} it rained. When?", "answer": str(n + 1900)} for n in range(60)],
        [{"text": f"{sentence(n)} Options: good, bad", "answer": ("good", "bad")[n % 2]} for n in range(60)],
        [{"text": sentence(n), "answer": sentence(n + 999)} for n in range(60)],
        [{"text": sentence(n), "answer": sentence(n) + (f" corrected {n}" if n % 3 else "")} for n in range(60)],
    ],
)  # fmt: skip
def test_honest_answers_that_stand_in_a_prompt(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    assert run(tmp_path, rows, prompt="{{ text }}", response="{{ answer }}")["splits"]["test"]["rows"] == 12


def test_recipe_check_sees_an_answer_in_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ANSWERED))
    data = {"source": str(tmp_path / "rows.jsonl"), "prompt": "{{ text }}", "response": "{{ answer }}"}
    student = {"init": {"from": "teacher", "layers": 1}}
    recipe = {"name": "a", "teacher": {"model": "owner/teacher"}, "student": student}
    for prompt, seen in {"{{ text }}": 1, "{{ text.split(' Answer')[0] }}": 0}.items():
        data |= {"prompt": prompt, "splits": {"validation": 8, "calibration": 4, "test": 12}}
        found = list(problems(parse_recipe(json.dumps({**recipe, "data": data}), "a.yaml"), []))
        assert len(found) == seen, found
        assert all("the response stands in the prompt of 50 of 50 rows" in problem.what for problem in found)


def test_recipe_check_says_what_to_write_for_conversations(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (tmp_path / "rows.jsonl").write_text((json.dumps({"messages": turns}) + "\n") * 60)
    student = {"init": {"from": "teacher", "layers": 1}}
    recipe = {"name": "a", "teacher": {"model": "owner/teacher"}, "student": student}
    data = {"source": str(tmp_path / "rows.jsonl"), "splits": {"validation": 8, "calibration": 4, "test": 12}}
    assert not list(problems(parse_recipe(json.dumps({**recipe, "data": data}), "a.yaml"), []))
    text = json.dumps({**recipe, "data": {**data, "prompt": "{{ text }}"}})
    found = list(problems(parse_recipe(text, "a.yaml"), []))
    assert found
    told = [problem.fix for problem in found if problem.path == ("data", "prompt")]
    assert any('data.prompt: "{{ messages[0].content }}"' in fix for fix in told), found


def labelled(labels: list[str]) -> list[dict[str, Any]]:
    return [{"text": sentence(n), "label": label} for n, label in enumerate(labels)]


LABEL: dict[str, Any] = {"prompt": "{{ text }}", "response": "{{ label }}", "choices": ["no", "yes"]}


def test_a_class_that_a_split_lacks_is_told_with_counts(tmp_path: Path) -> None:
    heard = Heard()
    facts = run(tmp_path, labelled(["yes"] + ["no"] * 59), heard, **LABEL)
    assert facts["classes"] == {"no": 59, "yes": 1}
    assert facts["warnings"] == heard.warned
    lacking = [name for name in ("train", "test") if not facts["splits"][name]["choices"]["yes"]]
    assert lacking
    for name, warning in zip(lacking, heard.warned, strict=True):
        assert f"no row of 'yes' (1 in the source) among the {facts['splits'][name]['rows']} {name} rows" in warning


def test_one_class_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="every row of the source has the class 'no'"):
        run(tmp_path, labelled(["no"] * 60), **LABEL)


@pytest.mark.parametrize(
    ("choices", "shown"),
    [
        ("[0, 1]", '["0", "1"]'),
        ("[false, true]", '["False", "True"]'),
        ("[0.0, '1']", '["0.0", "1"]'),
        ("[010, b]", '["010", "b"]'),
        ("[null, 1e3, 0x10]", '["null", "1e3", "0x10"]'),
        ("[~, +1]", '["~", "+1"]'),
    ],
)
def test_choices_without_quotes_are_shown_with_them(choices: str, shown: str) -> None:
    recipe = "name: a\nteacher: {model: o/t}\nstudent: {init: {from: teacher, layers: 1}}\n"
    with pytest.raises(UserError) as caught:
        parse_recipe(f"{recipe}data: {{source: a.csv, choices: {choices}}}\n", "a.yaml")
    assert f"in quotes\n  fix: write {shown}" in str(caught.value)
    corrected = f"{recipe}data: {{source: a.csv, choices: {shown}}}\n"
    assert list(parse_recipe(corrected, "a.yaml").data.choices or ()) == json.loads(shown)


@pytest.mark.parametrize(
    ("value", "choices", "fix"),
    [
        (1.0, ["0", "1"], "{{ label | int }}"),
        (True, ["no", "yes"], "{{ 'yes' if label else 'no' }}"),
        ("Yes", ["no", "yes"], "differ in case"),
        ("perhaps", ["no", "yes"], "data.filter"),
    ],
)
def test_a_label_that_is_printed_otherwise(tmp_path: Path, value: Any, choices: list[str], fix: str) -> None:
    rows = [{"text": sentence(n), "label": value} for n in range(60)]
    with pytest.raises(UserError, match=r"row 1: the response .* is not one of data.choices") as caught:
        run(tmp_path, rows, **{**LABEL, "choices": choices})
    assert fix in caught.value.fix


def test_what_is_dropped_is_said_with_the_first_row(tmp_path: Path) -> None:
    rows = labelled(["no", "yes"] * 40)
    rows[2]["text"], rows[4]["label"] = " ", ""
    rows[7] = rows[6]
    heard = Heard()
    facts = run(tmp_path, rows, heard, **LABEL, filter="label != 'x'")
    assert facts["dropped"] == {"duplicate": 1, "empty": 2, "not_needed": 77 - 48}
    told = next(line for line in heard.said if "not taken" in line)
    assert "2 without a prompt or a response (the first is row 3)" in told
    assert "1 with prompt and response of another row (the first is row 8)" in told
    assert f"{77 - 48} not needed" in told


def test_texts_that_no_file_holds_are_named(tmp_path: Path) -> None:
    for bad, what in {"a\0b": "NUL", "a\ud800b": "surrogate"}.items():
        rows = [{"text": sentence(n), "answer": sentence(n + 99)} for n in range(60)]
        rows[5]["answer"] = bad
        with pytest.raises(UserError, match=rf"row 6: the text .*{what}"):
            run(tmp_path, rows, prompt="{{ text }}", response="{{ answer }}")


def test_the_same_rows_whatever_is_held(tmp_path: Path) -> None:
    """What is taken does not depend on how much is held: as if every row had been."""
    rows = [{"text": sentence(n), "answer": f"{sentence(n + 999)} {n % 7}"} for n in range(3000)]
    templates = {"prompt": "{{ text }}", "response": "{{ answer }}"}
    run(tmp_path, rows, **templates)
    few = {name: read_rows(tmp_path / "work", name) for name in SPLITS}
    run(tmp_path, rows, **templates, splits={"validation": 8, "calibration": 4, "test": 12})
    every = {name: read_rows(tmp_path / "work", name) for name in SPLITS}
    assert few["train"] == every["train"][:24]
    assert all(few[name] == every[name] for name in ("validation", "calibration", "test"))
    run(tmp_path, rows[::-1], **templates)
    assert few == {name: read_rows(tmp_path / "work", name) for name in SPLITS}


def test_more_rows_are_read_where_those_held_leak(tmp_path: Path) -> None:
    same = [{"text": f"the very same words in every row of this source {n % 5}", "answer": f"{n}"} for n in range(4000)]
    rows = [*same, *({"text": sentence(n), "answer": sentence(n + 999)} for n in range(40))]
    facts = run(
        tmp_path,
        rows,
        prompt="{{ text }}",
        response="{{ answer }}",
        splits={"train": 30, "validation": 0, "calibration": 0, "test": 2},
        leakage={"near_duplicate": 0.5, "max_fraction": 1.0},
    )
    assert facts["splits"]["train"]["rows"] == 30


def test_a_selection_of_none_holds_none() -> None:
    held = Selection(0, 0)
    for n in range(9):
        held.add(Item(Row(f"{n}", "", "x"), f"{n}"))
    assert (list(held.groups()), held.added, held.full) == ([], 9, True)


def test_memory_does_not_grow_with_the_source() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        held = Selection(0, 200)
        for n in range(count):
            held.add(Item(Row(f"{n:032x}", f"{n} " * 50, "answer"), f"{n} words"))
        taken = [item for group in held.groups() for item in group]
        assert held.added == count
        assert 200 <= len(taken) < 202
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(20_000) < 1.2 * peak(2_000)


def test_politeness_without_end_is_no_hang() -> None:
    assert not refusal("thank you " * 30)
    assert not refusal("sorry, " * 40)
    assert refusal("Thank you for asking! Unfortunately, I am not able to help with that.")
