"""Damaged and odd data files: read, or refused with the line where the fault begins; nothing of a recipe runs code."""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from distill2edge.data import lines, row_sources
from distill2edge.data.row_sources import POOL, open_source
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.progress import SilentProgress


def rows(path: Path | str) -> list[dict[str, Any]]:
    return list(open_source(str(path), None, None, SilentProgress()).splits[POOL])


def written(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


CAFE = [{"text": "café, au lait", "label": "x"}, {"text": "b", "label": "y"}]
TABLE = 'text,label\n"café, au lait",x\nb,y\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plain.csv", TABLE.encode()),
        ("mark.csv", TABLE.encode("utf-8-sig")),
        ("utf16.csv", TABLE.encode("utf-16")),
        ("utf16be.csv", b"\xfe\xff" + TABLE.encode("utf-16-be")),
        ("utf32.csv", TABLE.encode("utf-32")),
        ("crlf.csv", TABLE.replace("\n", "\r\n").encode()),
        ("cr.csv", TABLE.replace("\n", "\r").encode()),
        ("semicolon.csv", "text;label\ncafé, au lait;x\nb;y\n".encode()),
        ("tab.csv", "text\tlabel\ncafé, au lait\tx\nb\ty\n".encode()),
        ("sep.csv", "sep=|\ntext|label\ncafé, au lait|x\nb|y\n".encode()),
        ("blanks.csv", 'text, label\n"café, au lait", x\nb, y\n'.encode()),
        ("empty-lines.csv", TABLE.replace("\n", "\n\n").encode()),
        ("index.csv", ',text,label,\n0,"café, au lait",x,\n1,b,y,\n'.encode()),
        ("zipped.csv.gz", gzip.compress(TABLE.encode(), mtime=0)),
        ("utf16.jsonl", "\n".join(map(json.dumps, CAFE)).encode("utf-16")),
        ("list.json", json.dumps(CAFE, indent=2, ensure_ascii=False).encode("utf-8-sig")),
        ("one-after-the-other.json", "".join(json.dumps(row, indent=1) for row in CAFE).encode()),
    ],
)
def test_files_as_people_have_them(tmp_path: Path, name: str, content: bytes) -> None:
    assert rows(written(tmp_path / name, content)) == CAFE


