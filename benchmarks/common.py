"""What every benchmark shares: the machine, interleaved rounds, and one form of result file."""

from __future__ import annotations

import datetime
import json
import math
import operator
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
if str(ROOT) not in sys.path:  # a benchmark runs as a script, from a checkout too
    sys.path.insert(0, str(ROOT))

from distill2edge.models.model_file import slug_of  # noqa: E402
from distill2edge.util.bootstrap import Figure, difference_interval, interleaved_ratio, ratio_interval  # noqa: E402
from distill2edge.util.machine import machine, versions  # noqa: E402  (after the path is set)

__all__ = [
    "OPERATORS",
    "RESULTS",
    "ROOT",
    "bar",
    "interleave",
    "machine",
    "paired",
    "ratio",
    "summary",
    "verified",
    "versions",
    "write_result",
]

SCHEMA_VERSION = 1
OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


def seed_runs(recipe: Path, seeds: Sequence[int], store: Path | None, out: Path) -> list[Any]:
    """The run of each seed, in directories of their own; what speeds are read from is the first's bench alone."""
    import distill2edge as d2e

    untimed = {"bench": {"workloads": ["task"], "rounds": 1, "requests": 1, "torch": False}}
    return [
        d2e.run(recipe, {} if seed == seeds[0] else untimed, store=store, out=out / f"{seed}", seeds=(seed,)).seed(seed)
        for seed in seeds
    ]


def graph_seconds(graph: bytes | Path, feed: Mapping[str, Any], times: int) -> Callable[[], float]:
    """What gives the processor seconds of one pass through an ONNX graph on one thread, the mean of so many."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    session.run(None, feed)

    def run() -> float:
        start = time.process_time()
        for _ in range(times):
            session.run(None, feed)
        return (time.process_time() - start) / times

    return run


def interleave(
    arms: Mapping[str, Callable[[], float]], rounds: int, *, warmup: int = 1, log: Callable[[str], None] | None = None
) -> dict[str, list[float]]:
    """Run every arm once per round, in alternating order, so that drift of the machine hits all alike.

    Args:
        arms: name -> a function that does the work and returns its figure (seconds, bytes, tokens/s).
        rounds: kept rounds.
        warmup: rounds run first and thrown away.
        log: called with a line after each round.

    Returns:
        name -> [rounds] figures, in round order: `samples[a][i]` and `samples[b][i]` are neighbours in time.
    """
    samples: dict[str, list[float]] = {name: [] for name in arms}
    for index in range(-warmup, rounds):
        order = list(arms) if index % 2 == 0 else list(reversed(list(arms)))
        for name in order:
            value = float(arms[name]())
            if index >= 0:
                samples[name].append(value)
        if log and index >= 0:
            log(f"round {index + 1}/{rounds}: " + ", ".join(f"{name} {samples[name][-1]:.4g}" for name in arms))
    return samples


def ratio(samples: Mapping[str, Sequence[float]], numerator: str, denominator: str) -> Figure:
    """The median over rounds of one arm over another, with its 95% interval."""
    return interleaved_ratio(samples[numerator], samples[denominator])


def paired(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], *, ratio: bool = False) -> Figure:
    """Two arms on the same items under the same seeds: mean of `a` minus that of `b`, with its 95% interval.

    The bootstrap resamples items. An item is first averaged over its seeds, so the interval is over items, given these
    seeds: seeds are too few to resample, and as separate items they would count one held-out row several times. Pool
    this way only where all seeds share their held-out rows; where each seed has rows of its own, give every seed's
    rows once, as one list of one "seed".

    Args:
        a, b: [seeds][items] scores of each item (1 or 0 for right or wrong; or a log-probability), same order.
        ratio: mean of `a` over that of `b` instead of the difference.

    Raises:
        ValueError: another number of seeds or items, or no ratio, since the mean of `b` is 0.
    """
    if len(a) != len(b) or len({len(seed) for seed in (*a, *b)}) != 1:
        raise ValueError("both arms need the same seeds, and every seed the same items")
    means = [[statistics.fmean(item) for item in zip(*arm, strict=True)] for arm in (a, b)]
    if not ratio:
        return difference_interval(*means)
    found = ratio_interval(*means)
    if found is None:
        raise ValueError("no ratio: the second arm scores 0 on every item")
    return found


def bar(name: str, value: float | Figure | None, op: str, target: float, *, unit: str = "", note: str = "") -> dict:
    """One bar: a target and whether the value meets it. A value of None (could not be measured) never meets it.

    Args:
        name: what is measured, readable alone.
        value: a number, or a Figure whose interval is kept beside it.
        op: `>=`, `<=`, `>` or `<`: how the value must stand to the target.
        target: the number to reach.
        unit: `x`, `MB`, `s`, ...
        note: why it is missed, or what to know about it.
    """
    if op not in OPERATORS:
        raise ValueError(f"a bar compares with one of {', '.join(OPERATORS)}, not {op!r}")
    interval = None
    if isinstance(value, Figure):
        interval, value = [value.low, value.high], value.value
    if value is not None and not math.isfinite(value):
        value = interval = None
    met = value is not None and OPERATORS[op](value, target)
    return {
        "name": name, "op": op, "target": target, "value": value, "met": met, "interval": interval,
        "unit": unit, "note": note,
    }  # fmt: skip


def write_result(
    name: str,
    command: str,
    *,
    bars: Sequence[Mapping[str, Any]],
    samples: Mapping[str, Any],
    metrics: Mapping[str, Any],
    seeds: Sequence[int] = (),
    description: str = "",
    results: Path = RESULTS,
) -> Path:
    """Write `results/NAME.json` in one piece: command, date, commit, machine, seeds, raw samples, metrics and bars.

    Args:
        name: file name without `.json`.
        command: what to type, from the repository's root, to get this file again.
        bars: made by `bar`.
        samples: raw figures, so that anyone can compute the metrics anew.
        metrics: what was computed from them.
        seeds: every seed used.
        description: one sentence: what is compared, on what work.
        results: the directory.
    """
    document = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "description": description,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "machine": machine(),
        "seeds": list(seeds),
        "bars": [dict(each) for each in bars],
        "metrics": dict(metrics),
        "samples": dict(samples),
    }
    text = json.dumps(document, indent=1, default=_plain, allow_nan=False) + "\n"
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)
    return path


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median, least, greatest and number of some samples."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "n": len(values)}


def verified(directory: Path) -> dict[str, dict[str, Any]]:
    """Of a verify stage's artifact: model -> its entry of verify.json, with `scores` and `tokens` of each row."""
    models = {model["id"]: model for model in json.loads((directory / "verify.json").read_text())["models"]}
    for name, model in models.items():
        rows = json.loads((directory / "models" / f"{slug_of(name)}.json").read_text())["result"]
        model |= {"scores": rows["score"], "tokens": rows["tokens"]}
    return models


def _commit() -> str | None:
    """The commit measured, with `+` where the tree had changes; None outside a repository."""
    run = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    return run.stdout.strip() if run.returncode == 0 else None


def _plain(value: object) -> Any:
    """JSON for what benchmarks hold: figures and numpy scalars."""
    if isinstance(value, Figure):
        return value.as_dict()
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"not JSON: {type(value).__name__}")
