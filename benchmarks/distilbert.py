"""DistilBERT's three figures at once, on movie polarity with MiniLM as the teacher, over three seeds.

python benchmarks/distilbert.py            # trains what is not in the store, then times
python benchmarks/distilbert.py --only 1   # puts one seed into the store, writes nothing
python benchmarks/distilbert.py --add 2    # one seed beside those of the result file, whose rows and times are kept

Every seed has splits of its own, so the paired test pools the seeds' held-out rows. Times are of seed 0's models: one
text at a time, the held-out texts in turn, arms interleaved.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, bar, interleave, paired, ratio, summary, write_result

import distill2edge as d2e
from distill2edge.bench import contention
from distill2edge.data.encode_texts import encode_texts
from distill2edge.data.split_files import read_rows
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.runtimes import open_runtime

RECIPE = ROOT / "recipes" / "distilbert" / "movies.yaml"
SEEDS = (0, 1, 2)
TEXTS, ROUNDS, CONTEXT = 200, 9, 64
SECONDS, CORRECT, TFIDF = "seconds per text, ", "correct, ", "TF-IDF + logistic regression"
# arm: stage kind, which of its artifacts, its model file, runtime
ARMS = {
    "teacher, torch fp32": ("fit", None, "model", "torch"),
    "student, torch fp32": ("merge", "merge", "model", "torch"),
    "student, onnx:fp32": ("export", "export student/onnx:fp32", "", "onnxruntime"),
    "student, onnx:int8": ("export", "export student/onnx:int8", "", "onnxruntime"),
    "student, onnx:int8-dynamic": ("export", "export student/onnx:int8-dynamic", "", "onnxruntime"),
    "student, gguf:Q8_0": ("export", "export student/gguf:Q8_0", "model.gguf", "llama.cpp"),
}


def stages(kind: str, seed: int, store: Path | None) -> dict[str, Path]:
    """Artifacts of one kind of stage, by the stage's name, from the store or made now."""
    found = d2e.run(RECIPE, {"seed": seed}, upto=kind, store=store).of(kind)
    return {name: artifact.path for name, artifact in found.items()}


