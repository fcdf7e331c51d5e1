"""The dates of recipes/buzzfeed: the same rows at every run, one reading each, no day on both sides."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "recipes" / "buzzfeed" / "make_data.py"


def rows(directory: Path, name: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (directory / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_dates_have_one_reading_and_no_day_is_on_both_sides(tmp_path: Path) -> None:
    for place in ("a", "b"):
        subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / place)], check=True)
    train, test = (rows(tmp_path / "a", name) for name in ("train", "test"))
    assert (train, test) == tuple(rows(tmp_path / "b", name) for name in ("train", "test"))
    assert not {row["response"] for row in train} & {row["response"] for row in test}
    assert len(test) == len({row["response"] for row in test}) == 400
    readings: dict[str, set[str]] = {}
    for row in (*train, *test):
        readings.setdefault(row["prompt"], set()).add(row["response"])
    assert all(len(found) == 1 for found in readings.values())
