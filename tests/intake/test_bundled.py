"""Bundled models and data: only the named member is taken, by hash; pip is replaced, so no network is needed."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake import archives, bundled
from distill2edge.intake.bundled import BUNDLED, Bundled, Member, fetch, lookup, rows
from distill2edge.util.progress import SilentProgress
from distill2edge.util.remembered import CACHE_VARIABLE

ROWS = b'r1\t1.5\tsays "good"\r\nr2\t-2\tbad\r\n'


def entry(content: bytes, **changes: Any) -> Bundled:
    fields: dict[str, Any] = {
        "name": "toy",
        "kind": "rows",
        "requirement": "toy==1.0",
        "archive_sha256": "0" * 64,
        "members": (Member(("toy/data.tsv",), "toy.tsv", hashlib.sha256(content).hexdigest()),),
        "licence": "mit",
        "home": "https://example.org",
        "description": "toy",
    }
    return Bundled(**(fields | changes))


class Pip:
    """Stands in for `python -m pip download`: puts an archive where it is asked to."""

    def __init__(self, name: str, content: bytes, error: str = "") -> None:
        self.name, self.content, self.error = name, content, error
        self.commands: list[list[str]] = []

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        target = Path(command[command.index("--dest") + 1])
        target.mkdir(parents=True)
        (target / self.name).write_bytes(self.content)
        return subprocess.CompletedProcess(command, 0, "", "")


def wheel(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def install(monkeypatch: pytest.MonkeyPatch, item: Bundled, pip: Pip) -> Pip:
    monkeypatch.setitem(BUNDLED, item.name, item)
    monkeypatch.setattr(bundled, "_ENTRIES", (item,))
    monkeypatch.setattr(archives.subprocess, "run", pip)
    return pip


def test_fetch_takes_one_member_and_asks_pip_once(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    pip = install(monkeypatch, entry(ROWS), Pip("toy.whl", wheel({"toy/data.tsv": ROWS, "toy/evil.py": b"boom"})))
    path = fetch("toy", SilentProgress())
    assert path.read_bytes() == ROWS
    assert fetch("toy", SilentProgress()) == path
    assert len(pip.commands) == 1
    assert [file.name for file in cache.rglob("*") if file.is_file()] == ["toy.tsv"]
    for option in ("--no-deps", "--require-hashes", "--only-binary"):
        assert option in pip.commands[0]


def test_rows_of_a_nested_source_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tar({"data/a.txt": ROWS})
    member = Member(("toy-1.0/extra.tar.gz", "data/a.txt"), "toy.tsv", hashlib.sha256(ROWS).hexdigest())
    item = entry(ROWS, members=(member,), source=True)
    pip = install(monkeypatch, item, Pip("toy-1.0.tar.gz", tar({"toy-1.0/extra.tar.gz": inner})))
    assert list(rows("toy", SilentProgress())) == [
        {"id": "r1", "score": 1.5, "text": 'says "good"'},
        {"id": "r2", "score": -2.0, "text": "bad"},
    ]
    assert "--no-binary" in pip.commands[0]


def test_a_folder_is_taken_without_its_neighbours(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    files = {"toy-1.0/code/a.py": b"a = 1\n", "toy-1.0/code/sub/b.py": b"b = 2\n", "toy-1.0/setup.py": b"boom"}
    listing = "".join(f"{hashlib.sha256(files[name]).hexdigest()}  {name.removeprefix('toy-1.0/code/')}\n"
                      for name in sorted(files) if "code" in name)  # fmt: skip
    member = Member(("toy-1.0/code/",), "code", hashlib.sha256(listing.encode()).hexdigest())
    item = entry(b"", kind="code", members=(member,), source=True)
    pip = install(monkeypatch, item, Pip("toy-1.0.tar.gz", tar(files)))
    path = fetch("toy", SilentProgress())
    assert sorted(file.relative_to(path).as_posix() for file in path.rglob("*.py")) == ["a.py", "sub/b.py"]
    (path / "evil.py").write_text("boom")
    assert not (fetch("toy", SilentProgress()) / "evil.py").exists()
    assert len(pip.commands) == 2


def test_another_content_is_refused_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    install(monkeypatch, entry(ROWS), Pip("toy.whl", wheel({"toy/data.tsv": b"something else"})))
    with pytest.raises(EnvironmentFault, match="the expected content"):
        fetch("toy", SilentProgress())
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_a_package_without_the_member(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, entry(ROWS), Pip("toy.whl", wheel({"toy/other": ROWS})))
    with pytest.raises(EnvironmentFault, match=r"no toy/data\.tsv"):
        fetch("toy", SilentProgress())


def test_a_changed_cache_file_is_fetched_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pip = install(monkeypatch, entry(ROWS), Pip("toy.whl", wheel({"toy/data.tsv": ROWS})))
    path = fetch("toy", SilentProgress())
    path.write_bytes(b"damaged")
    assert fetch("toy", SilentProgress()).read_bytes() == ROWS
    assert len(pip.commands) == 2
    assert "damaged" in capsys.readouterr().err


def test_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    install(monkeypatch, entry(ROWS), Pip("", b"", error="ERROR: No matching distribution found for toy==1.0"))
    with pytest.raises(EnvironmentFault, match="No matching distribution") as caught:
        fetch("toy", SilentProgress())
    assert caught.value.exit_code == 4
    assert "connect" in caught.value.fix
    assert str(cache) in caught.value.fix


def test_unknown_and_unfitting_names_list_those_that_fit() -> None:
    with pytest.raises(UserError, match="no bundled entry") as caught:
        lookup("movie-sentimant", kinds=("rows",))
    assert "movie-sentiment" in caught.value.fix
    assert "smollm2" not in caught.value.fix
    with pytest.raises(UserError, match="cannot be used here"):
        lookup("smollm2-135m-instruct", kinds=("rows",))


def test_the_table_is_pinned_and_its_names_stay_in_the_cache() -> None:
    for name, item in BUNDLED.items():
        assert name == item.name
        assert ("==" if item.registry == "pip" else "@") in item.requirement[1:]
        assert len(item.archive_sha256) == 64
        for member in item.members:
            assert not Path(member.name).is_absolute()
            assert ".." not in Path(member.name).parts
            assert len(member.sha256) == 64
