"""Synthesis: what is kept and why not, the same after a kill, human texts labelled, held-out rows apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.data import ledger
from distill2edge.data.examples import Row, row_id
from distill2edge.data.split_files import read_rows, write_split
from distill2edge.errors import UserError
from distill2edge.generation.generate import Answer, Ask
from distill2edge.recipe.synthesis import Synthesis
from distill2edge.synthesis.candidates import instruction_of
from distill2edge.synthesis.similarity import Pool, lcs_length, rouge_l
from distill2edge.synthesis.synthesize import synthesise
from distill2edge.util.progress import SilentProgress

SEEDS = [
    ("Name a colour of the rainbow please.", "red"),
    ("How many legs does a spider have?", "eight"),
    ("Which animal barks at the postman?", "a dog"),
    ("What do cows drink on a hot day?", "water, mostly"),
    ("Where does the river end its way?", "in the sea"),
]
WORDS = [f"{letter}{letter}ord" for letter in "abcdefghijklmnopqrst"]


class Teacher:
    """Writes by rule: an instruction of its own each time, now and then a bad one."""

    name, shard_rows, reads = "rule", 64, ()

    def __init__(self, stop_after: int | None = None) -> None:
        self.asked: list[Ask] = []
        self.closed, self._stop_after = False, stop_after

    def generate(
        self, asks: Sequence[Ask], sampling: Any, seed: int, done: Callable[..., None] | None = None
    ) -> list[Answer]:
        if self._stop_after is not None and len(self.asked) >= self._stop_after:
            raise KeyboardInterrupt
        first = len(self.asked)
        self.asked += asks
        return [self._answer(ask.messages[-1][1], first + number) for number, ask in enumerate(asks)]

    def _answer(self, prompt: str, number: int) -> Answer:
        if not prompt.startswith(("Write one new", "Rewrite", "Here is a text")):
            fate = number % 6
            if fate == 1:
                return Answer("cut off in the", "length", 5, 9, 0.001)
            return Answer(
                "I'm sorry, but I can't help with that." if fate == 2 else f"answer to {prompt}", "stop", 5, 9, 0.001
            )
        if "perfect answer" in prompt:
            return Answer(
                f"Write about {WORDS[number % 20]} {WORDS[number * 3 % 20]} and {number} more.", "stop", 7, 5, 0.001
            )
        fate = number % 8
        if fate == 3:
            return Answer("Name a colour of the rainbow, please.", "stop", 7, 5, 0.001)
        if fate == 5:
            return Answer("Build a bomb out of sugar and salt.", "stop", 7, 5, 0.001)
        if fate == 6:
            return Answer("  ", "stop", 7, 1, 0.001)
        words = [WORDS[(number * step + step) % 20] for step in (1, 3, 7, 9, 11)]
        return Answer(f"1. Tell me of {' '.join(words)} {number} times.\n2. Another one of them.", "stop", 7, 5, 0.001)

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        return [True for _ in asks]

    @property
    def facts(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [Row(row_id(*pair), *pair) for pair in SEEDS]
    for name, chosen in {"train": rows[:4], "validation": [], "calibration": [], "test": rows[4:]}.items():
        write_split(tmp_path / f"{name}.parquet", chosen)
    (tmp_path / "data.json").write_text(json.dumps({"source": "seeds", "splits": {}}))
    return tmp_path


def make(data: Path, name: str, teacher: Teacher, **settings: Any) -> dict[str, Any]:
    spec = Synthesis.model_validate(
        {
            "methods": [
                {"kind": "self-instruct", "instructions": 12, "batch": 8},
                {"kind": "evolve", "instructions": 4},
                {"kind": "reverse", "texts": 3},
            ],
            "blocklist": ["bomb"],
            "held_out": {"test": 3, "validation": 2},
        }
        | settings
    )
    work = data / name
    work.mkdir(exist_ok=True)
    origin = ledger.Origin("rule", "1", "mit", "permit")
    return synthesise(
        spec, data, teacher, work, SilentProgress(), origin=origin, template="chat", system=None, seed=0
    )  # fmt: skip


def test_every_row_is_in_the_ledger_with_why_it_was_dropped(data: Path) -> None:
    teacher = Teacher()
    facts = make(data, "work", teacher)
    rows = ledger.read(data / "work")
    assert teacher.closed
    assert {ledger.reason_kind(row.dropped_because) for row in rows if not row.kept} >= {
        "near-duplicate", "blocklisted", "empty", "truncated", "refusal",
    }  # fmt: skip
    assert facts["ledger"]["methods"].keys() == {"self-instruct", "evolve", "reverse"}
    kept = [row for row in rows if row.kept]
    assert facts["ledger"]["kept"] == len(kept)
    # Whatever was asked was paid for, and is in the ledger.
    assert facts["ledger"]["cost_usd"] == pytest.approx(len(teacher.asked) * 0.001)
    splits = {name: read_rows(data / "work", name) for name in ("train", "validation", "calibration", "test")}
    assert [len(splits[name]) for name in ("validation", "test")] == [2, 3]
    assert sum(map(len, splits.values())) == len(kept)
    assert splits["train"]


def test_human_texts_keep_their_words_are_no_distillation_and_are_never_held_out(data: Path) -> None:
    make(data, "work", Teacher())
    reverse = [row for row in ledger.read(data / "work") if row.method == "reverse"]
    assert {row.response for row in reverse if row.kept} <= {answer for _, answer in SEEDS[:4]}
    assert reverse
    assert not any(row.distillation for row in reverse)
    held = {row.id for name in ("test", "validation") for row in read_rows(data / "work", name)}
    assert not held & {row.id for row in reverse}


def test_a_killed_run_goes_on_and_ends_the_same(data: Path) -> None:
    make(data, "whole", Teacher())
    with pytest.raises(KeyboardInterrupt):
        make(data, "cut", Teacher(stop_after=9))
    there = sum(len(path.read_text().splitlines()) - 1 for path in (data / "cut").glob("written-*.jsonl"))
    assert there >= 8
    # The teacher's rule counts what it was asked, so it goes on where it stopped.
    second = Teacher()
    second.asked = [Ask((("user", ""),))] * there
    make(data, "cut", second)
    for name in ("train", "test"):
        assert read_rows(data / "cut", name) == read_rows(data / "whole", name)
    third = Teacher()
    make(data, "cut", third)
    assert not third.asked


def test_an_empty_pool_and_too_few_rows_are_errors_with_the_fix(data: Path) -> None:
    with pytest.raises(UserError, match="nothing is left of") as caught:
        make(data, "none", Teacher(), blocklist=["tell", "write"])
    assert "blocklisted" in str(caught.value)
    with pytest.raises(UserError, match="held-out splits take"):
        make(data, "few", Teacher(), held_out={"test": 100})


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("3. Name five birds.\n4. Name five trees.", "Name five birds."),
        ('Sure! Here is a new task:\n"Name five birds."', "Name five birds."),
        ("**New task:** Name five birds.\n\nSolution: tit, owl", "Name five birds."),
        ("Name five birds\nof the sea.", "Name five birds of the sea."),
        ("Task 5: Name five birds.\nAnswer: owl", "Name five birds."),
    ],
)
def test_an_instruction_is_taken_out_of_what_stands_around_it(said: str, meant: str) -> None:
    assert instruction_of(said) == meant


TEXTS = st.lists(st.sampled_from(list("abcde")), max_size=12)


@given(a=TEXTS, b=TEXTS)
def test_the_common_subsequence_is_that_of_the_textbook(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert lcs_length(a, b) == table[-1][-1]


@given(kept=st.lists(TEXTS, max_size=8), text=TEXTS, threshold=st.sampled_from([0.3, 0.7, 0.9]))
def test_the_pool_misses_nothing(kept: list[list[str]], text: list[str], threshold: float) -> None:
    pool = Pool(threshold)
    for number, other in enumerate(kept):
        pool.add(" ".join(other), str(number))
    best = max((rouge_l(other, text) for other in kept), default=0.0)
    found = pool.nearest(" ".join(text))
    assert (found is not None) == (best > threshold)
    assert found is None or found[1] == pytest.approx(best)
