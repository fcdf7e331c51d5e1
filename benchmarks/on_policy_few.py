"""On-policy against off-policy training where few rows have words and many have a prompt, on as many tokens.

python benchmarks/on_policy_few.py            # 16 min of one core for each seed
python benchmarks/on_policy_few.py --jobs 3   # seeds side by side, on a GPU

Off-policy alone passes 64 rows of the data 16 times. The other arm passes them four times, then twice through them and
320 texts of its own, after prompts whose responses nobody has written. So as many tokens pass with a teacher's score,
the count of the paper, where the teacher scores at every step, and the steps are as many; of different ones it scores
more. The measures are those of `on_policy.py`, on the same held-out rows.
"""

from __future__ import annotations

import argparse
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, summary, write_result
from on_policy import SEEDS, TEXTS, WARM, divergences

from distill2edge.run import run_until

RECIPE = ROOT / "recipes" / "on-policy" / "few-words.yaml"
WORDS, PROMPTS, PASSES = 64, 320, 16
"""Rows with words, further prompts, and passes over the former that make as many tokens as the recipe trains on."""
ON, OFF = "on-policy", "off-policy alone"
ARMS = {ON: (), OFF: (f"data.splits.train={WORDS}", f"distill.epochs={PASSES}", "distill.on_policy=null")}


def of_seed(seed: int, store: Path | None) -> dict[str, dict[str, list[float]]]:
    """Train what is not in the store: text -> arm -> nats per token of each held-out row."""

    def artifacts(kind: str, arm: str) -> dict[str, Any]:
        done = run_until(kind, RECIPE, [f"seed={seed}", *ARMS[arm]], store, None, False)
        return {item.stage.name: item.artifact.path for item in done}

    on = artifacts("merge", ON)
    students = {
        WARM: on["merge warm-start"] / "model",
        ON: on["merge"] / "model",
        OFF: artifacts("merge", OFF)["merge"] / "model",
    }
    teacher, data = artifacts("teacher", ON)["teacher"] / "model", artifacts("data", ON)["data"]
    return divergences(teacher, students, data, seed)


def main() -> None:
    """Train, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of one alone nothing is written")
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once")
    options = parser.parse_args()
    with get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        found = pool.starmap(of_seed, [(seed, options.store) for seed in options.seeds], chunksize=1)
    names = (WARM, OFF, ON)
    kl = {text: {name: [each[text][name] for each in found] for name in names} for text in TEXTS}
    # Every seed has held-out rows of its own: each row counts once.
    flat = {text: {name: [list(chain(*seeds))] for name, seeds in arms.items()} for text, arms in kl.items()}
    gains = {text: paired(arms[ON], arms[OFF]) for text, arms in flat.items()}
    for text, arms in kl.items():
        for name, seeds in arms.items():
            print(f"{TEXTS[text]}, {name}: {[round(sum(items) / len(items), 4) for items in seeds]}", flush=True)
        print(gains[text], flush=True)
    if len(options.seeds) == 1:
        return
    write_result(
        "on_policy_few",
        "python benchmarks/on_policy_few.py",
        description=f"newspaper sentences, SmolLM2-135M to 27 of its 30 layers, {WORDS} rows with words and {PROMPTS} "
        f"prompts more; nats per token after held-out prompts; {len(found)} seeds, {len(flat['data'][ON][0])} rows",
        bars=[
            bar(f"{ON} - {OFF}, few rows with words: held-out {TEXTS[text]}", gain, "<=", 0.0, unit="nats")
            for text, gain in gains.items()
        ],
        samples={f"{TEXTS[text]}, {name}": seeds for text, arms in kl.items() for name, seeds in arms.items()},
        metrics={
            "kl": {text: {name: [summary(items) | {"mean": sum(items) / len(items)} for items in seeds]
                          for name, seeds in arms.items()} for text, arms in kl.items()},
            "paired": {text: {f"{ON} - {OFF}": gains[text], f"{ON} - {WARM}": paired(flat[text][ON], flat[text][WARM])}
                       for text in TEXTS},
        },
        seeds=options.seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
