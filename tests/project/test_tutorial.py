"""The tutorial: each command exists as written, its refusals are the program's, and both walks run to their end."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill2edge.cli.main import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
FIRST, CHATS = "## 1. A table of labelled texts", "## 2. Chats"


def blocks(kind: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)


def lines(text: str = PAGE) -> list[list[str]]:
    return [shlex.split(line) for block in blocks("bash", text) for line in block.splitlines()]


def test_it_shows_no_other_program() -> None:
    assert {line[0] for line in lines()} == {"mkdir", "cd", "python", "printf", "distill2edge"}


def test_each_command_and_option_exists() -> None:
    shown = [line[1:] for line in lines() if line[0] == "distill2edge"]
    assert len(shown) >= 10
    for arguments in shown:
        if ">" in arguments:
            arguments = arguments[: arguments.index(">")]
        result = CliRunner().invoke(main, [*arguments, "--help"])
        assert result.exit_code == 0, f"distill2edge {shlex.join(arguments)}\n{result.output}"
        assert result.output.startswith(f"Usage: {main.name} {arguments[0]}"), arguments


def test_its_conversations_are_read_as_they_are(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in blocks("text", PAGE.partition(CHATS)[2])[0].splitlines()]
    for number in range(40):
        row = json.loads(json.dumps(rows[number % len(rows)]))
        row["messages"][-2]["content"] += " ".join(f" w{number}x{more}" for more in range(40))  # no two are alike
        rows.append(row)
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    result = CliRunner().invoke(main, ["recipe", "new", "--data", str(path), "--name", "workshop"])
    assert result.exit_code == 0, result.output
    assert "of the form messages" in result.output
    assert "prompt:" not in result.output


def test_its_links_lead_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", PAGE, re.M)
    }
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in headings
        elif "://" not in link:
            assert (ROOT / "docs" / link).exists(), link


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("part", [FIRST, CHATS])
def test_a_walk_runs_to_its_end(tmp_path: Path, part: str) -> None:
    """From the files to the answers of what ships, at a shell, in a folder with nothing else."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    start, _, rest = PAGE.partition(FIRST)
    walk = rest.partition(CHATS)[0 if part == FIRST else 2]
    script = "\n".join(["set -euo pipefail", *blocks("bash", start), *blocks("bash", walk)])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "DISTILL2EDGE_STORE": str(tmp_path / "store"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "PASS" in done.stdout
    written = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "tutorial").glob("*.yaml")).splitlines()
    shown = [line for block in blocks("yaml", walk) for line in block.splitlines() if line != "..."]
    assert [line for line in shown if line not in written] == []
    answers = done.stdout.rstrip().splitlines()
    if part == FIRST:
        assert [line.split("\t")[0] for line in answers[-2:]] in (
            [a, b] for a, b in (("positive", "negative"), ("negative", "positive"))
        )
    else:
        assert len(answers[-1]) > 20
