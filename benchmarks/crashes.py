"""kill -9, SIGTERM and a full disk in every stage: what a second run makes is what a run left alone makes.

Needs Linux; a full disk also the right to mount a small file system in memory, which is filled to its last byte.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

from common import ROOT, bar, write_result

sys.path.insert(0, str(ROOT / "tests"))

from crash.matrix import KINDS, Matrix, Stage, as_dict

COUNT = 200
_SIZE = "160m"
# What of each recipe is struck; verify and bench start a process per file, twice an event: once is enough.
_KINDS = {
    "plain": ("data", "teacher", "fit", "signal", "student", "distill", "merge", "export", "verify", "bench", "report"),
    "grid": ("calibration", "sensitivity", "quantization-aware", "export"),
    "on-policy": ("signal", "distill", "merge"),
    "rounds": ("fit", "signal", "distill", "merge", "rounds"),
    "endpoint": ("teacher", "synthesis", "signal", "judge"),
    "classes": ("fit", "pretrain", "signal", "student", "distill", "merge", "export"),
}
_OF_RECIPE = 34  # events, at least


def chosen(stages: list[Stage], least: int, seed: int) -> list[tuple[Stage, str, int]]:
    """Each stage by each kind of event, at its start, middle and end in turn; then random ones."""
    random, events = Random(seed), []
    for number, stage in enumerate(stages):
        for turn, kind in enumerate(KINDS):
            share = (0.0, 0.5, 1.0)[(number + turn) % 3]
            events.append((stage, kind, 1 + round(share * (stage.moments - 1))))
    light = [stage for stage in stages if stage.kind not in ("verify", "bench", "judge")]
    while len(events) < least:
        stage = random.choice(light)
        events.append((stage, random.choice(KINDS), random.randint(1, stage.moments)))
    return events


def run_recipe(
    name: str, disk: Path, root: Path, options: argparse.Namespace, earlier: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The events of one recipe; of `earlier` outcomes those with a fault, once more."""
    matrix = Matrix(disk, root)
    try:
        kinds = tuple(kind for kind in _KINDS[name] if not options.stages or kind in options.stages)
        print(f"reference {name}: {matrix.reference(name, () if 'report' in kinds else kinds):.0f} s", flush=True)
        events = chosen([stage for stage in matrix.stages if stage.kind in kinds], _OF_RECIPE, options.seed)
        events = [event for event in events if event[1] in options.events]
        if earlier is not None:
            events = [events[number] for number, one in enumerate(earlier) if one["faults"]]
        if options.count:
            events = Random(options.seed).sample(events, options.count)
        outcomes = []
        for number, (stage, kind, moment) in enumerate(events, 1):
            outcome = matrix.attempt(stage, kind, moment)
            outcomes.append(as_dict(outcome))
            state = "; ".join(outcome.faults) or "the same"
            where = f"{name}: {stage.name}, moment {moment} of {stage.moments}"
            print(f"[{number}/{len(events)}] {kind} in {where}: {state} ({outcome.seconds:.1f} s)", flush=True)
    finally:
        matrix.close()
    return outcomes


@contextmanager
def small_disk(place: Path) -> Iterator[None]:
    """A file system in memory, mounted on a directory."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def main() -> None:
    """Run the matrix and write results/crashes.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipes", nargs="*", default=list(_KINDS), help="only these")
    parser.add_argument("--count", type=int, help="events of each recipe; then nothing is written")
    parser.add_argument("--stages", nargs="*", help="only these kinds of stage; then nothing is written")
    parser.add_argument("--events", nargs="*", default=KINDS, choices=KINDS, help="only these; then nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="of the outcomes kept in --work, those with a fault")
    parser.add_argument("--work", type=Path, help="directory that keeps the outcomes of each recipe between runs")
    options = parser.parse_args()
    work = options.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    _import_everything()
    whole = not options.count and not options.stages and tuple(options.events) == KINDS
    bad = 0
    for name in options.recipes:
        kept = work / f"{name}.json"
        earlier = json.loads(kept.read_text()) if kept.is_file() else None
        if earlier is not None and not (options.again and any(one["faults"] for one in earlier)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            disk, root = Path(folder, "disk"), Path(folder, "root")
            disk.mkdir()
            root.mkdir()
            with small_disk(disk) if "full" in options.events else nullcontext():
                outcomes = run_recipe(name, disk, root, options, earlier)
        bad += sum(bool(one["faults"]) for one in outcomes)
        print(
            f"{name}: {len(outcomes)} events, {sum(bool(one['faults']) for one in outcomes)} with a fault", flush=True
        )
        if whole:
            fresh = iter(outcomes)
            kept.write_text(
                json.dumps([next(fresh) if one["faults"] else one for one in earlier] if earlier else outcomes)
            )
    if all((work / f"{name}.json").is_file() for name in _KINDS):
        _write([each for name in _KINDS for each in json.loads((work / f"{name}.json").read_text())], options.seed)
    sys.exit(1 if bad else 0)


def _write(outcomes: list[dict[str, Any]], seed: int) -> None:
    kinds = {kind for own in _KINDS.values() for kind in own}
    struck = {(each["stage"].split(" ")[0], each["kind"]) for each in outcomes}
    bars = [
        bar("events", len(outcomes), ">=", COUNT),
        bar("pairs of a kind of stage and an event without one", len(kinds) * len(KINDS) - len(struck), "<=", 0),
        bar(
            "events after which an exit code, a message or an artifact was not what it must be",
            sum(bool(each["faults"]) for each in outcomes), "<=", 0,
        ),
        bar(
            "answers paid twice after SIGTERM or a full disk",
            sum(each["asked_again"] for each in outcomes if each["kind"] != "kill"), "<=", 0,
        ),
        bar(
            "answers asked for again after a kill -9, in one event", max(each["asked_again"] for each in outcomes),
            "<=", 1, note="the one under way: it was on no disk",
        ),
    ]  # fmt: skip
    path = write_result(
        "crashes",
        "python benchmarks/crashes.py",
        description="kill -9, SIGTERM and a full disk at counted moments of every stage of six tiny recipes; after a "
        "second run the artifacts are compared with those of a run left alone, measurements excepted",
        bars=bars,
        samples={"events": outcomes},
        metrics={
            "events_by_stage": dict(Counter(each["stage"].split(" ")[0] for each in outcomes)),
            "events_by_kind": dict(Counter(each["kind"] for each in outcomes)),
        },
        seeds=[seed],
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

    from distill2edge import stages  # noqa: F401
    from distill2edge.cli import main as cli  # noqa: F401
    from distill2edge.distill import train, trainer  # noqa: F401
    from distill2edge.export import gguf, onnx  # noqa: F401


if __name__ == "__main__":
    main()
