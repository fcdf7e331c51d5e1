"""`recipe new`: a recipe that runs as it is on the user's own file, or says what it needs to know."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.prepare import prepare
from distill2edge.errors import UserError
from distill2edge.preflight import checked_recipe
from distill2edge.recipe.new import TASKS, New, new_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.running.starter import Asked, starter
from distill2edge.util.progress import SilentProgress

TEAMS = ("billing", "delivery", "technical")


def tickets(count: int = 300) -> list[dict[str, Any]]:
    draw = random.Random(7)
    words = [
        "invoice",
        "parcel",
        "crash",
        "refund",
        "late",
        "screen",
        "card",
        "courier",
        "update",
        "order",
        "paid",
        "broken",
    ]
    return [
        {"text": " ".join(draw.choices(words, k=8)) + f" {n}", "team": TEAMS[n % 3], "id": f"T-{n}"}
        for n in range(count)
    ]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def checked(path: Path, text: str) -> Recipe:
    recipe = path.parent / "r.yaml"
    recipe.write_text(text, encoding="utf-8")
    return checked_recipe(recipe, (), SilentProgress())


def test_a_file_of_labels_becomes_a_classifier_that_passes_the_check(tmp_path: Path) -> None:
    rows = tickets()
    for n in (5, 50, 80):
        rows[n]["team" if n == 5 else "text"] = ""
    path = write_csv(tmp_path / "tickets.csv", rows)
    text = starter(Asked(name="tickets", data=path))
    recipe = checked(path, text)
    assert recipe.task == "classification"
    assert recipe.data.choices == TEAMS
    assert (recipe.data.prompt, recipe.data.response) == ("{{ text }}", "{{ team }}")
    assert "3 of 300 rows lack text or team" in text
    splits = recipe.data.splits
    assert splits.validation + splits.calibration + splits.test < 150
    assert 16 <= recipe.data.max_length <= 64


def test_a_teacher_that_writes_is_asked_and_labels_the_rows_that_have_no_label(tmp_path: Path) -> None:
    rows = tickets()
    for n in range(0, 40, 2):
        rows[n]["team"] = ""
    path = write_csv(tmp_path / "tickets.csv", rows)
    text = starter(Asked("tickets", data=path, teacher="bundled:smollm2-135m-instruct"))
    recipe = checked(tmp_path, text)
    assert recipe.task == "classification"
    assert recipe.teacher.ask is not None
    assert recipe.teacher.ask.answers == tuple(f" {team}" for team in TEAMS)
    assert recipe.data.unlabelled is not None
    assert "20 of 300 rows have no team: the teacher labels them" in text
    facts = prepare(recipe.data, 0, tmp_path / "work", SilentProgress())
    assert facts["splits"]["train"]["without_response"] == 20


def test_an_example_of_a_teacher_that_is_asked(tmp_path: Path) -> None:
    text = starter(Asked("reviews", "classification", teacher="bundled:smollm2-135m-instruct"))
    recipe = checked(tmp_path / "x", text)
    assert recipe.data.unlabelled is not None
    assert recipe.data.unlabelled.source == "bundled:movie-sentiment"


def test_rows_that_lack_a_field_are_left_out_by_the_recipe(tmp_path: Path) -> None:
    rows = tickets()
    del rows[3]["team"]
    rows[4]["text"] = None
    path = write_jsonl(tmp_path / "tickets.jsonl", rows)
    recipe = checked(path, starter(Asked(data=path)))
    facts = prepare(recipe.data, 0, tmp_path / "work", SilentProgress())
    assert facts["dropped"]["filter"] == 2
    assert sum(split["rows"] for split in facts["splits"].values()) >= 290


def test_questions_and_answers_become_a_chat(tmp_path: Path) -> None:
    rows = [{"question": f"What is {n} and {n}?", "answer": f"That makes {2 * n}, of course."} for n in range(200)]
    path = write_jsonl(tmp_path / "faq.jsonl", rows)
    recipe = checked(path, starter(Asked(data=path)))
    assert (recipe.task, recipe.data.template) == ("causal-lm", "chat")
    assert (recipe.data.prompt, recipe.data.response) == ("{{ question }}", "{{ answer }}")


def test_a_teacher_is_fitted_for_as_many_steps_on_few_rows_as_on_many(tmp_path: Path) -> None:
    epochs = {}
    for count in (60, 250, 3000):
        path = write_jsonl(
            tmp_path / f"{count}.jsonl",
            [{"question": f"What is {n}?", "answer": f"Twice {2 * n + 7000} halves."} for n in range(count)],
        )
        fit = checked(path, starter(Asked(data=path))).teacher.fit
        assert fit is not None
        epochs[count] = fit.epochs
        assert fit.batch_size == 16
    assert epochs == {60: 8, 250: 6, 3000: 1}


def test_texts_alone_are_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"This is line {n} of a text that goes on.\n" for n in range(100)))
    recipe = checked(path, starter(Asked(data=path)))
    assert (recipe.task, recipe.data.template) == ("causal-lm", "text")


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [row | {"language": ("de", "en")[n % 2], "notes": "x " * (n % 9)} for n, row in enumerate(tickets())]
    path = write_csv(tmp_path / "t.csv", rows)
    odd = write_csv(tmp_path / "odd.csv", [{"a": row["text"], "b": row["team"], "c": row["language"]} for row in rows])
    with pytest.raises(UserError, match="several columns could be the label: b, c") as caught:
        starter(Asked(data=odd))
    assert "--label" in caught.value.fix
    recipe = checked(path, starter(Asked(data=path, text="text", label="language")))
    assert recipe.data.choices == ("de", "en")


def test_leaking_rows_are_found_and_allowed_for(tmp_path: Path) -> None:
    rows = tickets(120)
    for n in range(60):
        rows[n]["text"] = " ".join(f"w{n}x{k}" for k in range(40))
        rows[n + 60] = rows[n] | {"text": rows[n]["text"] + " again"}
    path = write_csv(tmp_path / "t.csv", rows)
    recipe = checked(path, starter(Asked(data=path)))
    assert recipe.data.leakage.max_fraction > 0.1


@pytest.mark.parametrize(("column", "task"), [("prompt", None), ("Question", None), ("q", "chat")])
def test_of_prompts_alone_the_teacher_writes_the_answers(tmp_path: Path, column: str, task: Any) -> None:
    path = write_jsonl(tmp_path / "prompts.jsonl", [{column: f"what does repair {n} cost?"} for n in range(80)])
    text = starter(Asked(data=path, task=task))
    recipe = checked(path, text)
    assert (recipe.task, recipe.data.template, recipe.data.response) == ("causal-lm", "chat", None)
    assert recipe.signal.kind == "text"
    assert recipe.teacher.fit is None
    assert recipe.data.max_length > recipe.signal.max_new_tokens
    assert "no row has an answer: the teacher writes them" in text


def test_conversations_that_are_nearly_alike_are_counted_before_the_run(tmp_path: Path) -> None:
    """Else the first stage of a run of the new recipe refuses them."""
    asks = "is there anything that I have to bring along with me when I come to fetch the bicycle, which was left at "
    asks += "your workshop last week for a repair of its brakes and of its gears, on day {}"
    rng = random.Random(0)

    def row(number: int) -> dict[str, list[dict[str, str]]]:
        text = asks.format(number) if number < 30 else " ".join(f"w{rng.randrange(9999)}" for _ in range(20))
        says = (("user", text), ("assistant", "No, your name is enough."))
        return {"messages": [{"role": role, "content": content} for role, content in says]}

    path = write_jsonl(tmp_path / "alike.jsonl", [row(number) for number in range(120)])
    recipe = checked(path, starter(Asked(data=path)))
    assert 0.1 < recipe.data.leakage.max_fraction < 0.6
    prepare(recipe.data, recipe.seed, tmp_path / "data", SilentProgress())


def test_conversations_are_read_as_they_are(tmp_path: Path) -> None:
    def talk(number: int) -> list[dict[str, str]]:
        said = (
            ("user", f"Hi {number}"),
            ("assistant", f"Hello {number}"),
            ("user", "and?"),
            ("assistant", f"ok {number}"),
        )
        return [{"role": role, "content": content} for role, content in said]

    path = write_jsonl(tmp_path / "chat.jsonl", [{"messages": talk(number)} for number in range(60)])
    text = starter(Asked(data=path))
    assert "conversations of the form messages (role and content) in messages" in text
    recipe = checked(path, text)
    assert recipe.data.looks_for_a_form
    assert recipe.data.template == "chat"
    with pytest.raises(UserError, match="at least 40 are needed"):
        starter(Asked(data=write_jsonl(tmp_path / "few.jsonl", [{"messages": talk(number)} for number in range(9)])))
    with pytest.raises(UserError, match="they are for --task chat"):
        starter(Asked(data=path, task="seq2seq"))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "none.csv", "there is no such file"),
        (lambda folder: write_csv(folder / "few.csv", tickets(20)), "at least 40 are needed"),
        (lambda folder: write_jsonl(folder / "odd.jsonl", [{"x": n} for n in range(99)]), "it is not clear which are"),
        (lambda folder: write_csv(folder / "t.xlsx", tickets(3)), "unknown kind of file"),
    ],
)
def test_what_cannot_be_a_recipe_is_said(tmp_path: Path, make: Callable[[Path], Path], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        starter(Asked(data=make(tmp_path)))
    assert caught.value.fix


def test_a_column_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", tickets())
    with pytest.raises(UserError, match="no column 'txt'"):
        starter(Asked(data=path, text="txt"))


@pytest.mark.parametrize(
    "labels", [("yes", "no"), ("1", "2"), ("null", "~"), ('a "b"', "c: d"), ("#1", "- x"), ("é", "中")]
)
def test_labels_of_any_spelling_come_back_as_they_are(tmp_path: Path, labels: tuple[str, str]) -> None:
    rows = [{"text": f"text number {n} of many", "label": labels[n % 2]} for n in range(120)]
    path = write_csv(tmp_path / "t.csv", rows)
    assert set(checked(path, starter(Asked(data=path, task="classification"))).data.choices or ()) == set(labels)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_recipe_that_parses(task: Any) -> None:
    assert f"name: {task}-x" in new_recipe(New(f"{task}-x", task))


def test_the_first_step_says_nothing_of_the_time_that_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    from distill2edge.util.progress import PlainTask

    task = PlainTask("train", 1000, every=0.0)
    task.start -= 35.0  # the first step took 35 seconds: at that pace the rest would take nine hours
    task.advance()
    assert "left" not in capsys.readouterr().err
    begun, _ = task._first or (0.0, 0)
    for _ in range(9):
        task.advance()
    left = task.left_s(begun + 9.0)
    assert left is not None
    assert 980 <= left <= 1000


def test_columns_and_labels_as_spreadsheets_have_them(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    labels = ("caf\u00e9", "cafe\u0301 ", "tea", " tea")
    with open(path, "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["Ticket Text", "true", 'My "Label"'])
        table.writerows([f"film {n} the {n * 37} dog", n, labels[n % 4]] for n in range(120))
    text = starter(Asked(data=path, text="Ticket Text", label='My "Label"'))
    recipe = checked(path, text)
    assert recipe.data.choices == ("caf\u00e9", "tea")
    assert recipe.data.prompt == "{{ row['Ticket Text'] }}"


def test_columns_that_python_has_no_form_of_are_left_alone(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, labels = [f"film {n} the {n * 37} dog" for n in range(80)], ["ab"[n % 2] for n in range(80)]
    for name, column in (
        ("day", pa.array([10**8] * 80, pa.int32()).cast(pa.date32())),
        ("when", pa.array([0] * 80, pa.timestamp("us", "Mars/Phobos"))),
    ):
        path = tmp_path / f"{name}.parquet"
        pq.write_table(pa.table({"text": texts, "label": labels, name: column}), path)
        assert checked(path, starter(Asked(data=path))).data.choices == ("a", "b")


def test_a_column_named_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("items,row\n" + "".join(f"film {n} the {n * 37} dog,{'ab'[n % 2]}\n" for n in range(80)))
    assert checked(path, starter(Asked(data=path))).data.response == "{{ row }}"


@pytest.mark.parametrize("absent", [None, float("nan")])
def test_labels_that_a_table_keeps_as_decimal_numbers(tmp_path: Path, absent: float | None) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [{"text": f"film {n} the {n * 37} dog", "label": float(n % 3), "tags": ["a"]} for n in range(120)]
    rows[7]["label"] = absent  # type: ignore[assignment]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = checked(path, starter(Asked(data=path)))
    assert recipe.task == "classification"
    assert recipe.data.choices == ("0", "1", "2")
    assert recipe.data.response == "{{ label | int }}"
