"""A larger student on its teacher's verified outputs, over three seeds: against the teacher, and against no checks.

python recipes/nemotron/make_data.py && python benchmarks/nemotron.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, summary, write_result
from sums import nearest, worst_seed

import distill2edge as d2e
from distill2edge.data.split_files import read_rows
from distill2edge.pipeline.artifact import Artifact
from distill2edge.recipe.load import load_recipe
from distill2edge.verify.exact import exact_match

RECIPE = ROOT / "recipes" / "nemotron" / "nemotron.yaml"
SEEDS = (0, 1, 2)
# The student of each arm is the same, and so is its training: only the rows differ.
ARMS = {"verified": (), "unverified": ("signal.verify=[]",)}
# Under the first seed alone, so no more than a look: the teacher's likeliest answer to each prompt, and no teacher.
FIRST_SEED = {
    "unverified, greedy": ("signal.verify=[]", "signal.samples=1", "signal.temperature=0"),
    "the teacher's 300 labels": ("data.splits.train=300", "signal={kind: gold}"),
}


def main() -> None:
    """Run what is not in the store, score every model on the same rows, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    right: dict[str, list[list[float]]] = {}
    facts: list[dict[str, Any]] = []
    for seed in options.seeds:
        found, seen = _run(seed, options.store, ARMS | FIRST_SEED if seed == SEEDS[0] else ARMS)
        facts.append(seen)
        for name, rows in found.items():
            right.setdefault(name, []).append(rows)
        print(seed, {name: _mean(rows) for name, rows in found.items()}, flush=True)
    if tuple(options.seeds) != SEEDS:
        return
    pairs = [("verified", "teacher"), ("verified", "unverified"), ("unverified", "teacher")]
    looks = [("verified", name) for name in FIRST_SEED]
    write_result(
        "nemotron",
        "python recipes/nemotron/make_data.py && python benchmarks/nemotron.py",
        description="sums of two numbers; a student of five times the teacher's parameters; the 1,000 held-out sums "
        "are the same under all seeds",
        bars=[
            bar(
                f"nemotron: {a} student - {b}, exact match, worst seed, low end of 95%",
                worst_seed(right[a], right[b]).low,
                ">",
                0.0,
            )
            for a, b in pairs[:2]
        ],
        samples={
            **{f"exact match, {name}": [_mean(seed) for seed in seeds] for name, seeds in right.items()},
            "validation loss at its least": [seen["validation"] for seen in facts],
        },
        metrics={
            "exact_match": {name: summary([_mean(seed) for seed in seeds]) for name, seeds in right.items()},
            "paired, mean over seeds, interval over items": {
                f"{a} - {b}": paired(right[a], right[b]) for a, b in pairs
            },
            "the same, the seed whose interval begins lowest": {
                f"{a} - {b}": worst_seed(right[a], right[b]) for a, b in pairs
            },
            "paired, the first seed alone": {f"{a} - {b}": paired(right[a][:1], right[b]) for a, b in looks},
            "signal": [seen["signal"] for seen in facts],
            "parameters": facts[0]["parameters"],
        },
        seeds=SEEDS,
    )


def _run(
    seed: int, store: Path | None, arms: dict[str, tuple[str, ...]]
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Which held-out rows each model of one seed gets right, and what to know of the run."""
    recipe = load_recipe(RECIPE, [f"seed={seed}"])

    def stages(kind: str, *more: str) -> dict[str, Artifact]:
        return d2e.run(RECIPE, [f"seed={seed}", *more], upto=kind, store=store).of(kind)

    data, fit = stages("data")["data"].path, stages("fit")["fit"].path
    rows = read_rows(data, "test")[: recipe.verify.rows]
    right = {"nearest labelled sum": nearest(recipe, data), "teacher": exact_match(recipe, fit / "model", rows)}
    validation = {}
    for name, more in arms.items():
        validation[name] = stages("distill", *more)["distill"].facts["validation_loss"]
        merged = stages("merge", *more)["merge"].path
        right[name] = exact_match(recipe, merged / "model", rows)
    signal = stages("signal")["signal"].facts
    parameters = {kind: stages(kind)[kind].facts["parameters"] for kind in ("teacher", "student")}
    kept = {key: signal[key] for key in ("rows", "duplicate", "written", "verify")}
    return right, {"validation": validation, "signal": kept, "parameters": parameters}


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
