"""Written dates to ISO 8601 by a T5 of three of its teacher's eight blocks, over three seeds, and what a request costs.

python recipes/buzzfeed/make_data.py && python benchmarks/buzzfeed.py
"""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, bar, paired, summary, write_result

import distill2edge as d2e
from distill2edge.cost import formulas
from distill2edge.cost.catalogue import load_catalogue
from distill2edge.data.examples import Row
from distill2edge.data.split_files import read_rows
from distill2edge.pipeline.artifact import Artifact
from distill2edge.recipe.load import load_recipe

RECIPE = ROOT / "recipes" / "buzzfeed" / "dates.yaml"
SEEDS = (0, 1, 2)
MODELS = {"teacher": "teacher", "student": "student", "control": "control", "int8": "student-onnx-int8",
          "q8": "student-gguf-Q8_0"}  # fmt: skip

# What an API would have to be told with every request; the student was trained for nothing else.
INSTRUCTION = (
    "Rewrite the date as ISO 8601 (YYYY-MM-DD). It may be English, Spanish, French or German, and its month a Roman "
    "figure. Two digits of a year stand for 1930 to 2029. Answer with the date alone."
)


def main() -> None:
    """Run what is not in the store, compare every model on the same rows, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--out", type=Path, default=None, help="run directory of the first seed")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    options = parser.parse_args()
    scores: dict[str, list[list[float]]] = {name: [] for name in MODELS}
    seconds: list[dict[str, float]] = []
    rows: list[Row] = []
    for seed in options.seeds:

        def stages(kind: str, seed: int = seed) -> dict[str, Artifact]:
            return d2e.run(RECIPE, {"seed": seed}, upto=kind, store=options.store).of(kind)

        verified = stages("verify")["verify"].path / "models"
        rows = sorted(read_rows(stages("data")["data"].path, "test"), key=lambda row: row.id)
        for name, file in MODELS.items():
            scores[name].append(scores_by_id(verified, file, [row.id for row in rows]))
        work = {**stages("fit"), **stages("signal"), **stages("distill"), **stages("verify")}
        seconds.append({name: done.manifest["wall_s"] for name, done in work.items()})
        print(seed, {name: round(float(np.mean(found[-1])), 4) for name, found in scores.items()}, flush=True)
    train = read_rows(stages("data")["data"].path, "train")
    simple = {"dateutil": [by_dateutil(rows)], "nearest training row": [nearest(train, rows)]}
    report = d2e.run(RECIPE, {"seed": options.seeds[0]}, store=options.store, out=options.out).report.document
    write(options.seeds, scores, simple, seconds, report, tokens_of(rows))


def write(
    seeds: list[int],
    scores: dict[str, list[list[float]]],
    simple: dict[str, list[list[float]]],
    seconds: list[dict[str, float]],
    report: dict[str, Any],
    tokens: dict[str, float],
) -> None:
    """The result file, its bars first."""
    means = {name: [float(np.mean(seed)) for seed in arm] for name, arm in {**scores, **simple}.items()}
    kept = paired(scores["student"], scores["teacher"], ratio=True)
    comparison, stated = report["cost"]["comparison"], load_recipe(RECIPE).cost
    assert stated.tokens is not None
    assert abs(stated.tokens.input / tokens["input"] - 1) < 0.02, f"the recipe states other tokens: {tokens}"
    assert abs(stated.tokens.output / tokens["output"] - 1) < 0.02, f"the recipe states other tokens: {tokens}"
    kept_blocks = len(report["student"]["layers"]) + len(report["student"]["decoder_layers"])
    few = "" if len(seeds) >= len(SEEDS) else f"{len(seeds)} of {len(SEEDS)} seeds: a first figure, not yet a claim"
    blocks = report["student"]["of"] + report["student"]["decoder_of"]
    write_result(
        "buzzfeed",
        "python recipes/buzzfeed/make_data.py && python benchmarks/buzzfeed.py",
        description="written dates to ISO 8601; a T5 of 3 of its teacher's 8 blocks; the 400 held-out dates are the "
        "same under all seeds",
        bars=[
            bar("buzzfeed: teacher's exact match, worst seed", min(means["teacher"]), ">=", 0.97, note=few),
            bar("buzzfeed: student / teacher, exact match", kept, ">=", 0.97, note=few),
            bar("buzzfeed: share of the teacher's blocks", kept_blocks / blocks, "<=", 0.5),
            bar("buzzfeed: onnx:int8 - student, exact match", paired(scores["int8"], scores["student"]), ">=", -0.005),
            bar("buzzfeed: gguf:Q8_0 - student, exact match", paired(scores["q8"], scores["student"]), ">=", -0.005),
            bar(
                f"buzzfeed: cost saved against {stated.teacher.api} at {stated.utilisation:.0%} busy",
                comparison["saving"], ">=", 0.8,
                note=f"gone if that price falls by {comparison['teacher_price_drop_that_erases']:.1%}; whether that "
                "model normalises dates as well was not measured",
            ),
        ],
        samples={f"exact match {name}": values for name, values in means.items()},
        metrics={
            "exact_match": {name: summary(values) for name, values in means.items()},
            "paired, mean over seeds, interval over items": {
                "student - control": paired(scores["student"], scores["control"]),
                "student - teacher": paired(scores["student"], scores["teacher"]),
                "student - dateutil": paired(scores["student"], simple["dateutil"] * len(seeds)),
                "int8 - student": paired(scores["int8"], scores["student"]),
                "q8 - student": paired(scores["q8"], scores["student"]),
            },
            "seconds": seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "models": {
                entry["id"]: {key: entry[key] for key in ("parameters", "size_bytes", "kl_student")}
                for entry in report["models"]
            },
            "speedups": report["bench"]["speedups"],
            "cost": {
                "comparison": comparison,
                "one_off": report["cost"]["one_off"],
                "tokens": tokens,
                "against every API of the catalogue": against_all(comparison, tokens),
            },
        },
        seeds=seeds,
    )  # fmt: skip


def scores_by_id(directory: Path, name: str, ids: Sequence[str]) -> list[float]:
    """The verify stage's score of each row of a model, in the order of `ids`."""
    rows = json.loads((directory / "rows-teacher.json").read_text(encoding="utf-8"))["rows"]
    found = json.loads((directory / f"{name}.json").read_text(encoding="utf-8"))["result"]["score"]
    by_id = {row["row"]: score for row, score in zip(rows, found, strict=True)}
    return [by_id[each] for each in ids]


