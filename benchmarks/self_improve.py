"""Three rounds of self-training over three seeds: verified, unverified, and none; with four samples of each, and one.

python recipes/nemotron/make_data.py && python benchmarks/self_improve.py
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, summary, write_result
from sums import nearest, worst_seed

import distill2edge as d2e
from distill2edge.recipe.load import load_recipe

RECIPE = ROOT / "recipes" / "self-improve" / "self-improve.yaml"
SEEDS = (0, 1, 2)
# Of samples that are alike one is kept, so with four of each prompt rare wrong answers weigh more than the model gives
# them. One sample of each prompt leaves the unverified arm its own distribution.
SETTINGS = {"four samples": (), "one sample": ("signal.samples=1",)}


def main() -> None:
    """Run the rounds that are not in the store, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    documents: dict[str, list[dict[str, Any]]] = {name: [] for name in SETTINGS}
    trivial: list[list[float]] = []
    for seed in options.seeds:
        for name, more in SETTINGS.items():
            done = d2e.run(RECIPE, [f"seed={seed}", *more], upto="rounds", store=options.store)
            documents[name].append(done.artifacts["rounds"].document("rounds.json"))
            curve = {a: [i["score"]["value"] for i in items] for a, items in documents[name][-1]["arms"].items()}
            print(seed, name, curve, flush=True)
        data = d2e.run(RECIPE, {"seed": seed}, upto="data", store=options.store).artifacts["data"]
        trivial.append(nearest(load_recipe(RECIPE), data.path))
    if tuple(options.seeds) != SEEDS:
        return
    last = {
        name: {arm: [d["arms"][arm][-1]["right"] for d in found] for arm in found[0]["arms"]}
        for name, found in documents.items()
    }
    four, one = last["four samples"], last["one sample"]
    compared = {
        "verified - none after 3 rounds": worst_seed(four["verified"], four["no self-training"]),
        "verified - unverified after 3 rounds": worst_seed(four["verified"], four["unverified"]),
        "verified - unverified, one sample of each prompt": worst_seed(one["verified"], one["unverified"]),
    }
    metrics: dict[str, Any] = {"nearest labelled sum": summary([_mean(seed) for seed in trivial])}
    for name, arms in last.items():
        metrics[name] = {
            "paired after the last round, mean over seeds, interval over items": {
                "verified - none": paired(arms["verified"], arms["no self-training"]),
                "verified - unverified": paired(arms["verified"], arms["unverified"]),
                "unverified - none": paired(arms["unverified"], arms["no self-training"]),
            },
            "the same, the seed whose interval begins lowest": {
                "verified - none": worst_seed(arms["verified"], arms["no self-training"]),
                "verified - unverified": worst_seed(arms["verified"], arms["unverified"]),
            },
            "of what was written": {
                part: {
                    arm: [[item[part] / item["written"] for item in d["arms"][arm][1:]] for d in documents[name]]
                    for arm in ("verified", "unverified")
                }
                for part in ("passed", "kept")
            },
        }
    write_result(
        "self_improve",
        "python recipes/nemotron/make_data.py && python benchmarks/self_improve.py",
        description="sums of two numbers; a small model trains on its own answers for three rounds; the 1,000 held-out "
        "sums are the same under all seeds",
        bars=[
            bar(f"self-improve: {name}, exact match, worst seed, low end of 95%", figure.low, ">", 0.0)
            for name, figure in compared.items()
        ],
        samples={
            f"exact match, {name}, {arm}, round {number}": [d["arms"][arm][number]["score"]["value"] for d in found]
            for name, found in documents.items()
            for arm in found[0]["arms"]
            for number in range(len(found[0]["arms"][arm]))
        },
        metrics=metrics,
        seeds=SEEDS,
    )


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
