"""Parquet, Arrow and hub data: every type of column is read, or the row and field that cannot be are named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

from distill2edge.data.readers import reader_of
from distill2edge.data.rows import Dropped, Rows
from distill2edge.errors import UserError
from distill2edge.recipe import schema

BAD_TEXT = pa.StringArray.from_buffers(
    3, pa.py_buffer(np.array([0, 2, 4, 5], dtype=np.int32).tobytes()), pa.py_buffer(b"ok\xff\xfez")
)


def rows(path: Path) -> list[dict[str, Any]]:
    reader = reader_of(path)
    assert reader is not None
    return list(reader(path))


def taken(path: Path, response: str = "{{ x }}", **more: Any) -> list[str]:
    data = schema.Data(source=str(path), prompt="{{ id }}", response=response, **more)
    return [item.row.response for _, item in Rows(data).items(rows(path), Dropped())]


def written(path: Path, column: Any, field: Any = None) -> Path:
    ids = pa.array([f"row {n}" for n in range(len(column))])
    table = pa.Table.from_arrays([ids, column], names=["id", "x"])
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".feather":
        feather.write_feather(table, path)
    else:
        with pa.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".arrow", ".feather"])
@pytest.mark.parametrize(
    ("column", "printed"),
    [
        (pa.array([0], pa.timestamp("us", "+05:30")), "1970-01-01 05:30:00+05:30"),
        (pa.array([0], pa.timestamp("us", "Europe/Berlin")), "1970-01-01 01:00:00+01:00"),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01 00:00:00.000000001"),
        (pa.array([86400], pa.duration("s")), "1 day, 0:00:00"),
        (pa.array([1.5]).cast(pa.decimal128(6, 3)), "1.500"),
        (pa.array(["a"]).dictionary_encode(), "a"),
        (pa.array(["a"], pa.large_string()), "a"),
        (pa.array([np.float16(1.5)]), "1.5"),
    ],
)
def test_columns_that_print(tmp_path: Path, suffix: str, column: Any, printed: str) -> None:
    assert taken(written(tmp_path / f"a{suffix}", column)) == [printed]


# What Python has no form of: the type, what is said of row 2, and how many rows the fix leaves.
HOSTILE = {
    "date": (pa.array([0, 10**8, 1], pa.int32()).cast(pa.date32()), "years 1 to 9999"),
    "time": (pa.array([0, 10**13, 1], pa.timestamp("s")), "years 1 to 9999"),
    "before": (pa.array([0, -(10**12), 1], pa.timestamp("s")), "years 1 to 9999"),
    "text": (BAD_TEXT, "not UTF-8"),
}


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_cell_that_cannot_be_read_is_named_and_can_be_left_out(tmp_path: Path, suffix: str, name: str) -> None:
    column, said = HOSTILE[name]
    path = written(tmp_path / f"a{suffix}", column)
    assert [row["id"] for row in rows(path)] == ["row 0", "row 1", "row 2"]
    assert taken(path, "{{ id }}") == ["row 0", "row 1", "row 2"]  # a column that is not asked for does no harm
    for response in ("{{ x }}", "{{ x | string }}", "{{ x | trim }}", "{{ x if x else 'b' }}", "{{ x | lower }}"):
        with pytest.raises(UserError, match=f"row 2: .*{said}") as caught:
            taken(path, response)
        assert "x" in caught.value.what
    found = re.search(r'data\.filter: "(.*)"', caught.value.fix)
    assert found
    assert len(taken(path, "{{ x }}", filter=found[1])) == 2


def test_what_json_does_not_have(tmp_path: Path) -> None:
    for name, (column, _) in HOSTILE.items():
        if name != "text":
            with pytest.raises(UserError, match="row 1: x is nothing that JSON has") as caught:
                taken(written(tmp_path / "a.parquet", column), "{{ x | tojson }}")
            assert caught.value.fix == "print it as it is: {{ x }}"
    path = written(tmp_path / "a.parquet", pa.array([{"day": 1}]).cast(pa.struct([("day", pa.timestamp("s"))])))
    with pytest.raises(UserError, match="row 1: x is a list or object with dates"):
        taken(path, "{{ x | tojson }}")


def test_a_filter_on_a_cell_that_cannot_be_read_chooses_nothing(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", HOSTILE["date"][0])
    for condition in ("x == 'a'", "x", "x != 'a'", "x in ['a']", "x | string == 'a'", "not x"):
        with pytest.raises(UserError, match="years 1 to 9999"):
            taken(path, "{{ id }}", filter=condition)


def test_a_time_zone_that_nobody_knows(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", pa.array([0, None], pa.timestamp("us", "Mars/Phobos")))
    assert taken(path, "{{ id }}") == ["row 0", "row 1"]
    with pytest.raises(UserError, match=r"row 1: x is a time in the zone 'Mars/Phobos'") as caught:
        taken(path)
    # The fix, applied to the file as it is written.
    table = pq.read_table(path)
    column = eval(caught.value.fix.rpartition(": ")[2], {"table": table, "pyarrow": pa})
    assert taken(written(tmp_path / "b.parquet", column[:1])) == ["1970-01-01 00:00:00+00:00"]


@pytest.mark.parametrize(
    ("column", "said", "fix"),
    [
        (pa.array([b"ab"]), "x is bytes", "decode"),
        (pa.array([[1, 2]]), "x is a list of 2", "join"),
        (pa.array([{"a": 1}]), r"x is an object \(a\)", "x['a']"),
        (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), "x is a list of 1", "tojson"),
        (pa.array([{"b": [{"c": b"1"}]}]), r"x is an object \(b\)", "x['b']"),
    ],
)
def test_columns_that_hold_no_text(tmp_path: Path, column: Any, said: str, fix: str) -> None:
    path = written(tmp_path / "a.parquet", column)
    with pytest.raises(UserError, match=f"row 1: {said}") as caught:
        taken(path)
    assert fix in caught.value.fix


def test_bytes_are_read_as_the_message_says(tmp_path: Path) -> None:
    path = written(tmp_path / "a.parquet", pa.array(["é".encode()]))
    with pytest.raises(UserError) as caught:
        taken(path)
    template = re.search(r"\{\{.*\}\}", caught.value.fix)
    assert template
    assert taken(path, template[0]) == ["é"]


@pytest.mark.parametrize(("name", "said"), [("a.arrow", "not Arrow"), ("a.parquet", "not Parquet")])
def test_files_that_are_something_else(tmp_path: Path, name: str, said: str) -> None:
    for content in (b"", b"ARROW1", b"PAR1PAR1", b"x" * 100):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            rows(tmp_path / name)
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(40))
    with pytest.raises(UserError, match="version 1"):
        rows(tmp_path / "a.feather")


def test_hub_data_is_read_in_the_same_way() -> None:
    from datasets import Dataset

    from distill2edge.data.row_sources import _hub_rows

    table = pa.table({"id": ["a", "b"], "x": pa.array([0, 10**8], pa.int32()).cast(pa.date32())})
    found = list(_hub_rows(Dataset(table)))
    assert [row["id"] for row in found] == ["a", "b"]
    assert "years 1 to 9999" in str(found[1]["x"])
