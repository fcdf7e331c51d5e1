"""Text signal: what the teacher writes is kept whole, truncated answers are dropped and counted, shards are reused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_llama

from distill2edge.data.examples import Row, row_id
from distill2edge.data.ledger import Origin
from distill2edge.errors import UserError
from distill2edge.generation.generate import SHARD_ROWS, Answer, Ask, LocalGenerator
from distill2edge.recipe.schema import TextSignal
from distill2edge.teacher.text import read_responses, write_responses
from distill2edge.util.progress import SilentProgress

ORIGIN = Origin("teacher")
ROWS = [Row(row_id(f"q {n}", "a"), f"q {n}", "a") for n in range(70)]


@pytest.fixture(autouse=True)
def shards_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU as well."""
    monkeypatch.setitem(SHARD_ROWS, "cuda", 64)


def write(model: Path, work: Path, length: int = 4, **options: object) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    signal = TextSignal(max_new_tokens=length, temperature=1.5)  # type: ignore[call-arg]
    settings: dict[str, object] = {"template": "plain", "system": None, "seed": 0} | options
    generator = LocalGenerator(model, template="plain")
    return write_responses(generator, ROWS, signal, work, SilentProgress(), origin=ORIGIN, **settings)  # type: ignore[arg-type]


def test_a_teacher_that_never_ends_is_refused_with_the_fix(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="no usable response") as caught:
        # One token leaves no room for a text and its end.
        write(tmp_path / "model", tmp_path / "work", length=1)
    assert "max_new_tokens" in caught.value.fix
    assert len(list((tmp_path / "work").glob("shard-*.jsonl"))) == 2


class Refuses:
    """A teacher that answers nothing."""

    name, shard_rows, reads, facts = "endpoint", 64, (), {}

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        return [True] * len(asks)

    def generate(self, asks: Sequence[Ask], *rest: Any) -> list[Answer]:
        return [Answer("", "refused: 'content policy'", 4, 0) for _ in asks]

    def close(self) -> None:
        pass


def test_where_every_row_is_refused_nothing_goes_on(tmp_path: Path) -> None:
    signal = TextSignal(max_new_tokens=8)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="no usable response: 70 refused of 70") as caught:
        write_responses(
            Refuses(), ROWS, signal, tmp_path, SilentProgress(), origin=ORIGIN, template="plain", system=None, seed=0
        )  # type: ignore[arg-type]
    assert caught.value.where == "signal"
    assert "take another teacher" in caught.value.fix


def left(work: Path, shard: int, rows: Sequence[Row]) -> None:
    """A shard that an earlier try has left: a whole answer, a cut one and an empty one in turn."""
    answers = [("whole", "stop", 2), ("cut", "length", 4), (" ", "stop", 1)]
    lines = []
    for number, row in enumerate(rows):
        response, finish, tokens = answers[number % 3]
        record = {"id": row.id, "prompt": row.prompt, "response": response, "finish": finish, "tokens": tokens}
        lines.append(json.dumps(record) + "\n")
    work.mkdir(exist_ok=True)
    (work / f"shard-{shard:05d}.jsonl").write_text("".join(lines))


def test_finished_shards_are_not_written_again_and_cut_answers_are_dropped(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    work = tmp_path / "work"
    left(work, 0, ROWS[:64])
    left(work, 1, ROWS[64:])
    facts = write(tmp_path / "model", work)
    assert facts.pop("ledger")["dropped"] == {"truncated": 23, "empty": 23}
    assert facts == {
        "rows": 70,
        "written": 24,
        "truncated": 23,
        "empty": 23,
        "refusal": 0,
        "duplicate": 0,
        "refused": 0,
        "tokens": 163,
    }
    assert [row.response for row in read_responses(work)] == ["whole"] * 24


def test_shards_that_were_cut_otherwise_are_written_anew(tmp_path: Path) -> None:
    """As a try on a GPU leaves them, where more rows make a shard."""
    tiny_llama(tmp_path / "model")
    work = tmp_path / "work"
    left(work, 0, ROWS)
    left(work, 1, ROWS[64:])
    left(work, 2, ROWS[:1])
    facts = write(tmp_path / "model", work)
    assert facts["rows"] == len(ROWS)
    shards = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in sorted(work.glob("shard-*.jsonl"))
    ]
    assert [[record["id"] for record in shard] for shard in shards] == [
        [row.id for row in part] for part in (ROWS[:64], ROWS[64:])
    ]
    assert "whole" not in {record["response"] for record in shards[0]}
    assert shards[1][0]["response"] == "whole"


def test_template_text_has_no_prompt_to_answer(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="no prompts"):
        write(tmp_path / "model", tmp_path / "work", template="text")
