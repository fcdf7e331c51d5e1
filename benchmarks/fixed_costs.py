"""What a command costs before it works: `--help`, `plan`, `run` of what is there, each in fresh processes.

The recipe is the quickstart, its rows and steps reduced, made once into the store; a second one has its teacher as a
directory and conversations, whose check needs the tokenizer's library. Processor and wall seconds are those of the
whole process, imports and all. The share of verify and bench is that of a whole quickstart.

python benchmarks/fixed_costs.py --store STORE [--against CHECKOUT] [--run runs/quickstart]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, bar, ratio, summary, write_result

from distill2edge.bench import contention

ROUNDS = 7
REDUCED = (
    *("name=fixed-costs", "data.splits.train=64", "data.splits.validation=16", "data.splits.calibration=16"),
    *("data.splits.test=32", "teacher.fit.max_rows=32", "distill.epochs=1", "student.init.layers=4", "verify.rows=32"),
    *("bench.rounds=1", "bench.requests=1"),
)
CHAT = """\
name: chat
teacher: {{model: {model}, licence: apache-2.0}}
data: {{source: rows.jsonl, max_length: 128, splits: {{validation: 8, calibration: 8, test: 16}}}}
student: {{init: {{from: teacher, layers: 4}}}}
export: [gguf:Q8_0]
"""


def main() -> None:
    """Make what is not in the store, measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True, help="where the reduced quickstart is, or will be")
    parser.add_argument("--against", type=Path, help="another checkout, measured by turns")
    parser.add_argument("--run", type=Path, help="a finished quickstart, for its share of verify and bench")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    checkouts = {"": ROOT} | ({} if options.against is None else {"before: ": options.against.resolve()})
    with tempfile.TemporaryDirectory() as folder:
        commands = prepared(Path(folder), options.store.resolve())
        probe = contention.Probe(1)
        cpu, wall = measured(commands, checkouts, options.rounds, Path(folder))
        busy = probe.stop()
    share, source = share_of(options.run)
    names = {"run": ("run of a finished recipe", 3), "plan": ("plan of a finished recipe", 2)}
    names |= {"plan, nothing made": ("plan of a new recipe", 2), "plan, chat": ("plan, teacher a directory, chats", 2)}
    load = f"load {busy['load1']:.1f} on {os.cpu_count()} cores"

    def wall_of(name: str) -> str:
        return f"wall {statistics.median(wall[name]):.1f} s, {load}"

    path = write_result(
        "fixed_costs",
        "python benchmarks/fixed_costs.py --store STORE",
        description="commands in fresh processes, imports and all; the quickstart with few rows and steps",
        bars=[
            *(
                bar(f"{words}, processor", statistics.median(cpu[name]), "<=", target, unit="s", note=wall_of(name))
                for name, (words, target) in names.items()
            ),
            bar("quickstart: verify and bench, share of its time", share, "<=", 0.25, note=source),
        ],
        samples={f"{name}, {unit}": values for unit, kept in (("cpu_s", cpu), ("wall_s", wall))
                 for name, values in kept.items()},
        metrics={
            "cpu_s": {name: summary(values) for name, values in cpu.items()},
            "wall_s": {name: summary(values) for name, values in wall.items()},
            "now / before": {
                name: ratio(cpu, name, f"before: {name}") for name in commands if f"before: {name}" in cpu
            },
            "contention": {**busy, "cores": os.cpu_count()},
        },
    )  # fmt: skip
    print(f"written: {path}")


def prepared(folder: Path, store: Path) -> dict[str, list[str]]:
    """The commands, and what they find finished."""
    sets = [word for change in REDUCED for word in ("--set", change)]
    recipe = [str(ROOT / "recipes" / "quickstart.yaml"), *sets, "--store", str(store)]
    run = ["run", *recipe, "--out", str(folder / "run")]
    subprocess.run([sys.executable, "-m", "distill2edge", *run], cwd=ROOT, env=environment(ROOT, folder))
    model = next(iter(sorted((store / "teacher").glob("*/model"))))
    rows = [
        {"messages": [{"role": "user", "content": f"Which is film {n}?"}, {"role": "assistant", "content": f"No {n}."}]}
        for n in range(200)
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "chat.yaml").write_text(CHAT.format(model=model))
    time.sleep(3)  # new files are not trusted yet
    return {
        "--help": ["--help"],
        "plan": ["plan", *recipe],
        "plan, nothing made": ["plan", *recipe[:-1], str(folder / "none")],
        "plan, chat": ["plan", str(folder / "chat.yaml"), "--store", str(folder / "none")],
        "run": run,
    }


def measured(
    commands: Mapping[str, list[str]], checkouts: Mapping[str, Path], rounds: int, folder: Path
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Processor and wall seconds of each command and checkout, by turns; the first round fills the caches."""
    arms = {f"{mark}{name}": (name, root) for name in commands for mark, root in checkouts.items()}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    wall: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(-1, rounds):
        for arm in list(arms) if number % 2 else reversed(list(arms)):
            name, root = arms[arm]
            before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "distill2edge", *commands[name]], cwd=root, env=environment(root, folder),
                capture_output=True, text=True,
            )  # fmt: skip
            took, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
            if done.returncode not in (0, 3):
                raise SystemExit(f"{arm}: {done.stderr}")
            if number >= 0:
                wall[arm].append(round(took, 3))
                cpu[arm].append(round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3))
        print(f"round {number + 1}/{rounds}: " + ", ".join(f"{k} {v[-1]}" for k, v in cpu.items() if v), flush=True)
    return cpu, wall


def environment(root: Path, folder: Path) -> dict[str, str]:
    """That of a user: compiled modules are kept, here beside the benchmark's own files."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled = folder / f"compiled-{abs(hash(root))}"
    return {**kept, "PYTHONPATH": str(root), "PYTHONPYCACHEPREFIX": str(compiled), "HF_HUB_OFFLINE": "1"}


def share_of(run: Path | None) -> tuple[float, str]:
    """Share of verify and bench in the seconds of a quickstart's stages, and whose they are.

    Args:
        run: a run directory; None takes the published quickstart.
    """
    seconds: dict[str, float]
    if run is not None:
        stages: list[dict[str, Any]] = json.loads((run / "run.json").read_text())["stages"]
        seconds, source = {stage["stage"]: stage["wall_s"] for stage in stages}, "a run of today"
    else:
        document = json.loads((RESULTS / "quickstart.json").read_text())
        found = {name: values[0] for name, values in document["samples"].items() if name.startswith("seconds ")}
        seconds = {name.removeprefix("seconds "): value for name, value in found.items()}
        source = f"results/quickstart.json of {document['date'][:10]}"
    spent = {name: value for name, value in seconds.items() if not name.endswith(" control")}
    parts = ", ".join(f"{name} {spent[name]:.0f} s" for name in ("verify", "bench"))
    total = sum(spent.values())
    return (spent["verify"] + spent["bench"]) / total, f"{parts} of {total:.0f} s; {source}"


if __name__ == "__main__":
    main()
