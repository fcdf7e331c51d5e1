"""docs/scale.md: each command is one of the program's. `end_to_end/test_processes.py` runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from click.testing import CliRunner

from distill2edge.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")


def test_each_command_and_option_exists() -> None:
    lines = [shlex.split(line, comments=True) for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.M | re.S)
             for line in block.splitlines()]  # fmt: skip
    shown = [words for words in lines if "distill2edge" in words]
    assert len(shown) >= 4
    for words in shown:
        own = words[words.index("distill2edge") + 1 :]
        result = CliRunner().invoke(main, [*own, "--help"])
        assert result.exit_code == 0, f"{shlex.join(own)}\n{result.output}"
        assert result.output.startswith(f"Usage: {main.name} {own[0]}")


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (Path(__file__).parents[2] / "docs" / target).exists(), target
