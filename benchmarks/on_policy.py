"""On-policy rounds after a warm start against off-policy training alone, on as many teacher-scored tokens.

python benchmarks/on_policy.py             # trains what is not in the store, then compares
python benchmarks/on_policy.py --seeds 3   # a pilot of one seed: prints, writes nothing

Off-policy alone trains on 512 rows of the data, twice. Two other arms take as many steps:

- *as many scored*: 256 of those rows, once, then a round on the same again and on 256 texts of its own, one and a half
  times. Its texts follow the prompts of the other 256 rows, whose responses nobody scores. So the teacher scores about
  as many different tokens as off-policy alone, which is what counts where scores are kept.
- *all rows first*: the 512 rows, once, then a round on 256 of them again and on 256 texts of its own, once. So as many
  tokens pass with a score, which is what counts where the teacher scores at every step, as in the paper; of different
  ones it scores half as many again.

The held-out rows are the same. Two divergences are measured there: KL(teacher || student) on the data's text, and
KL(student || teacher) on what the student itself writes after the same prompts.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from itertools import chain, compress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, summary, write_result

import distill2edge as d2e
from distill2edge.recipe.load import load_recipe

RECIPE = ROOT / "recipes" / "on-policy" / "sentences.yaml"
SEEDS = (0, 1, 2)
OWN_TOKENS = 20
WARM = "warm start"
KL = dict[str, dict[str, list[list[float]]]]
"""Text -> student -> seed -> nats per token of each held-out row."""
TEXTS = {"data": "KL(teacher || student) on the data", "own": "KL(student || teacher) on the student's own text"}
ON, AFTER_ALL, OFF = "on-policy, as many scored", "on-policy, all rows first", "off-policy alone"
ARMS = {
    ON: (),
    AFTER_ALL: ("data.splits.train=768", "distill.on_policy.warm_rows=512", "distill.on_policy.epochs=1"),
    OFF: ("distill.epochs=2", "distill.on_policy=null"),
}
GAINS = {
    f"{ON} - {OFF}, the same count of scored tokens": (ON, OFF),
    f"{AFTER_ALL} - {OFF}, the same count of tokens trained on": (AFTER_ALL, OFF),
}


def artifacts(kind: str, arm: str, seed: int, store: Path | None) -> dict[str, Any]:
    """Artifacts of one kind of stage, by the stage's name, from the store or made now."""
    return d2e.run(RECIPE, [f"seed={seed}", *ARMS[arm]], upto=kind, store=store).of(kind)


def apart(work: Callable[..., Any], *given: Any) -> Any:
    """What a call returns, made in a process of its own: a seed's training and writing leave gigabytes behind."""
    with get_context("spawn").Pool(1) as pool:
        return pool.apply(work, given)


def scored_tokens(arm: str, seed: int, store: Path | None) -> int:
    """Different tokens that the teacher scored for training: of the data, and of what the student wrote."""
    trained, scored = artifacts("distill", arm, seed, store), artifacts("signal", arm, seed, store)
    first = trained["distill" if arm == OFF else "distill warm-start"].facts["supervised_tokens"]
    epochs = load_recipe(RECIPE, ARMS[arm]).distill.epochs
    return round(first / epochs + sum(item.facts.get("written_tokens", 0) for item in scored.values()))


