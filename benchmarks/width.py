"""Half of SmolLM2-135M's weights, by width and depth together or by depth alone: what each keeps after equal training.

The arms see the same newspaper sentences once, with the same cached signal, rate and batches. What they are compared by
is KL(teacher || student) on held-out sentences, in nats per token, over the whole vocabulary. Rows, teacher and signal
are the same for all seeds; a seed orders the training rows. Depth alone keeps the lowest eight layers and the last
three: of the choices that were tried it loses least before training (docs/log.md).

python benchmarks/width.py --store EMPTY            # the recipe's 1,024 rows: some 12 minutes of one core a seed
python benchmarks/width.py --store EMPTY --quick    # 16 steps of it, and 48 rows to compare on: some 3 minutes a seed

The file is written after every seed, and says which were run.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result

from distill2edge.data.encode import encode_rows
from distill2edge.data.split_files import read_rows
from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.run_stages import run_stages, upto
from distill2edge.recipe.load import load_recipe
from distill2edge.running.housekeeping import open_store
from distill2edge.stages import build_stages
from distill2edge.util.progress import SilentProgress

RECIPE = ROOT / "recipes" / "width" / "sentences.yaml"
SEEDS = (0, 1, 2)
BOTH, DEPTH = "width + depth", "depth alone"
ARMS: dict[str, dict[str, Any]] = {
    BOTH: {},
    DEPTH: {"student.init": {"from": "teacher", "layers": [0, 1, 2, 3, 4, 5, 6, 7, 27, 28, 29]}},
}
QUICK, QUICK_ROWS = {"distill.max_steps": 16}, 48
SHARE = 0.5
"""Of the teacher's parameters."""


def trained(arm: str, seed: int, store: Path | None, sizes: dict[str, Any]) -> dict[str, Artifact]:
    """The artifacts of one arm under one seed up to its merged student, by the names of their stages."""
    stages = build_stages(load_recipe(RECIPE, {**ARMS[arm], **sizes}), SilentProgress(), seed=seed)
    done = run_stages(upto(stages, "merge"), open_store(store), SilentProgress())
    return {item.stage.name: item.artifact for item in done}


def divergences(found: dict[str, Artifact], count: int | None) -> dict[str, list[float]]:
    """KL(teacher || student) of each held-out row, mean over its tokens: of the student as pruned, and as trained.

    Args:
        count: of the rows; None: all.
    """
    import torch

    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.models.loading import load_model

    places = {name: found[stage].path / "model" for name, stage in (("pruned", "student"), ("trained", "merge"))}
    teacher_dir, recipe = found["teacher"].path / "model", load_recipe(RECIPE)
    held_out = read_rows(found["data"].path, "test")[:count]
    rows = encode_rows(held_out, load_tokenizer(teacher_dir), "text", None, recipe.data.max_length)
    models = {name: load_model(place, dtype=torch.float32).eval() for name, place in places.items()}
    teacher = load_model(teacher_dir, dtype=torch.float32).eval()
    kl: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row.ids])
            p = torch.log_softmax(teacher(ids).logits[0, :-1], -1)
            for name, model in models.items():
                q = torch.log_softmax(model(ids).logits[0, :-1], -1)
                kl[name].append(float((p.exp() * (p - q)).sum(-1).mean()))
    return kl


def main() -> None:
    """Train what is not in the store, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--quick", action="store_true", help="16 steps, 48 rows to compare on")
    options = parser.parse_args()
    kl: dict[str, dict[str, list[list[float]]]] = {arm: {"pruned": [], "trained": []} for arm in ARMS}
    facts: dict[str, Any] = {}
    for number, seed in enumerate(SEEDS, 1):
        for arm in ARMS:
            found = trained(arm, seed, options.store, QUICK if options.quick else {})
            student = found["student"].document("student.json")
            facts[arm] = {
                "layers": len(student["layers"]), "width": student.get("width"), "parameters": student["parameters"],
                "supervised_tokens": found["distill"].facts["supervised_tokens"],
                "share": student["parameters"] / found["teacher"].facts["parameters"],
            }  # fmt: skip
            for name, values in divergences(found, QUICK_ROWS if options.quick else None).items():
                kl[arm][name].append(values)
                print(f"seed {seed}, {arm}, {name}: {mean(values):.4f}", flush=True)
        write(kl, facts, SEEDS[:number], options.quick)


def write(
    kl: dict[str, dict[str, list[list[float]]]], facts: dict[str, Any], seeds: tuple[int, ...], quick: bool
) -> None:
    """The result file, of the seeds that were run; the bars ask for all of them."""
    gap = paired(kl[BOTH]["trained"], kl[DEPTH]["trained"])
    means = {arm: {name: [mean(seed) for seed in found] for name, found in of.items()} for arm, of in kl.items()}
    whole = seeds == SEEDS
    missing = "" if whole else f"; {len(SEEDS)} seeds are asked for, and {len(seeds)} was run: {gap.high:.3f}"
    worst = max(means[BOTH]["trained"]) - min(means[DEPTH]["trained"])
    rows, tokens = len(kl[BOTH]["trained"][0]), facts[BOTH]["supervised_tokens"]
    write_result(
        "width",
        f"python benchmarks/width.py{' --quick' if quick else ''} --store $(mktemp -d)",
        description="Half of SmolLM2-135M's weights, by width and depth together or by depth alone, after training on "
        f"{tokens:,} equal tokens: KL(teacher || student) on {rows} held-out sentences, seeds of the training",
        bars=[
            bar("width: KL on held-out text, width + depth - depth alone, upper end", gap.high if whole else None, "<",
                0.0, unit="nats per token",
                note=f"difference {gap.value:.3f}; interval over rows, averaged over seeds{missing}"),
            bar("width: KL, the worst seed of width + depth - the best of depth alone", worst if whole else None, "<",
                0.0, unit="nats per token", note=missing.removeprefix("; ")),
            *(bar(f"width: share of the teacher's parameters, {arm}", of["share"], "<=", SHARE)
              for arm, of in facts.items()),
        ],
        samples={f"{name}, {arm}": found for arm, of in kl.items() for name, found in of.items()},
        metrics={"students": facts, "means": means, "width + depth - depth alone": gap},
        seeds=seeds,
    )  # fmt: skip


def mean(values: Sequence[float]) -> float:
    """Of some rows."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
