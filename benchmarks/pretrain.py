"""DistilBERT's task-agnostic form: is a student better for being distilled on masked tokens before it sees a label?

python benchmarks/pretrain.py              # trains what is not in the store, scores, writes
python benchmarks/pretrain.py --seeds 1    # puts one seed into the store and prints its scores, writes nothing

Three students of the same layers and labels: distilled on masked tokens first; the same without, from the same layers
of the unfitted teacher (one step of pretraining is left, which makes its start); and from the layers of the teacher
that was fitted to the labels, which is the task-specific form of movies.yaml. Every seed has splits of its own, so the
paired tests pool the seeds' held-out rows.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, write_result

import distill2edge as d2e
from distill2edge.data.encode_texts import encode_texts
from distill2edge.data.split_files import read_rows
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.load import load_recipe
from distill2edge.runtimes import open_runtime

RECIPE = ROOT / "recipes" / "distilbert" / "pretrain.yaml"
SEEDS = (0, 1, 2)
TEACHER, PRETRAINED, RAW, FITTED = "teacher", "pretrained", "unfitted teacher's layers", "fitted teacher's layers"
ARMS: dict[str, tuple[str, ...]] = {
    PRETRAINED: (),
    RAW: ("student.pretrain.max_steps=1", "student.pretrain.teacher.max_steps=1"),
    FITTED: ("student.pretrain=null",),
}


def made(kind: str, arm: str, seed: int, store: Path | None) -> Path:
    """The artifact of the stage of that kind, from the store or made now."""
    found = d2e.run(RECIPE, [f"seed={seed}", *ARMS[arm]], upto=kind, store=store).of(kind)
    return list(found.values())[-1].path


def correct(directory: Path, rows: list[Any], longest: int) -> list[int]:
    """Right or wrong of a classifier on each row."""
    encoded = encode_texts(rows, load_tokenizer(directory / "model"), longest)
    runtime = open_runtime("torch", directory / "model", threads=1, context=longest)
    return [int(int(runtime.classify(row.ids).argmax()) == row.label) for row in encoded]


def main() -> None:
    """Train, score, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS, help="of one alone nothing is written")
    options = parser.parse_args()
    longest = load_recipe(RECIPE).data.max_length
    right: dict[str, list[list[int]]] = {name: [] for name in (TEACHER, *ARMS)}
    for seed in options.seeds:
        models = {arm: made("merge", arm, seed, options.store) for arm in ARMS}
        models[TEACHER] = made("fit", FITTED, seed, options.store)
        rows = read_rows(made("data", FITTED, seed, options.store), "test")
        for name, seeds in right.items():
            seeds.append(correct(models[name], rows, longest))
            print(f"seed {seed}, {name}: {sum(seeds[-1]) / len(rows):.4f}", flush=True)
    if len(options.seeds) == 1:
        return
    # Every seed has held-out rows of its own: each row counts once.
    flat = {name: [[item for items in seeds for item in items]] for name, seeds in right.items()}
    kept = paired(flat[PRETRAINED], flat[TEACHER], ratio=True)
    gains = {name: paired(flat[PRETRAINED], flat[name]) for name in (RAW, FITTED)}
    write_result(
        "pretrain",
        "python benchmarks/pretrain.py",
        description="movie polarity, every second layer of MiniLM, distilled on masked tokens first; "
        f"{len(options.seeds)} seeds, {len(flat[TEACHER][0])} held-out rows",
        bars=[
            bar("pretrained student / teacher, accuracy", kept, ">=", 0.9),
            *(
                bar(f"pretrained - not pretrained, from the {name}, accuracy", gain, ">=", 0.0)
                for name, gain in gains.items()
            ),
        ],
        samples={f"correct, {name}": seeds for name, seeds in right.items()},
        metrics={"accuracy": {name: [sum(items) / len(items) for items in seeds] for name, seeds in right.items()}},
        seeds=list(options.seeds),
    )


if __name__ == "__main__":
    main()
