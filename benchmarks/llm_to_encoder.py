"""A language model teaches a small encoder on reviews that nobody labelled: three students of one teacher.

python benchmarks/llm_to_encoder.py             # runs what is not in the store, writes the result
python benchmarks/llm_to_encoder.py --no-arms   # leaves out those of half the unlabelled rows, and of labels alone

The seeds share rows, teacher and labels: `--seeds` trains the student once for each. Speeds are those of the first
seed's bench stage: a request is one held-out text, at batch 1; passes of the arms are interleaved.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, seed_runs, write_result

import distill2edge as d2e
from distill2edge.runtimes import open_runtime
from distill2edge.tasks.classification.work import WORK
from distill2edge.util.bootstrap import Figure, mean_interval
from distill2edge.util.progress import PlainProgress
from distill2edge.util.threads import available_threads

RECIPE = ROOT / "recipes" / "llm-to-encoder" / "movies.yaml"
SEEDS = (0, 1, 2)
FILE, BASELINE = "student/onnx:int8-dynamic", "teacher/gguf:Q8_0"
HALVED, GOLD = "student of half the unlabelled rows", "student of the 400 labelled rows alone"
PARTS = ("train", "validation", "test")
HALF = 4500
"""Unlabelled rows of the second arm."""
GOLD_EPOCHS = 25
"""Passes over the labelled rows alone: as few as the student has over all rows would leave that arm undertrained."""


def trained(run: d2e.Run, seed: int, rows: int | None, out: Path) -> list[float]:
    """Which held-out rows a student gets right that starts as the run's does.

    Args:
        rows: unlabelled ones to train on, beside the labelled; None: the labelled ones alone, on their own labels.
    """
    from distill2edge.distill.encoder_training import train_encoder
    from distill2edge.recipe.schema import Loss

    recipe, artifacts = run.recipe, run.artifacts
    places = {kind: artifacts[kind].path for kind in ("data", "signal", "student")}
    start = places["student"] / "model"
    train, validation, test = (WORK.encoded(recipe, places["data"], start, part) for part in PARTS)
    own = [row for row in train if row.label >= 0]
    training, loss, signal = recipe.distill, recipe.distill.loss, (places["signal"], recipe.signal.temperature)
    if rows is None:
        kept, signal, loss = own, None, Loss(ce=1.0)
        training = training.model_copy(update={"epochs": GOLD_EPOCHS})
    else:
        kept = own + [row for row in train if row.label < 0][:rows]
    train_encoder(WORK.make(), start, kept, validation, signal, None, training, loss, None, seed, out, PlainProgress())
    runtime: Any = open_runtime("torch", out / "model", threads=available_threads(), context=recipe.data.max_length)
    return [float(int(runtime.classify(row.ids).argmax()) == row.label) for row in test]


def scores(runs: list[d2e.Run]) -> list[dict[str, Any]]:
    """What verify found of every model, by its name, with whether each row is right; of each seed."""
    documents = [run.artifacts["verify"].document("verify.json") for run in runs]
    return [
        {model["id"]: {**model, "scores": document["correct"][model["id"]]} for model in document["models"]}
        for document in documents
    ]


def figure(entry: dict[str, Any]) -> Figure:
    """A figure of a report."""
    return Figure(entry["value"], entry["low"], entry["high"], entry["n"])


def speedup(bench: dict[str, Any], against: str) -> Figure:
    """How many times as fast the shipped file is."""
    (found,) = [
        each["ratio"] for each in bench["speedups"]
        if each["cell"] == f"{FILE}@cpu" and each["against"] == f"{against}@cpu"
    ]  # fmt: skip
    return figure(found)


def saved(bench: dict[str, Any]) -> float:
    """The share of a request's cost that is saved against the teacher's own file, where cost is time on one machine."""
    return 1 - 1 / speedup(bench, BASELINE).value


def main() -> None:
    """Run, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="run directory; by default a temporary one")
    parser.add_argument("--no-arms", action="store_true", help="the run alone: neither half the rows nor labels alone")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    runs = seed_runs(RECIPE, SEEDS, options.store, out / "run")
    found = scores(runs)
    arms = {name: [each[name]["scores"] for each in found] for name in found[0]}
    report = runs[0].report.document
    sizes = {name: found[0][name]["size_bytes"] for name in found[0]}
    doubled: Figure | None = None
    if not options.no_arms:
        for arm, rows in ((HALVED, HALF), (GOLD, None)):
            arms[arm] = [
                trained(each, seed, rows, out / f"{rows or 'gold'}-{seed}")
                for seed, each in zip(SEEDS, runs, strict=True)
            ]
        doubled = paired(arms["student"], arms[HALVED])
    retained = paired(arms[FILE], arms["teacher"], ratio=True)
    gap = paired(arms["student"], arms["control" if options.no_arms else GOLD])
    agreement = [each[FILE]["top1_teacher"]["value"] for each in found]
    name = "llm-to-encoder"
    write_result(
        "llm_to_encoder",
        "python benchmarks/llm_to_encoder.py",
        description="movie polarity: SmolLM2-135M, fitted on 400 rows, labels 8,987 more for three layers of MiniLM; "
        f"{len(SEEDS)} seeds of the student, {len(arms[FILE][0])} held-out rows",
        bars=[
            bar(f"{name}: accuracy of onnx:int8-dynamic over the teacher's", retained, ">=", 0.97, unit="x"),
            bar(f"{name}: its speed over the teacher's own Q8_0 file", speedup(report["bench"], BASELINE), ">=", 30,
                unit="x"),
            bar(f"{name}: its bytes over those of that file", sizes[FILE] / sizes[BASELINE], "<=", 0.1),
            bar(f"{name}: cost per 1,000 requests saved", saved(report["bench"]), ">=", 0.95),
            bar(f"{name}: student - the same trained on the 400 labels alone, accuracy", gap, ">", 0.0,
                note="the interval is to exclude zero"),
            bar(f"{name}: lower end of that interval", gap.low, ">", 0.0),
            bar(f"{name}: student - the same of half the unlabelled rows", doubled, ">=", 0.0),
        ],
        samples={f"accuracy, {arm}": [sum(seed) / len(seed) for seed in seeds] for arm, seeds in arms.items()},
        metrics={
            "accuracy": {
                arm: mean_interval([sum(row) / len(row) for row in zip(*seeds, strict=True)])
                for arm, seeds in arms.items()
            },
            "agreement with the teacher": agreement,
            "ece": {arm: [each[arm].get("ece") for each in found] for arm in found[0]},
            "size_bytes": sizes,
            "student - labels alone": gap,
            "twice the rows": doubled,
            "speedups": report["bench"]["speedups"],
            "contended": [cell["id"] for cell in report["bench"]["cells"] if cell["contended"]],
        },
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
