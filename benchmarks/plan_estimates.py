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

from distill2edge.pipeline.store import Store
from distill2edge.planning.speed import product_speed
from distill2edge.recipe.load import load_recipe
from distill2edge.running.plan import plan_of
from distill2edge.stages import build_stages
from distill2edge.util.progress import SilentProgress

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
# Whole runs: recipe, seconds (a result file that has those of every stage, or the recipe's header; the middle of a
# span), peak memory in GB by the header, threads. The processor is the same in all: SPEED is its product, per thread.
RECORDED: dict[str, tuple[str, float | str, float, int]] = {
    "quickstart": ("quickstart.yaml", "quickstart.json", 3.8, 2),
    "quantization-aware": ("quantization-aware.yaml", "quantization_aware_task.json", 4.3, 1),
    "quantization-mix": ("quantization-mix.yaml", "quantization_mix_task.json", 4.1, 1),
    "alpaca": ("alpaca/alpaca.yaml", 1860.0, 5.2, 1),
    "distilbert": ("distilbert/movies.yaml", 1200.0, 1.6, 1),
    "distilbert-pretrain": ("distilbert/pretrain.yaml", 1200.0, 2.9, 1),
    "nemotron": ("nemotron/nemotron.yaml", 216.0, 0.7, 1),
    "self-improve": ("self-improve/self-improve.yaml", 170.0, 0.7, 1),
    "dates": ("buzzfeed/dates.yaml", 390.0, 1.0, 1),
    "on-policy": ("on-policy/sentences.yaml", 480.0, 4.5, 1),
    "on-policy, few words": ("on-policy/few-words.yaml", 750.0, 4.5, 1),
}
MADE = {
    "nemotron/nemotron.yaml": "nemotron/make_data.py",
    "self-improve/self-improve.yaml": "nemotron/make_data.py",
    "buzzfeed/dates.yaml": "buzzfeed/make_data.py",
}
SPEED = 2.05e11  # FLOPs per second and thread: AMD EPYC with AVX512-BF16, measured per processor second
KINDS = (
    *("data", "teacher", "fit", "synthesis", "signal", "pretrain", "student", "distill", "merge", "export", "verify"),
    "bench",
)
TIME_FACTOR, MEMORY_SHARE = 2.0, 0.3


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
    imports, _ = _run([sys.executable, "-c", "import torch, transformers, peft, distill2edge.distill.train"])
    found: dict[str, Any] = {"imports": {"seconds": imports}}
    for kind in (kind for kind in KINDS if kind in kinds):
        command = [sys.executable, "-m", "distill2edge", kind, str(ROOT / recipe), "-q", "--store", str(root), *changes]
        command += ["--out", str(root / "run")]
        speed = product_speed(1)
        cpu, peak = _run(command)
        again, _ = _run(command)
        # A run imports its libraries once; here each command does.
        own = cpu - again - (imports if kind != "data" else 0.0)
        found[kind] = {"seconds": max(own, 0.0), "peak_bytes": peak, "speed": max(speed, product_speed(1))}
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
        return plan_of(loaded, Store(store or Path(empty)), SilentProgress(), speed=speed).as_json()


def recorded() -> dict[str, dict[str, Any]]:
    """The plan of every recipe that has been run whole, and what that run took: seconds, peak bytes, threads."""
    found = {}
    for name, (file, seconds, gigabytes, threads) in RECORDED.items():
        if isinstance(seconds, str):
            samples = json.loads((RESULTS / seconds).read_text(encoding="utf-8"))["samples"]
            seconds = sum(values[0] for stage, values in samples.items() if stage.startswith("seconds "))
        with tempfile.TemporaryDirectory() as temporary:
            overrides = []
            if file in MADE:
                subprocess.run([sys.executable, str(ROOT / "recipes" / MADE[file]), temporary], check=True)
                overrides = [f"data.source={temporary}"]
            recipe = load_recipe(ROOT / "recipes" / file, overrides)
            plan = plan_of(recipe, Store(Path(temporary, "none")), SilentProgress(), speed=SPEED * threads).as_json()
        found[name] = {
            "planned_s": plan["seconds"],
            "seconds": seconds,
            "planned_bytes": plan["peak_memory_bytes"],
            "bytes": gigabytes * 1e9,
            "unknown": plan["unknown"],
        }
    return found


def compare(samples: dict[str, Any]) -> None:
    """Bars of every recipe that was run whole, and of those that were measured stage by stage."""
    bars: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {"whole runs": recorded(), "by stage": {}}
    for name, row in metrics["whole runs"].items():
        bars += _bars(name, row["planned_s"] / row["seconds"], row["planned_bytes"] / row["bytes"])
        print(name, row)
    for name, stages in samples.items():
        rows: dict[str, Any] = {}
        for kind, real in stages.items():
            if kind == "imports":
                continue
            plan = planned(name, real["speed"])
            mine = [row for row in plan["stages"] if _group(row["stage"]) == kind]
            rows[kind] = {
                "planned_s": sum(row["seconds"] or 0 for row in mine),
                "seconds": real["seconds"],
                "planned_bytes": max((row["memory_bytes"] or 0 for row in mine), default=0),
                "bytes": real["peak_bytes"],
            }
            print(name, kind, rows[kind])
        metrics["by stage"][name] = rows
        ratio = sum(row["planned_s"] for row in rows.values()) / max(sum(row["seconds"] for row in rows.values()), 1e-9)
        # Each stage ran in a process of its own: its peak is its own.
        worst = max((row["planned_bytes"] / row["bytes"] for row in rows.values()), key=lambda share: abs(share - 1))
        bars += _bars(f"{name}, reduced, stages apart", ratio, worst)
    for each in bars:
        print(each)
    path = write_result(
        "plan",
        "python benchmarks/plan_estimates.py",
        description="what plan says of a recipe on an empty store, against what its run took; the constants of the "
        "estimates were fitted to these runs: the bars say that one set of them fits all, not how a new recipe fares",
        bars=bars,
        samples=samples,
        metrics=metrics,
        seeds=[0],
    )
    print(f"written: {path}")


def _bars(name: str, seconds: float, memory: float) -> list[dict[str, Any]]:
    return [
        bar(f"{name}: planned / real seconds", seconds, "<=", TIME_FACTOR),
        bar(f"{name}: real / planned seconds", 1 / max(seconds, 1e-9), "<=", TIME_FACTOR),
        bar(f"{name}: planned / real peak memory, off by", abs(memory - 1), "<=", MEMORY_SHARE),
    ]


def _group(stage: str) -> str:
    """The command that makes a stage: files' statistics are made with them."""
    kind = stage.split(" ")[0]
    return "export" if kind in ("calibration", "sensitivity") else kind


if __name__ == "__main__":
    main()
