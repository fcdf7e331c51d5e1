"""What of a stage's directory is its artifact, and what a killed try leaves to the next."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from distill2edge.util.progress import Progress


@dataclass(frozen=True)
class Files:
    """What a stage declares of its directory: nothing of a killed try is part of an artifact by chance.

    A pattern under both is a part of the artifact that is written piece by piece.

    Attributes:
        holds: patterns of the files that make up the artifact (`*` within a name, `**` across folders); others are left
            out of it.
        resumes: patterns of what a killed try may leave for the next.
        shares: names of files that are of use to every stage that has one: those of others in the store are linked in
            the folder `EARLIER` while it works.
    """

    holds: tuple[str, ...] = ("**",)
    resumes: tuple[str, ...] = ()
    shares: tuple[str, ...] = ()

    def held(self, path: str) -> bool:
        """Whether a file, by its path in the directory, is part of the artifact."""
        return _matches(path, self.holds)

    def resumed(self, path: str) -> bool:
        """Whether a file of a killed try is kept for the next."""
        return _matches(path, self.resumes)


EVERYTHING = Files()
EARLIER = "earlier"
"""The folder of files of other artifacts, finished or not: to be read alone."""


def begin(work: Path, files: Files, root: Path) -> None:
    """Make `work`, without anything that the stage does not go on from, and with the shared files of the store."""
    if work.is_symlink() or (work.exists() and not work.is_dir()):
        work.unlink()
    work.mkdir(parents=True, exist_ok=True)
    for folder, directories, names in os.walk(work, topdown=False):
        for name in (*names, *directories):
            path = Path(folder, name)
            if path.is_symlink() or not path.is_dir():
                if path.is_symlink() or not files.resumed(path.relative_to(work).as_posix()):
                    path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
    for name in files.shares:
        found = sorted(path.resolve() for path in root.glob(f"*/*/{name}") if path.parent != work)
        for number, path in enumerate(found):
            (work / EARLIER).mkdir(exist_ok=True)
            (work / EARLIER / f"{number:06d}-{name}").symlink_to(path)


def leave_out(work: Path, files: Files, progress: Progress) -> None:
    """Remove what is no part of the artifact: what is kept for a next try alone, and what nobody declares."""
    for path in work.rglob("*"):
        name = path.relative_to(work).as_posix()
        if (path.is_dir() and not path.is_symlink()) or files.held(name):
            continue
        if not files.resumed(name) and not name.startswith(f"{EARLIER}/"):
            progress.warn(f"{name} is left out: its stage does not declare it")
        path.unlink()
    for folder in sorted((path for path in work.rglob("*") if path.is_dir()), reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    # A hidden file is one that was being written (`files.replacing`).
    return not re.search(r"(?:^|/)\.", path) and any(_expression(pattern).fullmatch(path) for pattern in patterns)


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    """`*` as any characters of a name, `**` as any characters of a path."""
    parts = re.split(r"(\*\*?)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts), re.DOTALL)
