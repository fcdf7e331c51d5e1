"""Energy of a stretch of work, labelled measured, estimated or unavailable. A guess is never called a measurement."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_SHORTEST = 0.1  # seconds; the counters tick every millisecond or so, and short stretches read 0 J


class Meter:
    """Counts joules from its making to `stop`.

    On a CPU: the packages' RAPL counters, where the system lets us read them; the whole package counts, other
    processes included. On a GPU: the driver's counter of the whole board, through NVML.

    Args:
        device: `cpu` or `cuda`.
        powercap: where the counters lie.
    """

    def __init__(self, device: str = "cpu", powercap: Path = _POWERCAP) -> None:
        self._domains = packages(powercap) if device == "cpu" else []
        self._board = _board() if device == "cuda" else None
        self._start = self._read()
        self._since = time.monotonic()

    def stop(self) -> float | None:
        """Joules since the start; None where nothing can be read, or the stretch was too short to say."""
        start, end = self._start, self._read()
        if start is None or end is None or time.monotonic() - self._since < _SHORTEST:
            return None
        if self._board is not None:
            return (end[0] - start[0]) / 1e3  # NVML counts millijoules
        ranges = [_number(domain / "max_energy_range_uj") or 0 for domain in self._domains]
        return sum(wrapped(a, b, span) for a, b, span in zip(start, end, ranges, strict=True)) / 1e6

    def _read(self) -> list[int] | None:
        if self._board is not None:
            import pynvml

            return [int(pynvml.nvmlDeviceGetTotalEnergyConsumption(self._board))]
        values = [_number(domain / "energy_uj") for domain in self._domains]
        told = [value for value in values if value is not None]
        return told if told and len(told) == len(values) else None


def packages(powercap: Path = _POWERCAP) -> list[Path]:
    """RAPL domains of whole packages (`intel-rapl:0`, on AMD too); their parts would count twice."""
    if not powercap.is_dir():
        return []
    return sorted(path for path in powercap.glob("intel-rapl:*") if path.name.count(":") == 1)


def wrapped(start: int, end: int, span: int) -> int:
    """The count between two readings of a counter that starts anew at `span`."""
    return end - start if end >= start else end + span - start


def label(
    joules: Sequence[float | None], seconds_per_request: float, requests: int, watts: float | None
) -> dict[str, Any]:
    """Joules per request with their label.

    Args:
        joules: of each pass, None where it was not measured.
        seconds_per_request: mean end-to-end time.
        requests: in each pass.
        watts: the machine's power from the price catalogue, if it names one; then the figure is estimated.
    """
    told = [value for value in joules if value is not None and value > 0]
    if told and len(told) == len(joules):
        return {"label": "measured", "joules_per_request": sum(told) / (len(told) * requests)}
    if watts is not None:
        return {"label": "estimated", "joules_per_request": watts * seconds_per_request}
    return {"label": "unavailable", "joules_per_request": None}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # not there, or for root only


def _board() -> Any:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        board = pynvml.nvmlDeviceGetHandleByIndex(0)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except pynvml.NVMLError:
        return None  # no driver, or a board that does not count
    return board
