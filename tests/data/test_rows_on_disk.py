"""Rows that are too many for memory: the same are taken, written and read as where they are few."""

from __future__ import annotations

import json
import random
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row, row_id
from distill2edge.data.prepare import prepare
from distill2edge.data.selection import Selection
from distill2edge.data.sorted_items import Item
from distill2edge.data.split_files import read_rows, write_split
from distill2edge.recipe import schema
from distill2edge.util.progress import SilentProgress


def sentence(number: int) -> str:
    rng = random.Random(number)
    return " ".join(f"word{rng.randrange(500)}" for _ in range(12))


def run(root: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, Any], list[bytes]]:
    path = root / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = schema.Data(source=str(path), template="plain", prompt="{{ text }}", response="{{ answer }}",
                       splits={"validation": 8, "calibration": 4, "test": 12})  # type: ignore[call-arg,arg-type]  # fmt: skip
    facts = prepare(data, 0, root / "work", SilentProgress())
    return facts, [(root / "work" / f"{name}.parquet").read_bytes() for name in SPLITS]


@pytest.mark.parametrize("room", [None, 700])
def test_rows_on_disk_are_those_in_memory(room: int | None) -> None:
    """Groups, their order and what is there twice are the same, wherever the rows are."""
    texts = [sentence(n % 900) for n in range(1200)]
    rows = [
        Row(row_id(text, f"{n % 7}"), text, f"{n % 7}", pair="b" if n % 2 else None) for n, text in enumerate(texts)
    ]
    items = [Item(row, row.prompt) for row in rows]
    # One row under two contents: it is given under the first of them alone.
    items += [replace(items[0], content="another content"), replace(items[0], content="a third")]
    memory, disk = Selection(0, room), Selection(0, room, held=20_000)
    late: list[int] = []
    known = [[held.add(item, number) for number, item in enumerate(items)] for held in (memory, disk)]
    disk.settle(lambda item, number: late.append(number))
    memory.settle(lambda item, number: pytest.fail("all is known"))
    assert list(memory.groups()) == list(disk.groups())
    assert memory.count == disk.count
    if room is None:
        assert memory.added == disk.added
        twice = [[n for n, new in enumerate(each) if not new] for each in known]
        assert sorted(late + twice[1]) == twice[0]
    assert (memory.full, disk.full) == ((room is not None,) * 2)


def test_the_stage_writes_the_same_from_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": sentence(n % 250), "answer": sentence(n % 300)} for n in range(1800)]
    few = run(tmp_path, rows)
    monkeypatch.setattr(Selection.__init__, "__defaults__", (40_000,))
    assert run(tmp_path, rows) == few
    assert few[0]["dropped"]["duplicate"] == 300
    assert sum(split["rows"] for split in few[0]["splits"].values()) == 1500


def test_long_splits_are_read_a_part_at_a_time(tmp_path: Path) -> None:
    rows = [Row(f"{n:032x}", f"prompt {n}", f"{n}", number=n) for n in range(40_000)]
    write_split(tmp_path / "train.parquet", rows)
    found = read_rows(tmp_path, "train")
    assert (len(found), found[0], found[-1], found[35_000]) == (40_000, rows[0], rows[-1], rows[35_000])
    assert list(found) == rows
    assert list(found[32_000:36_000][10:3000]) == rows[32_010:35_000]
    assert list(found[5:50:9]) == rows[5:50:9]
    assert found[:7] == rows[:7]
    with pytest.raises(IndexError):
        found[40_000]

    def peak(count: int) -> int:
        tracemalloc.start()
        assert sum(1 for _ in found[:count]) == count
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(40_000) < 1.5 * peak(8000)
