"""Encoded rows on disk: the same rows, wherever they are, and little memory."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from distill2edge.data.encoded_rows import EncodedRows, Joined, unique
from distill2edge.data.examples import Encoded
from distill2edge.errors import EnvironmentFault
from distill2edge.util import record_file
from distill2edge.util.record_file import Buckets, Records, unnamed_files_in


def row(n: int) -> Encoded:
    size = 3 + n % 20
    more: dict = {"tags": (0, 1), "places": (1, -1), "words": 2} if n % 3 else {"types": [0] * (size - 1) + [1]}
    more |= {"labels": (n % 5,), "number": n / 3, "query": "q"} if n % 2 else {"label": n % 4}
    return Encoded(
        f"id {n}", [n, 70_000, *range(size - 2)], [False] + [n % 2 == 0] * (size - 1), row=f"row {n}", **more
    )


@pytest.mark.parametrize("held", [0, 5_000, 1 << 30])
def test_rows_are_what_was_given(held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records.__init__, "__defaults__", (held,))
    rows = [row(n) for n in range(300)]
    found = EncodedRows(iter(rows))
    assert list(found) == rows
    assert found == rows
    assert [found[0], found[-1], found[150]] == [rows[0], rows[-1], rows[150]]
    assert list(found[20:200:7][3:9]) == rows[20:200:7][3:9]
    assert list(found[10:].picked(np.array([5, 0, 200]))) == [rows[15], rows[10], rows[210]]
    assert rows[:2] + found[:1] + rows[1:2] == [*rows[:2], *rows[:2]]
    assert list(pickle.loads(pickle.dumps(found[7:90]))) == rows[7:90]
    assert (not EncodedRows([]), len(EncodedRows([]))) == (True, 0)
    with pytest.raises(IndexError):
        found[300]


def test_parts_are_one_sequence_and_of_the_same_id_the_first_is_kept() -> None:
    rows = [row(n) for n in range(12)]
    parts = Joined([rows[:5], EncodedRows(rows[3:9]), [], rows[9:]])
    assert list(parts) == [*rows[:5], *rows[3:]]
    assert [parts[4], parts[5], parts[-1]] == [rows[4], rows[3], rows[-1]]
    assert list(parts[3:8]) == [rows[3], rows[4], *rows[3:6]]
    assert list(unique(parts)) == rows
    assert list(unique([*rows, rows[0]])) == rows
    assert unique(rows) is rows


def test_the_file_goes_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Records.__init__, "__defaults__", (0,))
    with unnamed_files_in(tmp_path):
        found = EncodedRows(map(row, range(50)))
    assert len(list(tmp_path.iterdir())) == 1
    part = found[:3]
    del found
    assert part[2] == row(2)
    del part
    assert not list(tmp_path.iterdir())


def test_memory_is_eight_bytes_a_row() -> None:
    def held(count: int) -> int:
        tracemalloc.start()
        found = EncodedRows(Encoded(f"{n:032x}", list(range(40)), [False] + [True] * 39) for n in range(count))
        size, _ = tracemalloc.get_traced_memory()
        assert len(found) == count
        tracemalloc.stop()
        return size

    assert held(40_000) < 6 << 20


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, raw: object) -> int:
            raise OSError(28, "No space left on device")

    buckets = Buckets(4)
    monkeypatch.setattr(buckets._chunks, "_file", Full())
    monkeypatch.setattr(Full, "seek", lambda self, at: None, raising=False)
    with pytest.raises(EnvironmentFault, match="the disk is full"):
        buckets.put(0, bytes(1 + record_file._HELD))
