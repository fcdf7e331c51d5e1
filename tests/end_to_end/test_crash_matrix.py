"""A slice of the crash matrix (benchmarks/crashes.py): what a run makes after a kill, SIGTERM or a full disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="forks, and looks for what is left in /proc"
)
MAY_MOUNT = hasattr(os, "geteuid") and os.geteuid() == 0 and not subprocess.run(
    ["unshare", "-m", "true"], capture_output=True, check=False
).returncode if sys.platform.startswith("linux") else False  # fmt: skip
EVENTS = ("kill", "term", *(("full",) if MAY_MOUNT else ()))


def matrix(*options: str) -> str:
    command = [sys.executable, str(ROOT / "benchmarks" / "crashes.py"), "--events", *EVENTS, *options]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]
    return found.stdout


def test_answers_of_an_endpoint_survive_and_none_is_paid_twice() -> None:
    said = matrix("--recipes", "endpoint", "--stages", "synthesis", "signal", "--count", "6")
    assert said.count(": the same (") == 6


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("recipe", ["plain", "grid", "on-policy", "rounds", "endpoint", "classes"])
def test_every_recipe_ends_as_if_it_had_been_left_alone(recipe: str) -> None:
    assert matrix("--recipes", recipe, "--count", "5").count(": the same (") == 5