def divergences(
    teacher_dir: Path, students: dict[str, Path], rows_dir: Path, seed: int
) -> dict[str, dict[str, list[float]]]:
    """Of each text and student, nats per token of each held-out row.

    On the `data`'s responses KL(teacher || student); on its `own` texts KL(student || teacher). Rows after whose
    prompt a student wrote nothing are left out of every student's `own`.
    """
    import torch
    from transformers import AutoTokenizer

    from distill2edge.data.encode import encode_rows
    from distill2edge.data.split_files import read_rows
    from distill2edge.data.tokens import stop_token_ids
    from distill2edge.generation.writers import Sampling, open_writer
    from distill2edge.models.kinds import logits_of
    from distill2edge.models.loading import load_model
    from distill2edge.models.precision import default_device

    tokenizer = AutoTokenizer.from_pretrained(teacher_dir, local_files_only=True)
    rows = encode_rows(read_rows(rows_dir, "test"), tokenizer, "plain", None, 64)
    prompts = [row.ids[: row.prompt_length] for row in rows]
    stop = stop_token_ids(tokenizer, "plain")
    device = default_device()
    teacher = load_model(teacher_dir, dtype=torch.float32).eval().to(device)
    found: dict[str, dict[str, list[float]]] = {"data": {}, "own": {}}
    for name, directory in students.items():
        student = load_model(directory, dtype=torch.float32).eval().to(device)
        writer = open_writer(directory, tokenizer, Sampling(OWN_TOKENS, 1.0), stop, "transformers", None)
        answers = writer(prompts, seed)

        def both(ids: list[int], begin: int, student: Any = student) -> list[torch.Tensor]:
            with torch.inference_mode():
                logits = (logits_of(model, ids, 0)[begin - 1 : len(ids) - 1] for model in (teacher, student))
                return [torch.log_softmax(each.float(), -1) for each in logits]

        found["data"][name], found["own"][name] = [], []
        for row, prompt, answer in zip(rows, prompts, answers, strict=True):
            p, q = both(row.ids, row.prompt_length)
            found["data"][name].append(float((p.exp() * (p - q)).sum(-1).mean()))
            p, q = both([*prompt, *answer], len(prompt)) if answer else (torch.full((1, 1), torch.nan),) * 2
            found["own"][name].append(float((q.exp() * (q - p)).sum(-1).mean()))
    whole = [all(math.isfinite(value) for value in values) for values in zip(*found["own"].values(), strict=True)]
    found["own"] = {name: list(compress(values, whole)) for name, values in found["own"].items()}
    return found


def pooled(kl: KL) -> dict[str, dict[str, list[list[float]]]]:
    """All seeds' rows as one list, for `paired`: every seed has held-out rows of its own, and each row counts once."""
    return {text: {name: [list(chain(*seeds))] for name, seeds in arms.items()} for text, arms in kl.items()}


def samples_of(kl: KL) -> dict[str, list[list[float]]]:
    """The raw figures of a result file."""
    return {f"{TEXTS[text]}, {name}": seeds for text, arms in kl.items() for name, seeds in arms.items()}


def summaries(kl: KL) -> dict[str, dict[str, list[dict[str, float]]]]:
    """Of each text and student, a summary and the mean for every seed."""
    return {
        text: {
            name: [summary(items) | {"mean": sum(items) / len(items)} for items in seeds]
            for name, seeds in arms.items()
        }
        for text, arms in kl.items()
    }


def main() -> None:
    """Train, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of one alone nothing is written")
    options = parser.parse_args()
    kl: KL = {text: {name: [] for name in (*ARMS, WARM)} for text in TEXTS}
    scored: dict[str, list[int]] = {name: [] for name in ARMS}
    for seed in options.seeds:
        students = {}
        for arm in ARMS:
            merged = apart(artifacts, "merge", arm, seed, options.store)
            students[arm] = merged["merge"].path / "model"
            if arm == ON:
                students[WARM] = merged["merge warm-start"].path / "model"
            scored[arm].append(scored_tokens(arm, seed, options.store))
        teacher = artifacts("teacher", ON, seed, options.store)["teacher"].path / "model"
        data = artifacts("data", ON, seed, options.store)["data"].path
        for text, found in apart(divergences, teacher, students, data, seed).items():
            for name, items in found.items():
                kl[text][name].append(items)
                print(f"seed {seed}, {TEXTS[text]}, {name}: {sum(items) / len(items):.4f}", flush=True)
    flat = pooled(kl)
    gains = {text: {name: paired(arms[a], arms[b]) for name, (a, b) in GAINS.items()} for text, arms in flat.items()}
    if len(options.seeds) == 1:
        print(gains)
        return
    rows = len(flat["data"][ON][0])
    write_result(
        "on_policy",
        "python benchmarks/on_policy.py"
        + ("" if tuple(options.seeds) == SEEDS else f" --seeds {' '.join(map(str, options.seeds))}"),
        description="newspaper sentences, SmolLM2-135M to 27 of its 30 layers; nats per token after held-out prompts; "
        f"{len(options.seeds)} seeds, {rows} rows",
        bars=[
            bar(f"{name}: held-out {TEXTS[text]}", gain, "<=", 0.0, unit="nats")
            for text in TEXTS
            for name, gain in gains[text].items()
        ],
        samples=samples_of(kl),
        metrics={
            "kl": summaries(kl),
            "paired": {
                text: {**gains[text], f"{ON} - {WARM}": paired(flat[text][ON], flat[text][WARM])} for text in TEXTS
            },
            "distinct teacher-scored tokens": scored,
        },
        seeds=options.seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
