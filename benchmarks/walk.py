"""What CONTRIBUTING.md says to add, read and applied to a copy of the package."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from common import ROOT

PAGE = ROOT / "CONTRIBUTING.md"
_STEP = re.compile(
    r"(?:New file `(?P<new>[^`]+)`|In `(?P<file>[^`]+)`, (?P<how>after|before|in place of) `(?P<line>[^`]+)`|Try it)"
    r":\n\n```python\n(?P<code>.*?)```",
    re.S,
)


@dataclass(frozen=True)
class Edit:
    """A change of one place of a file: code put after a line, before it, or in its place."""

    line: str
    how: str
    code: str

    def applied(self, text: str, where: str) -> str:
        """The text with the change.

        Raises:
            ValueError: the line is not there, or more than once.
        """
        if text.count(f"{self.line}\n") != 1:
            raise ValueError(f"{where} has the line {self.line!r} {text.count(self.line)} times")
        new = {"after": f"{self.line}\n{self.code}", "before": f"{self.code}{self.line}\n", "in place of": self.code}
        return text.replace(f"{self.line}\n", new[self.how])


@dataclass
class Addition:
    """One chapter.

    Attributes:
        title: what is added, such as `a loss`.
        files: new files and what they hold.
        changes: existing files and the edits of each.
        trial: code that fails where the addition does not work.
    """

    title: str
    files: dict[str, str] = field(default_factory=dict)
    changes: dict[str, list[Edit]] = field(default_factory=dict)
    trial: str = ""

    def apply(self, root: Path) -> None:
        """Make the addition in a copy of the repository's packages."""
        for name, code in self.files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(code, encoding="utf-8")
        for name, edits in self.changes.items():
            text = (root / name).read_text(encoding="utf-8")
            for edit in edits:
                text = edit.applied(text, name)
            (root / name).write_text(text, encoding="utf-8")

    def tried(self, root: Path) -> subprocess.CompletedProcess[str]:
        """The trial, run against that copy."""
        environment = {"PYTHONPATH": f"{root}:{root / 'tests'}", "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-c", self.trial]
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)


def additions(page: Path = PAGE) -> list[Addition]:
    """Every chapter `## Adding ...` of the page."""
    found = []
    for chapter in page.read_text(encoding="utf-8").split("\n## Adding ")[1:]:
        made = Addition(chapter.partition("\n")[0])
        for step in _STEP.finditer(chapter):
            code = step["code"]
            if step["new"]:
                made.files[step["new"]] = code
            elif step["file"]:
                made.changes.setdefault(step["file"], []).append(Edit(step["line"], step["how"], code))
            else:
                made.trial = code
        found.append(made)
    return found


def copy(root: Path) -> Path:
    """The package, its tests' helpers and the recipes, without what runs leave behind."""
    for name in ("distill2edge", "tests", "recipes"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    return root
