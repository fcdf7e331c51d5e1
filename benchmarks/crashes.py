"""kill -9, SIGTERM and a full disk in every stage: what a second run makes is what a run left alone makes.

Needs Linux and the right to mount a small file system in memory, which is filled to its last byte.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from common import ROOT, bar, write_result

sys.path.insert(0, str(ROOT / "tests"))

from crash.matrix import KINDS, Matrix, Stage, as_dict

COUNT = 200
_SIZE = "160m"
_HEAVY = {"verify", "bench", "judge"}  # each event of them starts a process per file, twice
_TWICE = 1  # events of a kind for each of these


def chosen(stages: list[Stage], count: int, seed: int) -> list[tuple[Stage, str, int]]:
    """Each stage by each kind of event, at its start, middle and end in turn; then random ones up to the count."""
    random = Random(seed)
    events = []
    for number, stage in enumerate(stages):
        if stage.kind in _HEAVY and any(one.kind == stage.kind for one in stages[:number]):
            continue
        for turn, kind in enumerate(KINDS):
            share = (0.0, 0.5, 1.0)[(number + turn) % 3]
            events.append((stage, kind, 1 + round(share * (stage.moments - 1))))
    light = [stage for stage in stages if stage.kind not in _HEAVY]
    while len(events) < count:
        stage = random.choice(light)
        events.append((stage, random.choice(KINDS), random.randint(1, stage.moments)))
    return events


def main() -> None:
    """Run the matrix and write results/crashes.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=COUNT, help="events; fewer write no file")
    parser.add_argument("--recipes", nargs="*", help="only these; then nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    _import_everything()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        disk, root = Path(folder, "disk"), Path(folder, "root")
        disk.mkdir()
        root.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(disk)], check=True)
        matrix = Matrix(disk, root, options.recipes)
        try:
            for name in matrix.recipes:
                print(f"reference {name}: {matrix.reference(name):.0f} s", flush=True)
            events = chosen(matrix.stages, options.count, options.seed)
            events = events if options.count >= COUNT else Random(options.seed).sample(events, options.count)
            outcomes = []
            for number, (stage, kind, moment) in enumerate(events, 1):
                outcome = matrix.attempt(stage, kind, moment)
                outcomes.append(outcome)
                state = "; ".join(outcome.faults) or "the same"
                where = f"{stage.recipe}: {stage.name}, moment {moment} of {stage.moments}"
                print(f"[{number}/{len(events)}] {kind} in {where}: {state} ({outcome.seconds:.1f} s)", flush=True)
        finally:
            matrix.close()
            subprocess.run(["umount", "-l", str(disk)], check=True)
    bad = [outcome for outcome in outcomes if outcome.faults]
    print(f"{len(outcomes)} events, {len(bad)} with a fault, {time.monotonic() - begin:.0f} s")
    if options.recipes or len(outcomes) < COUNT:
        return
    stages = {stage.kind for stage in matrix.stages}
    struck = {(outcome.stage.split(" ")[0], outcome.kind) for outcome in outcomes}
    bars = [
        bar("events", len(outcomes), ">=", COUNT),
        bar("kinds of stage without one of the three events", len(stages) * len(KINDS) - len(struck), "<=", 0),
        bar("runs that ended otherwise than with their code and message, or artifacts that differ", len(bad), "<=", 0),
        bar(
            "answers paid twice after SIGTERM or a full disk",
            sum(outcome.asked_again for outcome in outcomes if outcome.kind != "kill"), "<=", 0,
        ),
        bar(
            "answers asked for again after a kill -9, in one event", max(o.asked_again for o in outcomes), "<=", 1,
            note="the one that was under way: it was on no disk",
        ),
    ]  # fmt: skip
    path = write_result(
        "crashes",
        "python benchmarks/crashes.py",
        description="kill -9, SIGTERM and a full disk at counted moments of every stage of six tiny recipes; after a "
        "second run the artifacts are compared with those of a run left alone, measurements excepted",
        bars=bars,
        samples={"events": [as_dict(outcome) for outcome in outcomes]},
        metrics={
            "events_by_stage": dict(Counter(outcome.stage.split(" ")[0] for outcome in outcomes)),
            "events_by_kind": dict(Counter(outcome.kind for outcome in outcomes)),
        },
        seeds=[options.seed],
    )
    print(f"written: {path}")


def _import_everything() -> None:
    """What forks then need not import."""
    import datasets  # noqa: F401
    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401
    import peft  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    from distill2edge import cli, run, stages, steps  # noqa: F401
    from distill2edge.distill import train, trainer  # noqa: F401
    from distill2edge.export import gguf, onnx  # noqa: F401


if __name__ == "__main__":
    main()
