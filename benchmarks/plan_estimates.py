"""What `distill2edge plan` says before a run, against what the run then takes: seconds and peak memory of each stage.

Each kind of stage runs in a process of its own (`distill2edge STAGE RECIPE`), on one thread; the system counts its
processor seconds and peak memory. The speed of a matrix product, per processor second too, is measured beside it.

python benchmarks/plan_estimates.py --measure NAME     run one of RECIPES, and keep what it took
python benchmarks/plan_estimates.py                    compare with the plans of today, write results/plan.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, bar, write_result

from distill2edge.plan import plan_of
from distill2edge.planning.speed import product_speed
from distill2edge.progress import SilentProgress
from distill2edge.recipe.load import load_recipe
from distill2edge.stages import build_stages
from distill2edge.store import Store

# Recipes, and what is reduced so that a small machine runs them in minutes: rows and steps. Batches, lengths and
# models stay, and with them the peak of memory.
RECIPES: dict[str, tuple[str, tuple[str, ...]]] = {
    "quickstart": (
        "recipes/quickstart.yaml",
        (
            *(
                "data.splits.train=120",
                "data.splits.validation=16",
                "data.splits.calibration=16",
                "data.splits.test=32",
            ),
            *("teacher.fit.max_rows=96", "teacher.fit.epochs=1", "verify.rows=32"),
        ),
    ),
    "quickstart, all weights": (
        "recipes/quickstart.yaml",
        (
            *("data.splits.train=40", "data.splits.validation=8", "data.splits.calibration=8", "data.splits.test=16"),
            *("teacher.fit.max_rows=32", "teacher.fit.epochs=1", "distill.epochs=1", "verify.rows=16"),
            *("student.lora=null", "teacher.fit.lora=null"),
        ),
    ),
    "distilbert": (
        "recipes/distilbert/movies.yaml",
        (
            "data.splits.train=640",
            "teacher.fit.epochs=1",
            "distill.epochs=1",
            "verify.rows=200",
            "data.splits.test=200",
        ),
    ),
    "nemotron": ("recipes/nemotron/nemotron.yaml", ()),
    "dates": ("recipes/buzzfeed/dates.yaml", ("teacher.fit.epochs=0.2", "distill.epochs=0.2")),
}
KINDS = (
    *("data", "teacher", "fit", "synthesis", "signal", "pretrain", "student", "distill", "merge", "export", "verify"),
    "bench",
)
TIME_FACTOR, MEMORY_SHARE = 2.0, 0.3
_SHORT_S = 5.0  # a stage below it counts in the sum alone: starting takes as long


def main() -> None:
    """Measure one recipe, or compare all that were measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", choices=list(RECIPES))
    parser.add_argument("--store", type=Path, help="where the measured run is made; a temporary one otherwise")
    options = parser.parse_args()
    path = RESULTS / "plan.json"
    samples = json.loads(path.read_text(encoding="utf-8"))["samples"] if path.is_file() else {}
    if options.measure:
        with tempfile.TemporaryDirectory() as temporary:
            samples[options.measure] = measure(options.measure, options.store or Path(temporary))
    compare(samples)


def measure(name: str, root: Path) -> dict[str, Any]:
    """Run a recipe stage by stage: kind -> processor seconds, peak bytes, and the machine's speed beside it.

    Seconds are the processor's, on one thread, so that other work on the machine does not count; those of a second
    call, which finds everything made and only starts, are taken off.
    """
    recipe, overrides = RECIPES[name]
    changes = [part for override in overrides for part in ("--set", override)]
    kinds = {stage.kind for stage in build_stages(load_recipe(ROOT / recipe, overrides), SilentProgress())}
    found: dict[str, Any] = {}
    for kind in (kind for kind in KINDS if kind in kinds):
        command = [sys.executable, "-m", "distill2edge", kind, str(ROOT / recipe), "-q", "--store", str(root), *changes]
        command += ["--out", str(root / "run")]
        speed = product_speed(1)
        cpu, peak = _run(command)
        again, _ = _run(command)
        found[kind] = {"seconds": max(cpu - again, 0.0), "peak_bytes": peak, "speed": max(speed, product_speed(1))}
        print(f"{name} {kind}: {found[kind]}", flush=True)
    return found


def _run(command: list[str]) -> tuple[float, int]:
    """Processor seconds and peak bytes of a command, its children's among them."""
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"failed: {' '.join(command)}")
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def planned(name: str, speed: float, store: Path | None = None) -> dict[str, Any]:
    """The plan of a recipe on an empty store, by a given speed."""
    recipe, overrides = RECIPES[name]
    loaded = load_recipe(ROOT / recipe, overrides)
    with tempfile.TemporaryDirectory() as empty:
        return plan_of(loaded, Store(store or Path(empty)), SilentProgress(), speed=speed)


def compare(samples: dict[str, Any]) -> None:
    """Bars and rows of every recipe that was measured."""
    bars, metrics = [], {}
    for name, stages in samples.items():
        rows: dict[str, Any] = {}
        for kind, real in stages.items():
            plan = planned(name, real["speed"])
            mine = [row for row in plan["stages"] if _group(row["stage"], stages) == kind]
            seconds = [row["seconds"] for row in mine]
            rows[kind] = {
                "planned_s": None if None in seconds else sum(seconds),
                "seconds": real.get("seconds", 0.0),
                "planned_bytes": max((row["memory_bytes"] or 0 for row in mine), default=0),
                "bytes": real["peak_bytes"],
            }
        metrics[name] = rows
        known = [row for row in rows.values() if row["planned_s"] is not None]
        ratio = sum(row["planned_s"] for row in known) / max(sum(row["seconds"] for row in known), 1e-9)
        peak = max(row["planned_bytes"] for row in rows.values()) / max(row["bytes"] for row in rows.values())
        bars += [
            bar(f"{name}: planned / real seconds", ratio, "<=", TIME_FACTOR),
            bar(f"{name}: real / planned seconds", 1 / max(ratio, 1e-9), "<=", TIME_FACTOR),
            bar(f"{name}: planned / real peak memory, off by", abs(peak - 1), "<=", MEMORY_SHARE),
        ]
        for kind, row in rows.items():
            print(
                f"{name:<12} {kind:<10}",
                {key: None if value is None else round(value, 1) for key, value in row.items()},
            )
    for each in bars:
        print(each)
    path = write_result(
        "plan",
        "python benchmarks/plan_estimates.py --measure NAME",
        description="what plan says of a recipe on an empty store, against what its run then took",
        bars=bars,
        samples=samples,
        metrics=metrics,
        seeds=[0],
    )
    print(f"written: {path}")


def _group(stage: str, stages: dict[str, Any]) -> str:
    kind = stage.split(" ")[0]
    return kind if kind in stages else "export"


if __name__ == "__main__":
    main()
