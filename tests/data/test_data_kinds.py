"""Files as people have them: packed, of other kinds, with odd headers; and files given where another is wanted."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from click.testing import CliRunner

from distill2edge.cli.main import main
from distill2edge.data.readers import reader_of
from distill2edge.data.row_sources import open_source
from distill2edge.errors import UserError
from distill2edge.recipe.load import load_recipe
from distill2edge.running.starter import Asked, starter
from distill2edge.util.progress import SilentProgress

CSV = b"text,label\ngood film,a\nbad film,b\n"
ROWS = [{"text": "good film", "label": "a"}, {"text": "bad film", "label": "b"}]


def rows(path: Path) -> list[dict[str, Any]]:
    reader = reader_of(path)
    assert reader is not None, path
    return list(reader(path))


def zipped(path: Path, **files: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "."), content)
    return path


def zstd(path: Path, content: bytes) -> Path:
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        file.write(content)
    return path


def test_packed_files_are_read(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (tmp_path / f"a.csv{ending}").write_bytes(pack(CSV))
        (tmp_path / f"a.jsonl{ending}").write_bytes(pack(lines))
        assert rows(tmp_path / f"a.csv{ending}") == rows(tmp_path / f"a.jsonl{ending}") == ROWS
    assert rows(zstd(tmp_path / "a.csv.zst", CSV)) == ROWS
    assert rows(zipped(tmp_path / "a.csv.zip", a__csv=CSV)) == ROWS
    assert rows(zipped(tmp_path / "b.zip", a__jsonl=lines, __MACOSX=b"")) == ROWS
    assert list(open_source(str(tmp_path / "b.zip"), None, None, SilentProgress()).splits["all"]) == ROWS


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst", ".zip"])
def test_packed_files_that_are_broken(tmp_path: Path, ending: str) -> None:
    whole = {
        ".gz": gzip.compress(CSV * 99),
        ".bz2": bz2.compress(CSV * 99),
        ".xz": lzma.compress(CSV * 99),
        ".zst": zstd(tmp_path / "x", CSV * 99).read_bytes(),
        ".zip": zipped(tmp_path / "y.zip", a__csv=CSV * 99).read_bytes(),
    }[ending]
    path = tmp_path / f"a.csv{ending}"
    for content in (b"", b"nonsense", whole[: len(whole) // 2], whole[:20] + b"\0\xff" * 20 + whole[60:]):
        path.write_bytes(content)
        try:
            found = rows(path)
        except UserError as error:
            told = str(path) in error.where and error.fix
            assert told, error  # noqa: PT017
        else:
            assert not content or len(found) < 2 * 99  # nothing in it, or damage that its kind does not notice


def test_archives_of_more_than_one_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"2 files in one archive \(a.csv, b.csv\)"):
        rows(zipped(tmp_path / "a.csv.zip", a__csv=CSV, b__csv=CSV))
    with pytest.raises(UserError, match="an archive without a file"):
        rows(zipped(tmp_path / "b.csv.zip"))


@pytest.mark.parametrize(
    ("name", "said", "fix"),
    [
        ("a.xlsx", "a spreadsheet", "read_excel"),
        ("a.tar.gz", "an archive", "unpack it"),
        ("a.tgz", "an archive", "unpack it"),
        ("a.parquet.gz", "packed as .gz", "unpack it"),
        ("a.pkl", "a pickle", "Parquet"),
        ("a.sqlite", "a database", "CSV"),
        ("a.md", "plain text", "name it .txt"),
        ("a.py", "a program", "file of rows"),
        ("a.yaml", "a recipe", "file of rows"),
        ("a.foo", "unknown kind of file '.foo'", "jsonl"),
        ("rows", "no ending", "jsonl"),
    ],
)
def test_other_kinds_say_what_to_do(tmp_path: Path, name: str, said: str, fix: str) -> None:
    (tmp_path / name).write_bytes(CSV)
    for read in (
        lambda path: open_source(str(path), None, None, SilentProgress()),
        lambda path: starter(Asked(data=path)),
    ):
        with pytest.raises(UserError) as caught:
            read(tmp_path / name)
        assert said in caught.value.what
        assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('"a, b",c\n1, x\n', {"a, b": "1", "c": " x"}),
        ('"a; b",c\n1;2,x\n', {"a; b": "1;2", "c": "x"}),
        ("id;last, first\n1;Doe\n2;Roe\n", {"id": "1", "last, first": "Doe"}),
        ("a,b|c\n1,2\n3,4\n", {"a": "1", "b|c": "2"}),
        ("text\nhello\n", {"text": "hello"}),
        ("text\n'hello; you'\n", {"text": "'hello; you'"}),
        ('"a\nb",c\n1,2\n', {"a\nb": "1", "c": "2"}),
        ('"a;\nb",c\n1,2\n', {"a;\nb": "1", "c": "2"}),
        ("\ufefftext\tlabel\r\nx y\ta\r\n", {"text": "x y", "label": "a"}),
        ("text ; label\nx ; a\n", {"text": "x ", "label": "a"}),
        ('a, b\n1, "x, y"\n', {"a": "1", "b": "x, y"}),
        ("sep=;\na;b\n1,5;2\n", {"a": "1,5", "b": "2"}),
        (",a\n0,x\n", {"a": "x"}),
    ],
)
def test_headers_as_they_come(tmp_path: Path, content: str, expected: dict[str, str]) -> None:
    (tmp_path / "a.csv").write_text(content, encoding="utf-8", newline="")
    assert rows(tmp_path / "a.csv")[0] == expected


@pytest.mark.parametrize(
    ("content", "line", "fix"),
    [
        ("text\nhello, you\n", 2, "a .txt"),
        ("a,b\n1,2\n1\n", 3, "empty ones too"),
        ("a,b\n1,2,\n", 2, "the delimiter at the end"),
        ('a,b\n1, "x, y"\n', 2, "the blank before"),
        ("a,b\n1,x, y\n", 2, "quote fields"),
        ('"a\nb",c\n1,2\n1,2,3\n', 4, "quote fields"),
    ],
)
def test_rows_of_another_length_get_the_fix_for_their_cause(tmp_path: Path, content: str, line: int, fix: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(UserError, match="another number of fields") as caught:
        rows(tmp_path / "a.csv")
    assert caught.value.where == f"{tmp_path / 'a.csv'}:{line}"
    assert fix in caught.value.fix


def test_a_table_without_a_header_is_not_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("".join(f"film {n} the {n * 37} dog,{'ab'[n % 2]}\n" for n in range(120)))
    with pytest.raises(UserError, match=r"'b' looks like a value|'a' looks like a value") as caught:
        starter(Asked(data=path))
    command = caught.value.fix.partition(": ")[2]
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert "{{ label }}" in starter(Asked(data=tmp_path / "named.csv"))


@pytest.mark.parametrize("command", [["run"], ["plan"], ["recipe", "check"], ["recipe", "show"], ["data", "prepare"]])
def test_rows_in_place_of_a_recipe(tmp_path: Path, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("t.csv", "t.jsonl", "t.parquet", "t.csv.gz"):
        (tmp_path / name).write_bytes(b"[" + CSV)
        result = CliRunner().invoke(main, [*command, name])
        assert result.exit_code == 2
        assert f"fix: make one of it: distill2edge recipe new --data {name} > my.yaml" in result.output
    (tmp_path / "t.json").write_text('[\n{"text": "a"}]')
    assert "recipe new --data t.json" in CliRunner().invoke(main, [*command, "t.json"]).output
    (tmp_path / "t.py").write_text("print()")
    assert "a recipe is YAML" in CliRunner().invoke(main, [*command, "t.py"]).output
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "my.yaml").write_text("")
    assert "fix: name a file: folder/my.yaml" in CliRunner().invoke(main, [*command, "folder"]).output


def test_a_recipe_in_json_is_a_recipe(tmp_path: Path) -> None:
    recipe = {"name": "a", "teacher": {"model": "o/t"}, "data": {"source": "o/d"}}
    recipe["student"] = {"init": {"from": "teacher", "layers": 1}}
    (tmp_path / "a.json").write_text(json.dumps(recipe))
    assert load_recipe(tmp_path / "a.json").name == "a"


def test_data_that_is_a_folder_or_an_address(tmp_path: Path) -> None:
    (tmp_path / "b.csv").write_bytes(CSV)
    (tmp_path / "a.jsonl").write_bytes(CSV)
    with pytest.raises(UserError, match="this is a folder") as caught:
        starter(Asked(data=tmp_path))
    assert caught.value.fix == f"give one of its files: --data {tmp_path / 'a.jsonl'} (or b.csv)"
    with pytest.raises(UserError, match="no such file") as caught:
        starter(Asked(data=tmp_path / "b.cvs"))
    assert caught.value.fix == f"did you mean {tmp_path / 'b.csv'}?"
    with pytest.raises(UserError, match="an address"):
        starter(Asked(data=Path("https://example.org/a.csv")))
    for source, fix in (
        ("https://example.org/a.csv", "download it"),
        ("https://huggingface.co/datasets/owner/name", "write its name: owner/name"),
        ("datasets/owner/name", "write its name: owner/name"),
        ("hf://datasets/owner/name", "write its name: owner/name"),
    ):
        with pytest.raises(UserError, match="is an address") as caught:
            open_source(source, None, None, SilentProgress())
        assert fix in caught.value.fix