def by_dateutil(rows: Sequence[Row]) -> list[float]:
    """What one import gives: dateutil, told that the day comes first and what two digits of a year mean."""
    from dateutil import parser

    found = []
    for row in rows:
        try:
            date = parser.parse(row.prompt, dayfirst=True)
            year = date.year - 100 if date.year > 2029 else date.year
            found.append(float(f"{year:04d}-{date.month:02d}-{date.day:02d}" == row.response))
        except (ValueError, OverflowError):
            found.append(0.0)
    return found


def nearest(train: Sequence[Row], rows: Sequence[Row]) -> list[float]:
    """The answer of the training row that shares most character trigrams (Jaccard)."""
    grams = [trigrams(row.prompt) for row in train]
    index: dict[str, list[int]] = {}
    for number, found in enumerate(grams):
        for gram in found:
            index.setdefault(gram, []).append(number)
    sizes = np.array([len(found) for found in grams])
    scores = []
    for row in rows:
        mine, shared = trigrams(row.prompt), np.zeros(len(train))
        for gram in mine:
            shared[index.get(gram, [])] += 1
        best = int(np.argmax(shared / (sizes + len(mine) - shared)))
        scores.append(float(train[best].response == row.response))
    return scores


def trigrams(text: str) -> set[str]:
    """Runs of three characters, ends marked."""
    padded = f"^{text}$"
    return {padded[start : start + 3] for start in range(len(padded) - 2)}


def tokens_of(rows: Sequence[Row]) -> dict[str, float]:
    """Mean tokens of a request to an API: instruction and date in, answer out, as SmolLM2's tokenizer counts them.

    The marks of a chat template are left out: they differ between hosts, and count in the student's favour.
    """
    from distill2edge.gguf.gguf_tokenizer import build_tokenizer, special_ids
    from distill2edge.gguf.reader import read_gguf
    from distill2edge.intake import bundled
    from distill2edge.util.progress import for_stream

    file = read_gguf(bundled.fetch("smollm2-135m-instruct", for_stream(False)))
    tokenizer: Any = build_tokenizer(file, special_ids(file))

    def count(texts: Sequence[str]) -> float:
        return float(np.mean([len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]))

    return {
        "input": count([f"{INSTRUCTION}\n{row.prompt}" for row in rows]),
        "output": count([row.response for row in rows]) + 1,  # its end
    }


def against_all(comparison: dict[str, Any], tokens: dict[str, float]) -> dict[str, dict[str, float | None]]:
    """The student against every hosted model of the catalogue: saving, and the price cut that erases it."""
    found = {}
    for name, api in load_catalogue().api.items():
        cost = formulas.api_per_1000(
            tokens["input"], 0.0, tokens["output"], api.input.value, api.cached.value, api.output.value
        )
        student = comparison["student_per_1000"]
        found[name] = {
            "usd_per_1000": cost,
            "saving": formulas.saving(cost, student),
            "price_cut_that_erases": formulas.price_drop_that_erases(cost, student),
        }
    return found


if __name__ == "__main__":
    main()
