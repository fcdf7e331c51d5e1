"""How many of a sentence encoder's neighbours its students keep: three layers, a table of token vectors, one untrained.

python benchmarks/embedding.py                     # runs what is not in the store, writes the result
python benchmarks/embedding.py --students table    # the table alone: bars of the others are "not measured"

The seeds share rows, teacher and vectors; each trains its student anew. Recall is over the same 1,000 held-out texts
for all; an interval is over texts, each averaged over its seeds. Speeds are those of the first seed's bench stage: a
request is one text, at batch 1. The table before training is what model2vec makes: the floor.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, bar, paired, seed_runs, write_result

import distill2edge as d2e
from distill2edge.models.model_file import slug_of
from distill2edge.runtimes import open_runtime
from distill2edge.tasks.embedding.work import WORK
from distill2edge.util.bootstrap import Figure, mean_interval
from distill2edge.util.files import read_json
from distill2edge.util.threads import available_threads
from distill2edge.verify import neighbours
from distill2edge.verify.correlation import spearman

SEEDS = (0, 1, 2)
TEACHER = "teacher/onnx:int8-dynamic"
"""The teacher's own fastest file."""
RECIPES = ROOT / "recipes" / "embedding"
STUDENTS = {"three": ("3 layers", RECIPES / "minilm.yaml", "student/onnx:int8-dynamic"),
            "table": ("table", RECIPES / "table.yaml", "student/onnx:int8")}  # fmt: skip
"""By name: what it is called, its recipe, and the file of it whose speed counts."""
FLOOR, RARE_WORDS = "table before training (model2vec)", "TF-IDF"


class Student:
    """The runs of a student, one of each seed."""

    def __init__(self, name: str, store: Path | None, out: Path) -> None:
        self.label, recipe, self.file = STUDENTS[name]
        self.runs = seed_runs(recipe, SEEDS, store, out / name)
        self.verified = [run.artifacts["verify"].document("verify.json") for run in self.runs]
        self.bench = self.runs[0].report.document["bench"]

    def scores(self, model: str) -> list[list[float]]:
        """[seeds][texts] recall of a model."""
        return [document["row_scores"]["scores"][model] for document in self.verified]

    def size(self, model: str) -> int:
        """Bytes of a model."""
        (found,) = [each["size_bytes"] for each in self.verified[0]["models"] if each["id"] == model]
        return int(found)

    def speed(self) -> Figure | None:
        """How many times as fast its file is as the teacher's; None where it was not measured."""
        for each in self.bench["speedups"]:
            if each["cell"] == f"{self.file}@cpu" and each["against"] == f"{TEACHER}@cpu":
                return Figure(**{key: each["ratio"][key] for key in ("value", "low", "high", "n")})
        return None

    def pairs_alike(self) -> list[float]:
        """Of each seed: Spearman's correlation of all pairs' cosines by student and teacher."""
        found = []
        for run in self.runs:
            sides = [_vectors(run, model) for model in ("teacher", "student")]
            above = np.triu_indices(len(sides[0]), 1)
            alike = [neighbours.similarities(side)[above].astype(np.float64) for side in sides]
            found.append(float(np.mean(spearman(*alike))))
        return found


def _vectors(run: d2e.Run, model: str) -> np.ndarray:
    rows = read_json(run.artifacts["verify"].path / "models" / f"{slug_of(model)}.json")["result"]["vectors"]
    return np.array(rows, dtype=np.float32)


def floor(run: d2e.Run) -> list[float]:
    """Recall of each text by the table before training."""
    recipe, student = run.recipe, run.artifacts["student"].path / "model"
    rows = WORK.encoded(recipe, run.artifacts["data"].path, student, "test")[: recipe.verify.rows]
    runtime: Any = open_runtime("torch", student, threads=available_threads(), context=recipe.data.max_length)
    vectors = np.array([runtime.embed(row.ids) for row in rows])
    wanted = neighbours.nearest(neighbours.similarities(_vectors(run, "teacher")))
    return neighbours.recall(neighbours.nearest(neighbours.similarities(vectors)), wanted)


def means(seeds: list[list[float]]) -> Figure:
    """Mean over texts, each averaged over its seeds."""
    return mean_interval([sum(row) / len(row) for row in zip(*seeds, strict=True)])


def main() -> None:
    """Run, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="run directory; by default a temporary one")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    found = {name: Student(name, options.store, out) for name in options.students}
    three, table = found.get("three"), found.get("table")
    recall = {each.label: each.scores(each.file) for each in found.values()}
    first = next(iter(found.values()))
    if table is not None:
        recall[FLOOR] = [floor(table.runs[0])] * len(SEEDS)

    def gap(one: str, other: str) -> Figure | None:
        return paired(recall[one], recall[other]) if one in recall and other in recall else None

    def over(student: Student | None) -> float | None:
        return None if student is None else student.size(student.file) / student.size(TEACHER)

    name = "embedding"
    write_result(
        "embedding",
        "python benchmarks/embedding.py",
        description="neighbours of all-MiniLM-L6-v2 that its students keep: recall@10 among 1,000 sentences of film "
        f"reviews; 6,000 sentences to learn from, {len(SEEDS)} seeds",
        bars=[
            bar(f"{name}: recall@10 of three layers (onnx:int8-dynamic)",
                None if three is None else means(recall[three.label]), ">=", 0.6,
                note="the target is a guess that was made before any run"),
            bar(f"{name}: three layers - table, recall@10", gap("3 layers", "table"), ">", 0.0),
            bar(f"{name}: table - the same before training (model2vec), recall@10", gap("table", FLOOR), ">", 0.0),
            bar(f"{name}: speed of three layers over the teacher's own onnx:int8-dynamic",
                None if three is None else three.speed(), ">=", 1.5, unit="x"),
            bar(f"{name}: speed of the table over the same",
                None if table is None else table.speed(), ">=", 10, unit="x"),
            bar(f"{name}: bytes of three layers over that file's", over(three), "<=", 0.8),
            bar(f"{name}: bytes of the table over that file's", over(table), "<=", 0.2),
        ],
        samples={
            f"recall@10, {arm}": [sum(seed) / len(seed) for seed in seeds] for arm, seeds in recall.items()
        },
        metrics={
            "recall@10": {arm: means(seeds) for arm, seeds in recall.items()},
            RARE_WORDS: first.verified[0]["baseline"]["score"],
            "Spearman of all pairs' cosines with the teacher's": {
                each.label: each.pairs_alike() for each in found.values()
            },
            "size_bytes": {
                TEACHER: first.size(TEACHER), **{each.label: each.size(each.file) for each in found.values()}
            },
            "contended": {
                each.label: [cell["id"] for cell in each.bench["cells"] if cell["contended"]] for each in found.values()
            },
        },
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
