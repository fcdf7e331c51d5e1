"""The page of what many tokens take: its arithmetic against figures worked out by hand."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

# By its file: its folder on the path would hide modules of other packages (`quantization`, `models`).
_SPEC = importlib.util.spec_from_file_location(
    "scale_page", Path(__file__).resolve().parents[2] / "benchmarks" / "pages" / "scale.py"
)
assert _SPEC is not None
assert _SPEC.loader is not None
scale: Any = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(scale)

KNOWN = {
    **scale.ASSUMED, "row_s": 512e-6, "encode_s": 2e-6, "read_s": 5e-6, "signal_bytes": 60, "row_bytes": 10,
    "gpu_hour": 2.0, "api": (0.2, 1.2),
}  # fmt: skip


def test_seconds_of_every_part() -> None:
    found = {(each["pair"], each["tokens"]): each for each in scale.logits(KNOWN)}
    large = found["70B, 1B", "10B"]
    assert large["seconds"] == pytest.approx(
        {
            "rows": 3e-6 * 1e10,
            "teacher": 2 * 70e9 * 1e10 / (8 * 756e12 * 0.4),  # 6.7 days
            "student": 6 * 1e9 * 1e10 / (8 * 756e12 * 0.35),
            "signal": 5e-6 * 1e10 / 8,
            "network": 700e9 / 1.25e9,
        }
    )
    assert large["binds"] == "teacher, GPUs"
    assert found["1B, 135M", "10B"]["binds"] == "rows, one core"
    assert large["disk"] == 700e9


def test_writing_reads_all_weights_once_a_step_and_an_api_is_paid_by_the_token() -> None:
    (found,) = [each for each in scale.written(KNOWN) if (each["teacher"], each["tokens"]) == ("70B", "1M")]
    steps, reading = 0.75e6 / 64, 0.25e6 * 2 * 70e9 / (756e12 * 0.4)
    assert found["seconds"] == pytest.approx((steps * 140e9 / 1e12 + reading) / 8)
    assert found["asked"] == pytest.approx(0.25 * 0.2 + 0.75 * 1.2)


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.058, "0.058 s"), (89, "89 s"), (91, "1.52 min"), (5401, "1.5 h"), (6.7 * 86400, "6.7 d")]
)
def test_time_in_the_largest_unit_that_reads_well(seconds: float, said: str) -> None:
    assert scale.time_of(seconds) == said