def baseline(rows_dir: Path) -> list[int]:
    """Right or wrong of TF-IDF and logistic regression on the test rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train, test = (read_rows(rows_dir, split) for split in ("train", "test"))
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=1000)
    )
    model.fit([row.prompt for row in train], [row.label for row in train])
    found = model.predict([row.prompt for row in test])
    return [int(label == row.label) for label, row in zip(found, test, strict=True)]


def of_samples(samples: dict[str, list[Any]], what: str) -> dict[str, list[Any]]:
    """The samples of a kind, by what they are of."""
    return {name.removeprefix(what): values for name, values in samples.items() if name.startswith(what)}


def seconds_per_text(runtime: Any, texts: list[list[int]]) -> Callable[[], float]:
    """One arm: mean seconds of a text, one at a time."""

    def run() -> float:
        begin = time.perf_counter()
        for ids in texts:
            runtime.classify(ids)
        return (time.perf_counter() - begin) / len(texts)

    return run


def timings(store: Path | None, threads: int) -> tuple[dict[str, list[float]], Any]:
    """Seconds a text of every arm, per round, and how busy the machine was."""
    rows = read_rows(stages("data", 0, store)["data"], "test")[:TEXTS]
    arms = {}
    for arm, (kind, name, file, runtime) in ARMS.items():
        directory = stages(kind, 0, store)[name or kind]
        tokens = directory / "model" if kind in ("fit", "merge") else directory
        if runtime == "llama.cpp":
            tokens = stages("merge", 0, store)["merge"] / "model"
        ids = [row.ids for row in encode_texts(rows, load_tokenizer(tokens), CONTEXT)]
        opened = open_runtime(runtime, directory / file, threads=threads, context=CONTEXT)
        arms[arm] = seconds_per_text(opened, ids)
    probe = contention.Probe(threads)
    samples = interleave(arms, ROUNDS, log=print)
    busy = probe.stop()
    return samples, {**busy, "reasons": contention.reasons(busy, threads)}


def main() -> None:
    """Train, score, time, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--only", type=int, default=None, metavar="SEED", help="fill the store for this seed and stop")
    parser.add_argument("--add", type=int, default=None, metavar="SEED", help="to those of the result file")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    if options.only is not None:
        stages("verify", options.only, options.store)
        return

    seeds, correct = list(SEEDS), {}
    if options.add is not None:
        kept_file = json.loads((RESULTS / "distilbert.json").read_text(encoding="utf-8"))
        seeds = [*kept_file["seeds"], options.add]
        assert len(set(seeds)) == len(seeds), f"seed {options.add} is in the result file"
        correct = of_samples(kept_file["samples"], CORRECT)
        samples, busy = of_samples(kept_file["samples"], SECONDS), kept_file["metrics"]["contention"]
        models, threads = kept_file["metrics"]["models"], kept_file["metrics"]["threads"]
    for seed in seeds if options.add is None else [options.add]:
        verified = stages("verify", seed, options.store)["verify"]
        document = json.loads((verified / "verify.json").read_text(encoding="utf-8"))
        document["correct"][TFIDF] = baseline(stages("data", seed, options.store)["data"])
        for name, items in document["correct"].items():
            correct[name] = [*correct.get(name, []), *items]
        if seed == 0:
            models = {model["id"]: model for model in document["models"]}
    if options.add is None:
        threads = options.threads
        samples, busy = timings(options.store, threads)
    student = "student/onnx:int8-dynamic"
    kept = paired([correct["student"]], [correct["teacher"]], ratio=True)
    fewer = 1 - models["student"]["parameters"] / models["teacher"]["parameters"]
    same = ratio(samples, "teacher, torch fp32", "student, torch fp32")
    shipped = ratio(samples, "teacher, torch fp32", "student, onnx:int8-dynamic")
    lost = paired([correct["student"]], [correct[student]])
    write_result(
        "distilbert",
        "python benchmarks/distilbert.py",
        description="movie polarity, MiniLM fitted, its student of three layers with a trimmed vocabulary; "
        f"{len(seeds)} seeds, {len(correct['student'])} held-out rows; times at batch 1, {threads} thread(s)",
        bars=[
            bar("distilbert: student's accuracy over the teacher's", kept, ">=", 0.97, unit="x"),
            bar("distilbert: parameters saved", fewer, ">=", 0.40),
            bar("distilbert: student's speed over the teacher's, both torch fp32", same, ">=", 1.63, unit="x"),
            bar("distilbert: onnx:int8-dynamic over the teacher in torch fp32, batch 1", shipped, ">=", 4.0, unit="x"),
            bar(
                "distilbert: size of onnx:int8-dynamic over the teacher's",
                models[student]["size_bytes"] / models["teacher"]["size_bytes"],
                "<=",
                0.25,
            ),
            bar("distilbert: accuracy that onnx:int8-dynamic loses to the student", lost, "<=", 0.005),
        ],
        samples={
            **{f"{SECONDS}{arm}": values for arm, values in samples.items()},
            **{f"{CORRECT}{name}": items for name, items in correct.items()},
        },
        metrics={
            "accuracy": {
                name: {
                    "all": statistics.fmean(items),
                    "seeds": [
                        statistics.fmean(items[at : at + len(items) // len(seeds)])
                        for at in range(0, len(items), len(items) // len(seeds))
                    ],
                }
                for name, items in correct.items()
            },
            "paired": {
                "student - teacher": paired([correct["student"]], [correct["teacher"]]),
                "student - control": paired([correct["student"]], [correct["control"]]),
                "student - TF-IDF": paired([correct["student"]], [correct[TFIDF]]),
            },
            "models": {
                name: {key: model[key] for key in ("parameters", "size_bytes", "kl_student")}
                for name, model in models.items()
            },
            "speed": {
                arm: {
                    "ms": 1000 * summary(values)["median"],
                    "ratio": (each := ratio(samples, "teacher, torch fp32", arm)),
                    "time saved": 1 - 1 / each.value,
                }
                for arm, values in samples.items()
            },
            "threads": threads,
            "contention": busy,
        },
        seeds=seeds,
    )


if __name__ == "__main__":
    main()
