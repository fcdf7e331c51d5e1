"""A language model teaches a small encoder on reviews that nobody labelled: three students of one teacher.

python benchmarks/llm_to_encoder.py             # runs what is not in the store, writes the result
python benchmarks/llm_to_encoder.py --no-half   # leaves out the students of half the unlabelled rows

The seeds share rows, teacher and labels: `--seeds` trains the student once for each. Speeds are those of the first
seed's bench stage: a request is one held-out text, at batch 1; passes of the arms are interleaved.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result

import distill2edge as d2e
from distill2edge.util.bootstrap import Figure, mean_interval

RECIPE = ROOT / "recipes" / "llm-to-encoder" / "movies.yaml"
SEEDS = (0, 1, 2)
FILE, RIVAL = "student/onnx:int8-dynamic", "teacher/gguf:Q8_0"
HALF = {"data.unlabelled.rows": 4500, "export": ["onnx:int8-dynamic"], "verify.teacher_schemes": []}


def run(changes: dict[str, Any], store: Path | None, out: Path) -> list[d2e.Run]:
    """The run of each seed."""
    whole = d2e.run(RECIPE, changes, store=store, out=out, seeds=SEEDS)
    return [whole.seed(seed) for seed in SEEDS]


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


def main() -> None:
    """Run, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="run directory; by default a temporary one")
    parser.add_argument("--no-half", action="store_true")
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    runs = run({}, options.store, out / "whole")
    found = scores(runs)
    arms = {name: [each[name]["scores"] for each in found] for name in found[0]}
    report = runs[0].report.document
    sizes = {name: found[0][name]["size_bytes"] for name in found[0]}
    retained = paired(arms[FILE], arms["teacher"], ratio=True)
    gap = paired(arms["student"], arms["control"])
    agreement = [each[FILE]["top1_teacher"]["value"] for each in found]
    saved = report["headline"]["saving"]
    doubled: Figure | None = None
    if not options.no_half:
        half = scores(run(HALF, options.store, out / "half"))
        arms["student, half the unlabelled rows"] = [each["student"]["scores"] for each in half]
        doubled = paired(arms["student"], arms["student, half the unlabelled rows"])
    name = "llm-to-encoder"
    write_result(
        "llm_to_encoder",
        "python benchmarks/llm_to_encoder.py",
        description="movie polarity: SmolLM2-135M, fitted on 400 rows, labels 8,987 more for three layers of MiniLM; "
        f"{len(SEEDS)} seeds of the student, {len(arms[FILE][0])} held-out rows",
        bars=[
            bar(f"{name}: accuracy of onnx:int8-dynamic over the teacher's", retained, ">=", 0.97, unit="x"),
            bar(f"{name}: its speed over the teacher's own Q8_0 file", speedup(report["bench"], RIVAL), ">=", 30,
                unit="x"),
            bar(f"{name}: its bytes over those of that file", sizes[FILE] / sizes[RIVAL], "<=", 0.1),
            bar(f"{name}: cost per 1,000 requests saved", saved, ">=", 0.95),
            bar(f"{name}: student - control on the 400 rows alone, accuracy", gap, ">", 0.0,
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
            "student - control": gap,
            "twice the rows": doubled,
            "speedups": report["bench"]["speedups"],
            "cost per 1,000": {
                "student": report["headline"]["cost_per_1000"], "teacher": report["headline"]["teacher_cost_per_1000"],
            },
            "saving": saved,
            "contended": report["headline"]["contended"],
        },
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
