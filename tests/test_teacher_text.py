"""Text signal: what the teacher writes is kept whole, truncated answers are dropped and counted, shards are reused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_llama

from distill2edge.data.encode import Row, row_id
from distill2edge.errors import UserError
from distill2edge.progress import SilentProgress
from distill2edge.recipe.schema import TextSignal
from distill2edge.teacher.text import read_responses, write_responses

ROWS = [Row(row_id(f"q {n}", "a"), f"q {n}", "a") for n in range(70)]


def write(model: Path, work: Path, length: int = 4, **options: object) -> dict[str, Any]:
    work.mkdir(exist_ok=True)
    signal = TextSignal(max_new_tokens=length, temperature=1.5)  # type: ignore[call-arg]
    settings: dict[str, object] = {"template": "plain", "system": None, "seed": 0} | options
    return write_responses(model, ROWS, signal, work, SilentProgress(), **settings)  # type: ignore[arg-type]


def test_a_teacher_that_never_ends_is_refused_with_the_fix(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    with pytest.raises(UserError, match="no usable response") as caught:
        # One token leaves no room for a text and its end.
        write(tmp_path / "model", tmp_path / "work", length=1)
    assert "max_new_tokens" in caught.value.fix
    assert len(list((tmp_path / "work").glob("shard-*.jsonl"))) == 2


def test_finished_shards_are_not_written_again_and_cut_answers_are_dropped(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    work = tmp_path / "work"
    work.mkdir()
    records = [
        {"id": "1", "prompt": "p", "response": "whole", "finish": "stop", "tokens": 2},
        {"id": "2", "prompt": "p", "response": "cut", "finish": "length", "tokens": 4},
        {"id": "3", "prompt": "p", "response": " ", "finish": "stop", "tokens": 1},
    ]
    for number in range(2):
        (work / f"shard-{number:05d}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    facts = write(tmp_path / "model", work)
    assert facts.pop("ledger")["dropped"] == {"truncated": 2, "empty": 2}
    assert facts == {
        "rows": 6,
        "written": 2,
        "truncated": 2,
        "empty": 2,
        "refusal": 0,
        "duplicate": 0,
        "refused": 0,
        "tokens": 14,
    }
    assert [row.response for row in read_responses(work)] == ["whole", "whole"]


def test_template_text_has_no_prompt_to_answer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompts"):
        write(tmp_path, tmp_path / "work", template="text")
