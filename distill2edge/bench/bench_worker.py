"""One cell, one pass, in a fresh process: `python -m distill2edge.bench.bench_worker SPEC.json`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.bench.contention import Probe
from distill2edge.bench.energy import Meter
from distill2edge.runtimes import open_for
from distill2edge.runtimes.protocol import Runtime, reader_of
from distill2edge.util.isolate import SPAWNED_AT, serve
from distill2edge.util.machine import peak_rss_bytes
from distill2edge.util.threads import spin_as_usual


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """Time the workloads on one model file.

    Args:
        spec: `runtime path threads device context warmup`, and `workloads`: a file beside the result with
            `[{"name", "requests": [{"ids", "output"}]}]`.
        report: told of each workload.

    Returns:
        `cold_start_s`, `peak_rss_bytes`, and for each workload raw `ttft_s`, `e2e_s`, `prompt`, `output`,
        the energy in joules (or null) and the contention reading.
    """
    spawned = float(os.environ[SPAWNED_AT])
    workloads = json.loads((Path(spec["result"]).parent / spec["workloads"]).read_text())
    runtime = open_for(spec)
    serve_request(runtime, workloads[0]["requests"][0]["ids"], 1)
    cold = time.monotonic() - spawned
    measured = {}
    for workload in workloads:
        measured[workload["name"]] = _measure(runtime, workload["requests"], spec)
        report(1)
    peak = peak_rss_bytes()
    runtime.close()
    return {"cold_start_s": cold, "peak_rss_bytes": peak, "workloads": measured}


def serve_request(runtime: Runtime, ids: list[int], output: int) -> tuple[float, float]:
    """(time to first token, end to end) in seconds of one greedy request that yields `output` tokens.

    The end of text does not stop it, so that every runtime does the same work. What an encoder says of a text is one
    answer.
    """
    read = reader_of(runtime)
    if read is not None:
        start = time.perf_counter()
        int(np.argmax(read(ids)))
        whole = time.perf_counter() - start
        return whole, whole
    start = time.perf_counter()
    token = int(np.argmax(runtime.prefill(ids)))
    first = time.perf_counter()
    for _ in range(output - 1):
        token = int(np.argmax(runtime.decode(token)))
    return first - start, time.perf_counter() - start


def _measure(runtime: Runtime, requests: list[dict[str, Any]], spec: dict[str, Any]) -> dict[str, Any]:
    for index in range(spec["warmup"]):
        request = requests[index % len(requests)]
        serve_request(runtime, request["ids"], request["output"])
    probe, meter = Probe(spec["threads"]), Meter(spec["device"])
    times = [serve_request(runtime, request["ids"], request["output"]) for request in requests]
    joules, contention = meter.stop(), probe.stop()
    return {
        "ttft_s": [first for first, _ in times],
        "e2e_s": [whole for _, whole in times],
        "prompt": [len(request["ids"]) for request in requests],
        "output": [request["output"] for request in requests],
        "joules": joules,
        "contention": contention,
    }


def main() -> None:
    """Entry of the worker process."""
    spin_as_usual()
    serve(work, sys.argv[1:])


if __name__ == "__main__":
    main()
