"""What 4 bits cost an encoder and an encoder-decoder, rounded plainly and with calibration; three seeds of each.

python recipes/buzzfeed/make_data.py && python benchmarks/calibration_tasks.py

The encoder is all of MiniLM, fitted to the labels of movie reviews; the encoder-decoder is the student of
recipes/buzzfeed/dates.yaml. Seeds share rows and teacher, and train the model that is rounded anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, bar, paired, write_result

import distill2edge as d2e
from distill2edge.util.bootstrap import mean_interval

SEEDS = (0, 1, 2)
SCHEMES = ("onnx:int4-b32", "gguf:Q4_0")
MODELS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "MiniLM": (
        "distilbert/movies.yaml",
        {
            # A teacher of which nothing is learned needs a head all the same: one step of it.
            "teacher.fit": {"epochs": 1, "max_rows": 32, "batch_size": 32, "gradient_accumulation": 1, "lora": None},
            "data.splits": {"train": 1500, "validation": 50, "calibration": 150, "test": 1000},
            "signal": {"kind": "gold"},
            "student": {"init": {"model": "bundled:all-minilm-l6-v2"}, "lora": None},
            "distill.loss": {"ce": 1.0, "forward_kl": 0.0},
            "distill.learning_rate": 1e-4,
            "distill.epochs": 1,
            "distill.control": False,
            "verify.rows": 1000,
        },
    ),
    "T5": ("buzzfeed/dates.yaml", {"distill.control": False, "data.splits.calibration": 200}),
}
COMMON = {
    "export": ["onnx:fp32", *SCHEMES],
    "quantize": {"calibration": "gptq", "compare": True},
    "verify.min_retained": None,
    "bench": {"workloads": ["task"], "rounds": 1, "requests": 1},
}
ARMS = {"float": "student/onnx:fp32"} | {
    f"{scheme}, {how}": f"student/{scheme}{suffix}"
    for scheme in SCHEMES
    for how, suffix in (("plain", "-plain"), ("calibrated", ""))
}


def main() -> None:
    """Train, export and score what is not in the store; write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "calibration-tasks")
    options = parser.parse_args()
    bars, metrics, samples = [], {}, {}
    for name, (recipe, changes) in MODELS.items():
        run = d2e.run(
            ROOT / "recipes" / recipe, {**changes, **COMMON}, store=options.store, out=options.out / name.lower(),
            seeds=SEEDS,
        )  # fmt: skip
        reports = [run.seed(seed).report.document for seed in SEEDS]
        scores = {arm: [each["row_scores"]["scores"][model] for each in reports] for arm, model in ARMS.items()}
        bars += bars_of(name, scores)
        metrics[name] = figures(scores, reports)
        samples |= {f"score, {name}, {arm}": [float(np.mean(seed)) for seed in arms] for arm, arms in scores.items()}
    path = write_result(
        "calibration_tasks",
        "python recipes/buzzfeed/make_data.py && python benchmarks/calibration_tasks.py",
        description="a MiniLM classifier (6 layers, reviews, accuracy) and a T5 (2 + 1 blocks, dates, exact match) in "
        f"4 bits, rounded plainly and by calibration rows (gptq); {len(SEEDS)} seeds, paired over held-out rows",
        bars=bars,
        samples=samples,
        metrics=metrics,
        seeds=SEEDS,
    )
    print(f"written: {path}")


def bars_of(name: str, scores: Mapping[str, Sequence[Sequence[float]]]) -> list[dict[str, Any]]:
    """Points that each scheme loses by calibrated rounding, and whether plain rounding loses more."""
    found = []
    for scheme in SCHEMES:
        plain, calibrated = (
            paired(scores["float"], scores[f"{scheme}, {how}"]).map(points) for how in ("plain", "calibrated")
        )
        gain = paired(scores[f"{scheme}, calibrated"], scores[f"{scheme}, plain"]).map(points)
        said = f"plain rounding loses {plain.value:.2f} [{plain.low:.2f}, {plain.high:.2f}]"
        found += [
            bar(f"{name} in {scheme}: points lost by calibrated rounding", calibrated, "<=", 1.0, note=said),
            bar(f"{name} in {scheme}: points that calibration gains over plain rounding", gain, ">", 0.0,
                note=f"{said}; no loss to win back" if plain.low <= 0 else said),
        ]  # fmt: skip
    return found


def points(share: float) -> float:
    """Of a hundred."""
    return 100 * share


def figures(scores: Mapping[str, Sequence[Sequence[float]]], reports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Score of each arm with an interval over rows; of each seed its bytes, and KL to the student in float."""
    by_seed = [{model["id"]: model for model in report["models"]} for report in reports]
    return {
        arm: {
            "score": mean_interval([float(np.mean(row)) for row in zip(*scores[arm], strict=True)]).as_dict(),
            "kl_student": [models[model]["kl_student"] for models in by_seed],
            "size_bytes": [models[model]["size_bytes"] for models in by_seed],
        }
        for arm, model in ARMS.items()
    }


if __name__ == "__main__":
    main()
