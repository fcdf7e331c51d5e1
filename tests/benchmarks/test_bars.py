"""Result files have one form; every bar is shown, met or not; a file that lies about itself is found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import bars  # noqa: E402  (scripts, not a package)
import common  # noqa: E402


def _write(results: Path, **changes: Any) -> Path:
    samples = common.interleave({"a": lambda: 2.0, "b": lambda: 1.0}, rounds=3)
    made = [
        common.bar("speed, a / b", common.ratio(samples, "a", "b"), ">=", 1.5, unit="x"),
        common.bar("size [MB]", 120.0, "<=", 90.0, unit="MB", note="the table is not tied"),
        common.bar("energy", None, "<=", 1.0),
    ]
    path = common.write_result(
        "speed", "python benchmarks/speed.py", bars=made, samples=samples, metrics={}, seeds=[0], results=results
    )
    if changes:
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def _run(results: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCHMARKS / "bars.py"), "--results", str(results), *options]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_bar_is_shown_met_or_not(tmp_path: Path) -> None:
    _write(tmp_path)
    run = _run(tmp_path, "--check")
    assert run.returncode == 0, run.stdout + run.stderr
    for text in (
        "speed, a / b",
        "size [MB]",
        "NO",
        "not measured",
        "not tied",
        "1 of 3 bars met",
        "benchmarks/speed.py",
    ):
        assert text in run.stdout


def test_the_file_says_how_it_was_made(tmp_path: Path) -> None:
    document = json.loads(_write(tmp_path).read_text())
    assert document["samples"] == {"a": [2.0] * 3, "b": [1.0] * 3}
    assert document["machine"]["versions"]["numpy"]
    assert document["seeds"] == [0]
    assert document["bars"][0]["interval"] == [2.0, 2.0]
    assert [bar["met"] for bar in document["bars"]] == [True, False, False]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"samples": {}}, "no raw samples"),
        ({"command": " "}, "no command"),
        ({"name": "other"}, "calls itself"),
        ({"schema_version": 0}, "schema_version"),
        ({"machine": "fast"}, "machine is a str"),
        ({"bars": [{"name": "x", "op": ">=", "target": 2, "value": 1, "met": True}]}, "says met: True"),
        ({"bars": [{"name": "x", "target": 2, "value": 1, "met": False}]}, "op missing"),
        ({"bars": [{"name": "x", "op": ">=", "target": "2", "value": 1, "met": False}]}, "are numbers"),
    ],
)
def test_a_malformed_file_is_told_and_fails_the_check(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    assert any(told in each for each in bars.problems(_write(tmp_path, **changes)))
    assert bars.main(["--results", str(tmp_path)]) == 0
    assert bars.main(["--results", str(tmp_path), "--check"]) == 1


def test_broken_json_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    assert "not readable" in bars.problems(tmp_path / "x.json")[0]


def test_our_own_result_files_are_sound() -> None:
    assert [each for path in common.RESULTS.glob("*.json") for each in bars.problems(path)] == []


def test_arms_take_turns_and_warm_up_is_thrown_away() -> None:
    order: list[str] = []

    def arm(name: str) -> Any:
        return lambda: float(order.append(name) or len(order))

    samples = common.interleave({"a": arm("a"), "b": arm("b")}, rounds=2, warmup=1)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert samples == {"a": [3.0, 6.0], "b": [4.0, 5.0]}


def test_a_bar_knows_only_its_comparisons() -> None:
    with pytest.raises(ValueError, match="compares with"):
        common.bar("x", 1.0, "==", 1.0)
    assert not common.bar("x", float("nan"), ">=", 0.0)["met"]
