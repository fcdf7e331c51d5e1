"""Raw times of a cell's passes -> its figures, and speed-ups between cells.

A pass measures every cell once, each in a fresh process; passes interleave the cells, so that neighbours in time are
compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from distill2edge.bench import contention, energy
from distill2edge.models.model_file import ModelFile
from distill2edge.util.bootstrap import (
    Figure,
    interleaved_ratio,
    mean_interval,
    median_interval,
    percentile,
    time_saved,
)

FORMULAS = {
    "ttft": "request start to first token: prefill and argmax; token ids are given, so no tokenizer runs",
    "e2e": "request start to last token",
    "tpot": "(e2e - ttft) / (output tokens - 1), per request",
    "prefill_tps": "prompt tokens / ttft",
    "decode_tps": "(output tokens - 1) / (e2e - ttft)",
    "requests_per_s": "requests / wall time, one at a time (concurrency 1)",
    "cold_start_s": "start of the process to its first token: interpreter, libraries, weights, one prompt",
    "peak_rss_bytes": "the process's greatest resident memory over all passes",
    "speedup": "median over passes of (p50 e2e of the other / p50 e2e of the cell), neighbours in time",
    "time_saved": "1 - 1 / speedup",
    "interval": "95%, bootstrap over processes and the requests within them",
}


@dataclass(frozen=True)
class Cell:
    """One model file on one device."""

    model: ModelFile
    device: str

    @property
    def id(self) -> str:
        """`student/gguf:Q4_0@cpu`."""
        return f"{self.model.id}@{self.device}"

    @property
    def is_dense_teacher(self) -> bool:
        """Whether this is the dense teacher in PyTorch."""
        return self.model.role == "teacher" and self.model.is_reference


def summarise(
    cell: Cell, passes: Sequence[Mapping[str, Any]], error: str | None, *, threads: int, watts: float | None, seed: int
) -> dict[str, Any]:
    """A cell of `bench.json`.

    Args:
        cell: which.
        passes: what its workers returned.
        error: why there are none, or fewer than asked.
        threads: of the runtime.
        watts: power of the machine, if the price catalogue names it.
        seed: of the resampling.
    """
    head = {
        "id": cell.id,
        "model": cell.model.id,
        "device": cell.device,
        "runtime": cell.model.runtime,
        "disk_bytes": cell.model.size_bytes,
    }
    if error is not None:
        empty: dict[str, Any] = {"cold_start_s": None, "peak_rss_bytes": None, "contended": False, "contention": {}}
        return {**head, **empty, "error": error, "workloads": {}}
    readings = [workload["contention"] for one in passes for workload in one["workloads"].values()]
    reading = contention.worst(readings)
    why = sorted({reason for one in readings for reason in contention.reasons(one, threads)})
    names = list(passes[0]["workloads"])
    return {
        **head,
        "cold_start_s": mean_interval([one["cold_start_s"] for one in passes], seed=seed).as_dict(),
        "peak_rss_bytes": max(one["peak_rss_bytes"] for one in passes),
        "contended": bool(why),
        "contention": {**reading, "reasons": why},
        "error": None,
        "workloads": {
            name: _workload([one["workloads"][name] for one in passes], watts=watts, seed=seed) for name in names
        },
    }


def speedups(
    cells: Sequence[Cell], passes: Mapping[str, Sequence[Mapping[str, Any]]], *, seed: int
) -> list[dict[str, Any]]:
    """Every cell against the dense teacher in PyTorch, and against the teacher's fastest runtime, on the same device.

    Args:
        cells: all.
        passes: cell id -> what its workers returned; cells with an error are not in it.
        seed: of the resampling.
    """
    out = []
    for device in dict.fromkeys(cell.device for cell in cells):
        alive = [cell for cell in cells if cell.device == device and cell.id in passes]
        if not alive:
            continue
        for name in passes[alive[0].id][0]["workloads"]:
            pace = {cell.id: [_p50(one, name) for one in passes[cell.id]] for cell in alive}
            teachers = [cell for cell in alive if cell.model.role == "teacher"]
            dense = [cell for cell in teachers if cell.is_dense_teacher]
            best = sorted(teachers, key=lambda cell: statistics.median(pace[cell.id]))[:1]
            for against in dict.fromkeys(cell.id for cell in (*dense, *best)):
                for cell in alive:
                    if cell.id == against:
                        continue
                    ratio = interleaved_ratio(pace[against], pace[cell.id], seed=seed)
                    saved = ratio.map(time_saved)
                    out.append(
                        {
                            "cell": cell.id,
                            "against": against,
                            "workload": name,
                            "ratio": ratio.as_dict(),
                            "time_saved": saved.as_dict(),
                        }
                    )
    return out


def _p50(one: Mapping[str, Any], name: str) -> float:
    return float(statistics.median(one["workloads"][name]["e2e_s"]))


def _workload(passes: Sequence[Mapping[str, Any]], *, watts: float | None, seed: int) -> dict[str, Any]:
    ttft = [one["ttft_s"] for one in passes]
    e2e = [one["e2e_s"] for one in passes]
    prefill = [[n / t for n, t in zip(one["prompt"], one["ttft_s"], strict=True)] for one in passes]
    tpot = [
        [(e - t) / (n - 1) for n, t, e in zip(one["output"], one["ttft_s"], one["e2e_s"], strict=True) if n > 1]
        for one in passes
    ]
    tpot = [group for group in tpot if group]
    decode = [[1 / value for value in group] for group in tpot]
    per_request = mean_interval([statistics.fmean(one) for one in e2e], seed=seed)
    total = sum(len(one) for one in e2e)
    throughput = per_request.map(lambda seconds: 1 / seconds)
    return {
        "ttft_ms": _latency(ttft, seed),
        "tpot_ms": _latency(tpot, seed) if tpot else None,
        "e2e_ms": _latency(e2e, seed),
        "prefill_tps": median_interval(prefill, seed=seed).as_dict(),
        "decode_tps": median_interval(decode, seed=seed).as_dict() if decode else None,
        "requests_per_s": Figure(throughput.value, throughput.low, throughput.high, total).as_dict(),
        "energy": energy.label([one["joules"] for one in passes], per_request.value, len(e2e[0]), watts),
    }


def _latency(groups: Sequence[Sequence[float]], seed: int) -> dict[str, float | int]:
    """p50 with its interval, p95 and n, in milliseconds. No p99: that takes 1,000 samples."""
    groups = [[1e3 * value for value in group] for group in groups]
    middle = median_interval(groups, seed=seed)
    p95 = percentile([value for group in groups for value in group], 95)
    return {"p50": middle.value, "p95": p95, "n": middle.n, "low": middle.low, "high": middle.high}
