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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result
from on_policy import SEEDS, TEXTS, WARM, divergences, pooled, samples_of, summaries

import distill2edge as d2e

RECIPE = ROOT / "recipes" / "on-policy" / "few-words.yaml"
WORDS, PROMPTS, PASSES = 64, 320, 16
"""Rows with words, further prompts, and passes over the former that make as many tokens as the recipe trains on."""
ON, OFF = "on-policy", "off-policy alone"
ARMS = {ON: (), OFF: (f"data.splits.train={WORDS}", f"distill.epochs={PASSES}", "distill.on_policy=null")}


def of_seed(seed: int, store: Path | None) -> tuple[dict[str, dict[str, list[float]]], dict[str, dict[str, int]]]:
    """Train what is not in the store.

    Returns:
        text -> arm -> nats per token of each held-out row; arm -> tokens with a teacher's score that it trained on
        (`trained`), and different ones (`different`).
    """

    def artifacts(kind: str, arm: str) -> dict[str, Any]:
        return d2e.run(RECIPE, [f"seed={seed}", *ARMS[arm]], upto=kind, store=store).of(kind)

    on, off = artifacts("merge", ON), artifacts("merge", OFF)
    students = {WARM: on["merge warm-start"], ON: on["merge"], OFF: off["merge"]}
    teacher, data = artifacts("teacher", ON)["teacher"].path / "model", artifacts("data", ON)["data"].path
    trained = {arm: [each.facts["supervised_tokens"] for each in artifacts("distill", arm).values()] for arm in ARMS}
    words = trained[OFF][0] // PASSES
    written = artifacts("signal", ON)["signal on-policy 1"].facts["written_tokens"]
    tokens = {arm: {"trained": sum(counts), "different": words} for arm, counts in trained.items()}
    tokens[ON]["different"] += written
    return divergences(teacher, {arm: each.path / "model" for arm, each in students.items()}, data, seed), tokens


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
    kl = {text: {name: [each[text][name] for each, _ in found] for name in names} for text in TEXTS}
    flat = pooled(kl)
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
        samples=samples_of(kl),
        metrics={
            "kl": summaries(kl),
            "paired": {text: {f"{ON} - {OFF}": gains[text], f"{ON} - {WARM}": paired(flat[text][ON], flat[text][WARM])}
                       for text in TEXTS},
            "tokens with a teacher's score": [tokens for _, tokens in found],
        },
        seeds=options.seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
