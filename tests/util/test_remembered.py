"""What is remembered of files: nothing that another content would say otherwise, and nothing that went wrong."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from distill2edge.errors import UserError
from distill2edge.util import remembered as module
from distill2edge.util.remembered import CACHE_VARIABLE, hash_of_file, remembered

LARGE = 2 << 20


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(module, "SETTLED_S", 0.0)
    return tmp_path / "cache"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were read to their end."""
    seen: list[Path] = []
    digest = module._digest
    monkeypatch.setattr(module, "_digest", lambda path: seen.append(path) or digest(path))  # type: ignore[func-returns-value]
    return seen


def weights(tmp_path: Path, fill: bytes = b"w") -> Path:
    path = tmp_path / "model.safetensors"
    path.write_bytes(fill * LARGE)
    return path


def test_a_large_file_is_read_once(tmp_path: Path, read: list[Path]) -> None:
    path = weights(tmp_path)
    expected = hashlib.sha256(b"w" * LARGE).hexdigest()
    assert [hash_of_file(path) for _ in range(3)] == [expected] * 3
    assert read == [path]


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path: Path) -> None:
    path = weights(tmp_path)
    hash_of_file(path)
    status = path.stat()
    weights(tmp_path, b"x")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hash_of_file(path) == hashlib.sha256(b"x" * LARGE).hexdigest()


def test_a_file_that_was_just_written_is_not_trusted_yet(
    tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 3600.0)
    path = weights(tmp_path)
    hash_of_file(path)
    hash_of_file(path)
    assert len(read) == 2


def test_what_a_check_refuses_is_refused_again(tmp_path: Path) -> None:
    path = weights(tmp_path)
    tries = 0

    def check() -> bool:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise UserError("it is wrong")
        return True

    for _ in range(2):
        with pytest.raises(UserError, match="it is wrong"):
            remembered("checks", [path], "a", check)
    assert remembered("checks", [path], "a", check) is True
    assert remembered("checks", [path], "a", check) is True
    assert tries == 3
    remembered("checks", [path], "b", check)  # asked of something else
    assert tries == 4


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', "[" * 100_000])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, cache: Path, content: str, read: list[Path]) -> None:
    path = weights(tmp_path)
    cache.mkdir()
    (cache / "remembered-hashes.json").write_text(content)
    assert hash_of_file(path) == hash_of_file(path) == hashlib.sha256(b"w" * LARGE).hexdigest()
    assert len(read) == 1


def test_without_a_place_for_it_the_work_is_done_each_time(tmp_path: Path, cache: Path, read: list[Path]) -> None:
    cache.write_text("a file stands here")
    path = weights(tmp_path)
    assert hash_of_file(path) == hash_of_file(path)
    assert len(read) == 2


def test_the_oldest_findings_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_KEPT", 3)
    path, asked = weights(tmp_path), []
    for number in (0, 1, 2, 3, 3, 0):
        remembered("checks", [path], number, lambda number=number: asked.append(number))  # type: ignore[misc]
    assert asked == [0, 1, 2, 3, 0]
