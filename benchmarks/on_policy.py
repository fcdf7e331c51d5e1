"""On-policy rounds after a warm start against off-policy training alone, on as many teacher-scored tokens.

python benchmarks/on_policy.py            # trains what is not in the store, then compares
python benchmarks/on_policy.py --only 1   # puts one seed into the store, writes nothing

Off-policy alone trains on 1,024 rows of the data; the other arm on 512 of those, then on 512 texts of its own. Both go
over their rows as often. The held-out rows are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, summary, write_result

from distill2edge.run import run_until

RECIPE = ROOT / "recipes" / "on-policy" / "sentences.yaml"
SEEDS = (0, 1, 2)
ARMS = {"on-policy": (), "off-policy alone": ("data.splits.train=1024", "distill.on_policy=null")}


def artifacts(kind: str, arm: str, seed: int, store: Path | None) -> dict[str, Any]:
    """Artifacts of one kind of stage, by the stage's name, from the store or made now."""
    done = run_until(kind, RECIPE, [f"seed={seed}", *ARMS[arm]], store, None, False)
    return {item.stage.name: item.artifact for item in done}


def divergences(teacher_dir: Path, students: dict[str, Path], rows_dir: Path) -> dict[str, list[float]]:
    """Mean KL(teacher || student) in nats over the response tokens of each held-out row, of each student."""
    import torch
    from transformers import AutoTokenizer

    from distill2edge.architectures import load_model, logits_of
    from distill2edge.data.encode import encode_rows, read_rows

    tokenizer = AutoTokenizer.from_pretrained(teacher_dir, local_files_only=True)
    rows = encode_rows(read_rows(rows_dir, "test"), tokenizer, "plain", None, 64)
    teacher = load_model(teacher_dir, dtype=torch.float32).eval()
    found: dict[str, list[float]] = {}
    for name, directory in students.items():
        student = load_model(directory, dtype=torch.float32).eval()
        found[name] = []
        for row in rows:
            at = slice(row.prompt_length - 1, len(row.ids) - 1)
            with torch.inference_mode():
                p, q = (torch.log_softmax(logits_of(model, row.ids, 0)[at].float(), -1) for model in (teacher, student))
            found[name].append(float((p.exp() * (p - q)).sum(-1).mean()))
    return found


def main() -> None:
    """Train, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="SEED", help="fill the store for this seed and stop")
    options = parser.parse_args()
    if options.only is not None:
        for arm in ARMS:
            artifacts("merge", arm, options.only, options.store)
        return
    kl: dict[str, list[list[float]]] = {name: [] for name in (*ARMS, "warm start")}
    scored: dict[str, list[int]] = {name: [] for name in ARMS}
    for seed in SEEDS:
        students = {}
        for arm in ARMS:
            merged = artifacts("merge", arm, seed, options.store)
            students[arm] = merged["merge"].path / "model"
            if arm == "on-policy":
                students["warm start"] = merged["merge warm-start"].path / "model"
            rows = artifacts("distill", arm, seed, options.store).values()
            scored[arm].append(sum(item.facts["supervised_tokens"] for item in rows))
        teacher = artifacts("teacher", "on-policy", seed, options.store)["teacher"].path / "model"
        data = artifacts("data", "on-policy", seed, options.store)["data"].path
        for name, items in divergences(teacher, students, data).items():
            kl[name].append(items)
    # Every seed has held-out rows of its own: each row counts once.
    flat = {name: [[item for seed in seeds for item in seed]] for name, seeds in kl.items()}
    gain = paired(flat["on-policy"], flat["off-policy alone"])
    write_result(
        "on_policy",
        "python benchmarks/on_policy.py",
        description="newspaper sentences, SmolLM2-135M to its lowest 16 layers; held-out KL(teacher || student), nats "
        f"per token; {len(SEEDS)} seeds, {len(flat['on-policy'][0])} rows",
        bars=[
            bar(
                "on-policy: held-out KL minus that of off-policy alone, as many teacher-scored tokens",
                gain, "<=", 0.0, unit="nats",
            )
        ],
        samples={f"KL of each row, {name}": seeds for name, seeds in kl.items()},
        metrics={
            "kl": {name: [summary(items) | {"mean": sum(items) / len(items)} for items in seeds]
                   for name, seeds in kl.items()},
            "paired": {
                "on-policy - off-policy alone": gain,
                "on-policy - warm start": paired(flat["on-policy"], flat["warm start"]),
            },
            "teacher-scored tokens trained on": scored,
        },
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