@pytest.mark.parametrize(
    ("name", "content", "where", "what"),
    [
        ("a.csv", 'text,label\n"' + "word " * 40_000 + '",x\nshort\n', ":3", "1, not 2"),
        ("a.csv", 'text,label\n"two\nlines",x\n"never closed,y\nz,x\n', ":4", "never closed"),
        ("a.csv", 'text,label\n"three\n\nlines","x"\nshort\n', ":5", "number of fields"),
        ("a.csv", "text,label\na,x\nb,\0y\n", ":3", "NUL"),
        ("a.csv", "text,label,text\na,b,c\n", ":1", "'text'"),
        ("a.csv", " a , b ,a\n1,2,3\n", ":1", "'a'"),
        ("a.csv", ",,\n1,2,3\n", ":1", "no column has a name"),
        ("a.csv", "text,label\ngood,x\ncafé,y\n".encode("latin-1"), ":3", "byte 0xe9 at position 4"),
        ("a.csv", "text,label\nb,y\n".encode("utf-16-le"), ":1", "looks like UTF-16"),
        ("a.csv", b"PK\x03\x04xlsx", "", "Excel"),
        ("a.csv", 'text,label\n"a"b,x\n', ":2", "not CSV"),
        ("a.jsonl", '{"a": 1}\n{"a": 1, "b": 2, "a": 3}\n', ":2", "'a' more than once"),
        ("a.jsonl", '{"a": 1}\n' + "[" * 100_000, ":2", "nested too deeply"),
        ("a.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}", ":2", "4,300 digits"),
        ("a.jsonl", '{"a": 1}\n\nnull\n', ":3", "not an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', ":2", "not UTF-8"),
        ("a.json", '[{"a": 1},\n\n{"a" 2}]', ":3", "not JSON"),
        ("a.json", '[{"a": 1},\n{"a": 2}', ":2", "cut off"),
        ("a.json", '[{"a": 1}]\n[{"a": 2}]', ":2", "follows the list"),
        ("a.json", '[{"a": 1},\n{"b": 1, "b": 2}]', ":2", "'b' more than once"),
        ("a.json", '[{"a": ' + "9" * 5000 + "}]", ":1", "4,300 digits"),
        ("a.json", '{"a":' * 50_000, ":1", "nested too deeply"),
        ("a.json", "[1, 2]", ":1", "a number"),
        ("a.json", '"text"', "", "a text"),
        ("a.json", '{"text": ["a"], "label": ["b"]}', "", "an object of columns"),
        ("a.json", '{"text": {"0": "a"}, "label": {"0": 1}}', "", "an object of columns"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n' * 999, mtime=0)[:-9], "", "not gzip, or cut off"),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", "", "not Parquet"),
        ("a.parquet", b"", "", "not Parquet"),
    ],
)
def test_the_line_of_the_fault_is_named(tmp_path: Path, name: str, content: bytes | str, where: str, what: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(written(tmp_path / name, content))
    assert what in caught.value.what
    assert caught.value.where == f"{tmp_path / name}{where}"
    assert caught.value.fix


def test_a_corrupt_page_of_parquet_is_told_with_the_row(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "a.parquet"
    table = pa.table({"a": [f"row {n} {n * n}" for n in range(5000)]})
    pq.write_table(table, path, row_group_size=2000, use_dictionary=False, compression="zstd")
    meta = pq.ParquetFile(path).metadata.row_group(1).column(0)
    raw = bytearray(path.read_bytes())
    raw[meta.data_page_offset + 40 : meta.data_page_offset + 60] = b"\xff" * 20
    path.write_bytes(raw)
    with pytest.raises(UserError, match="not Parquet, or damaged") as caught:
        rows(path)
    assert "row " in caught.value.where
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(UserError, match="more than one column is named 'a'"):
        rows(tmp_path / "twice.parquet")


def test_a_field_of_any_length_is_read(tmp_path: Path) -> None:
    long = "word " * 400_000
    assert rows(written(tmp_path / "a.csv", f'text,label\n"{long}",x\n')) == [{"text": long, "label": "x"}]


def test_a_giant_line_and_a_giant_value_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 10_000)
    for name, body in {
        "a.csv": "a,b\n" + "x" * 20_000,
        "a.jsonl": '{"a": "' + "x" * 20_000 + '"}',
        "a.txt": "x" * 20_000,
    }.items():
        with pytest.raises(UserError, match="a line of more than 10,000 bytes"):
            rows(written(tmp_path / name, body))
    # A list in one line is read item by item, however long.
    assert len(rows(written(tmp_path / "a.json", json.dumps([{"a": "x" * 1000}] * 3000)))) == 3000


def test_what_is_no_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    (tmp_path / "broken.csv").symlink_to(tmp_path / "nothing")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "folder.csv").mkdir()
    for name, what in {
        "loop.csv": "a link",
        "broken.csv": "a link",
        "pipe.csv": "not a plain file",
        "folder.csv": "holds no",
    }.items():
        with pytest.raises(UserError, match=what):
            rows(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        rows(tmp_path / "*.csv")
    for name in ("/" + "x" * 5000 + ".csv", "~no-such-user-here/a.csv", "./a\0b.csv"):
        with pytest.raises(UserError):
            rows(name)


def test_a_package_is_read_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')"
    for package in (tmp_path / "trap", tmp_path / "trap" / "inner"):
        package.mkdir()
        (package / "__init__.py").write_text(code)
        (package / "rows.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "bare" / "inner").mkdir(parents=True)  # a namespace package
    (tmp_path / "bare" / "inner" / "rows.jsonl").write_text('{"a": 2}\n')
    (tmp_path / "single.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert rows("package:trap/rows.jsonl") == rows("package:trap.inner/rows.jsonl") == [{"a": 1}]
    assert rows("package:bare.inner/rows.jsonl") == rows("package:bare/inner/rows.jsonl") == [{"a": 2}]
    assert row_sources.fingerprint("package:trap.inner/rows.jsonl")
    for name, fault in {
        "package:trap/none.jsonl": UserError,
        "package:trap//etc/passwd": UserError,
        "package:trap/../ran": UserError,
        "package:single/rows.jsonl": EnvironmentFault,
        "package:sys/rows.jsonl": EnvironmentFault,
        "package:trap.none/rows.jsonl": EnvironmentFault,
    }.items():
        with pytest.raises(fault):
            rows(name)
    assert not ran.exists()
    assert not {"trap", "trap.inner", "single"} & set(sys.modules)
