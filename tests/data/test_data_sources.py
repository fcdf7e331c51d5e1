"""Sources: local files, packages, the hub's code path; each mistake names the file, the line and the fix."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill2edge.data.row_sources import POOL, Source, fingerprint, open_source
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.progress import SilentProgress

ROWS = [{"text": "one, two", "n": 1}, {"text": "drei", "n": 2}]


def opened(source: Path | str, split: str | None = None, config: str | None = None) -> Source:
    return open_source(str(source), config, split, SilentProgress())


def rows(source: Path | str, split: str = POOL) -> list[dict[str, Any]]:
    return list(opened(source).splits[split])


def test_json_in_its_shapes(tmp_path: Path) -> None:
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    for name, text in {
        "list.json": json.dumps(ROWS),
        "wrapped.json": json.dumps({"version": 1, "data": ROWS}),
        "lines.json": lines,
        "lines.jsonl": "\ufeff" + lines + "\n\n",
        "lines.ndjson": lines,
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        assert rows(tmp_path / name) == ROWS, name


def test_tables_and_text(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.csv").write_text('text,n\r\n"one, two",1\r\ndrei,2\r\n')
    (tmp_path / "a.tsv").write_text("text\tn\none, two\t1\ndrei\t2\n")
    as_text = [{"text": row["text"], "n": str(row["n"])} for row in ROWS]
    assert rows(tmp_path / "a.csv") == rows(tmp_path / "a.tsv") == as_text
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    assert rows(tmp_path / "a.parquet") == ROWS
    (tmp_path / "a.txt").write_text("first\n\nsecond\n")
    assert rows(tmp_path / "a.txt") == [{"text": "first"}, {"text": "second"}]
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps(ROWS[0]))
    assert rows(tmp_path / "b.jsonl.gz") == ROWS[:1]


def test_rows_can_be_read_twice(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n')
    found = opened(tmp_path / "a.jsonl").splits[POOL]
    assert list(found) == list(found) == [{"a": 1}]


def test_a_directory_of_splits(tmp_path: Path) -> None:
    for name in ("train-1", "train-2", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"name": name}) + "\n")
    found = opened(tmp_path)
    assert {split: [row["name"] for row in held] for split, held in found.splits.items()} == {
        "train": ["train-1", "train-2"],
        "validation": ["dev"],
        "test": ["test"],
    }
    assert list(opened(tmp_path, split="test").splits) == [POOL]
    with pytest.raises(UserError, match="no split 'other'") as caught:
        opened(tmp_path, split="other")
    assert "train" in caught.value.fix
    (tmp_path / "extra.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="some files are named after a split"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "a.jsonl:2"),
        ("a.jsonl", b"[1]\n", "not an object"),
        ("a.json", b"{", "not JSON"),
        ("a.csv", b"a,b\n1,2,3\n", "number of fields"),
        ("a.csv", b"a,b\n1\n", "number of fields"),
        ("a.txt", b"\xff\xfe", "not UTF-8"),
        ("a.parquet", b"nothing", "not Parquet"),
        ("a.jsonl.gz", b"nothing", "not gzip"),
    ],
)
def test_damaged_files_are_user_errors(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        rows(tmp_path / name)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_missing_and_unknown_files(tmp_path: Path) -> None:
    for name in (tmp_path / "no.jsonl", "./no", "no/such/dir/x.csv", str(tmp_path / "*.csv")):
        with pytest.raises(UserError, match="does not exist") as caught:
            opened(name)
        assert "bundled:movie-sentiment" in caught.value.fix
    (tmp_path / "a.xlsx").write_text("")
    with pytest.raises(UserError, match=r"unknown kind of file '\.xlsx'"):
        opened(tmp_path / "a.xlsx")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no json"):
        opened(tmp_path / "empty")


def test_a_file_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "some_rows"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "data.jsonl").write_text('{"a": 1}\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert rows("package:some_rows/data.jsonl") == [{"a": 1}]
    assert fingerprint("package:some_rows/data.jsonl")
    with pytest.raises(UserError, match="has no file"):
        opened("package:some_rows/other.jsonl")
    with pytest.raises(EnvironmentFault, match="no installed package"):
        opened("package:no_such_package/x.jsonl")
    with pytest.raises(UserError, match="is not package:MODULE/PATH"):
        opened("package:some_rows/../x.jsonl")


def test_fingerprint_follows_the_content(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n')
    before = fingerprint(str(path))
    assert before == fingerprint(str(path))
    path.write_text('{"a": 2}\n')
    assert before != fingerprint(str(path))
    assert fingerprint("bundled:movie-sentiment")


# --- the hub, with its clients replaced ---------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, *, info: Any, data: Any) -> None:
    import datasets
    import huggingface_hub

    def answer(value: Any) -> Any:
        def call(*_: Any, **__: Any) -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        return call

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", answer(info))
    monkeypatch.setattr(datasets, "load_dataset", answer(data))


def test_a_hub_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    from datasets import Dataset, DatasetDict

    splits = DatasetDict(
        {name: Dataset.from_list([{"text": name}]) for name in ("train", "test", "unsupervised")}  # type: ignore[arg-type]
    )
    info = SimpleNamespace(sha="abc", card_data=SimpleNamespace(license="mit"))
    hub(monkeypatch, info=info, data=splits)
    found = opened("owner/name")
    assert (found.kind, found.revision, found.licence, found.ignored) == ("hub", "abc", "mit", ("unsupervised",))
    assert [list(found.splits[name]) for name in ("train", "test")] == [[{"text": "train"}], [{"text": "test"}]]


def test_the_commit_of_a_hub_data_set_is_its_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, info=SimpleNamespace(sha="abc", card_data=None), data=None)
    assert fingerprint("owner/name", "main") == "abc"
    hub(monkeypatch, info=ConnectionError("no network"), data=None)
    assert fingerprint("owner/name", "0123abcd") == "0123abcd"


def test_no_such_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RevisionNotFoundError

    hub(monkeypatch, info=RevisionNotFoundError.__new__(RevisionNotFoundError), data=None)
    with pytest.raises(UserError, match="no revision 'v9'") as caught:
        fingerprint("owner/name", "v9")
    assert caught.value.where == "data.revision"


def test_the_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, info=ConnectionError("no network"), data=ConnectionError("no network"))
    with pytest.raises(EnvironmentFault, match="can't be reached for data set owner/name") as caught:
        opened("owner/name")
    assert caught.value.exit_code == 4
    assert "local file" in caught.value.fix


def test_no_such_hub_data_set_and_no_such_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    missing = RepositoryNotFoundError.__new__(RepositoryNotFoundError)
    hub(monkeypatch, info=missing, data=None)
    with pytest.raises(UserError, match="no data set owner/name") as caught:
        opened("owner/name")
    assert caught.value.exit_code == 2
    info = SimpleNamespace(sha="abc", card_data=None)
    hub(monkeypatch, info=info, data=ValueError("Config name is missing: pick one of a, b"))
    with pytest.raises(UserError, match="pick one of a, b") as caught:
        opened("owner/name")
    assert caught.value.where == "data.config"
