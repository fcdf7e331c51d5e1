"""The one workload that cost and headline are told of."""

from __future__ import annotations

from typing import Any


def main_workload(bench: dict[str, Any]) -> dict[str, Any] | None:
    """Of bench.json: the user's own task where it was measured, else the first workload; None without any."""
    workloads: list[dict[str, Any]] = bench.get("workloads", [])
    task = [workload for workload in workloads if workload.get("name") == "task"]
    return next(iter(task or workloads), None)
