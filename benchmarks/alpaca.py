"""A student of the instructions and answers that its teacher wrote, and one of the text alone, over three seeds.

python benchmarks/alpaca.py                                   # 24 to 38 min of one core for each seed
python benchmarks/alpaca.py --recipe recipes/alpaca/gpu.yaml  # ten times the rows, on a GPU
python benchmarks/alpaca.py --seeds 1                         # prints, writes nothing

Every seed writes instructions of its own, so it has held-out rows of its own: each row counts once. What is compared
is the probability that a model gives to a token of the teacher's held-out answers (geometric mean); intervals are over
rows, whose tokens go together.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from common import ROOT, bar, verified, write_result

import distill2edge as d2e
from distill2edge.pipeline.artifact import Artifact
from distill2edge.recipe.load import load_recipe
from distill2edge.util.bootstrap import Figure, mean_interval

RECIPE = ROOT / "recipes" / "alpaca" / "alpaca.yaml"
SEEDS = (0, 1, 2)
ALPACA = "control"
"""The student that the text alone has taught, as Alpaca did."""


def main() -> None:
    """Run what is not in the store up to the verification, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="of one alone nothing is written")
    options = parser.parse_args()
    recipe = options.recipe.resolve()
    found = [_run(recipe, seed, options.store) for seed in options.seeds]
    names = [name for name in found[0]["scores"] if name != "teacher"]
    scores = {name: [sum(each["scores"][name]) / sum(each["tokens"]) for each in found] for name in ("teacher", *names)}
    retained = {name: _ratio(found, name, "teacher") for name in names}
    gain = _ratio(found, "student", ALPACA)
    dropped = sum(sum(each["ledger"]["dropped"].values()) for each in found)
    out = sum(each["ledger"]["rows"] - each["ledger"]["kept"] for each in found)
    print(json.dumps({name: figure.as_dict() for name, figure in retained.items()}, indent=1), gain, flush=True)
    if len(options.seeds) == 1:
        return
    loaded = load_recipe(recipe)
    write_result(
        "alpaca" if recipe == RECIPE else f"alpaca_{recipe.stem}",
        "python benchmarks/alpaca.py" + ("" if recipe == RECIPE else f" --recipe {recipe.relative_to(ROOT)}"),
        description=f"{loaded.description}; {len(found)} seeds, {retained['student'].n} held-out rows",
        bars=[
            bar("alpaca: student / teacher, likelihood of the teacher's held-out answers", retained["student"], ">=",
                0.8, unit="x", note="the teacher wrote these answers itself"),
            bar("alpaca: distilled / trained on the text alone (as Alpaca), same likelihood", gain, ">=", 1.0,
                unit="x"),
            bar("alpaca: largest KL of a file from the student",
                max(kl for each in found for kl in each["kl_student"].values()), "<=", 0.3, unit="nats"),
            bar("alpaca: generated rows with a reason in the ledger, of those dropped", dropped / max(out, 1), ">=",
                1.0),
        ],
        samples={f"log-probability per token, {name}": values for name, values in scores.items()},
        metrics={
            "retained": retained,
            "distilled / text alone": gain,
            "seeds": [{key: value for key, value in each.items() if key not in ("scores", "tokens")} for each in found],
        },
        seeds=options.seeds,
    )  # fmt: skip


def _run(recipe: Path, seed: int, store: Path | None) -> dict[str, Any]:
    """Of one seed: log-probability and tokens of each held-out answer under every model, and facts of the run."""

    def stages(kind: str) -> dict[str, Artifact]:
        return d2e.run(recipe, {"seed": seed}, upto=kind, store=store).of(kind)

    models = verified(stages("verify")["verify"].path)
    timed = {kind: stages(kind) for kind in ("synthesis", "signal", "distill")}
    return {
        "scores": {name: model["scores"] for name, model in models.items()},
        "tokens": models["teacher"]["tokens"],
        "ledger": timed["synthesis"]["synthesis"].facts["ledger"],
        "student": stages("student")["student"].facts,
        **{
            key: {name: model[key]["value"] for name, model in models.items() if model[key]}
            for key in ("kl_teacher", "kl_student", "top1_teacher")
        },
        "bytes": {name: model["size_bytes"] for name, model in models.items()},
        "training": {name: item.facts for name, item in timed["distill"].items()},
        "seconds": {name: item.manifest["wall_s"] for done in timed.values() for name, item in done.items()},
    }  # fmt: skip


def _ratio(found: list[dict[str, Any]], a: str, b: str) -> Figure:
    """The likelihood of a token under `a` over that under `b`, over all rows of all seeds."""
    apart, tokens = [], []
    for each in found:
        for mine, theirs, count in zip(each["scores"][a], each["scores"][b], each["tokens"], strict=True):
            apart.append((mine - theirs) / count)
            tokens.append(count)
    return mean_interval(apart, tokens).map(math.exp)


if __name__ == "__main__":
    main()
