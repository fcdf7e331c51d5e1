"""Our ONNX int8 files of the MiniLM student against OpenVINO's int8 of the same weights: accuracy, speed, bytes.

pip install openvino==2026.4.1 nncf==3.4.0 && python benchmarks/openvino.py

The student is that of recipes/llm-to-encoder/movies.yaml, one for each seed. NNCF quantizes our fp32 graph after
training, as OpenVINO's documentation says for transformers, on the calibration texts. Arms take turns at each held-out
text, at batch 1.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, bar, paired, ratio, seed_runs, write_result

from distill2edge.data.model_inputs import InputForm
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.tasks.classification.work import WORK
from distill2edge.util.bootstrap import mean_interval
from distill2edge.util.progress import SilentProgress
from distill2edge.util.threads import available_threads

RECIPE = ROOT / "recipes" / "llm-to-encoder" / "movies.yaml"
SEEDS = (0, 1, 2)
SCHEMES = ("onnx:fp32", "onnx:int8", "onnx:int8-dynamic")
OURS, PEER, FIXED = "onnx:int8-dynamic", "openvino int8", "openvino int8, one length"
CALIBRATION = 200
"""Texts that NNCF sees, of the validation split."""
TIMED = 200
"""Held-out texts of which every arm is timed."""
Ask = Callable[[Sequence[int]], "np.ndarray"]


def main() -> None:
    """Export, quantize, score and time the student of each seed; write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=available_threads())
    options = parser.parse_args()
    work = Path(tempfile.mkdtemp())
    right: dict[str, list[list[float]]] = {}
    seconds: dict[str, list[float]] = {}
    sizes: dict[str, int] = {}
    for seed, run in zip(SEEDS, seed_runs(RECIPE, SEEDS, options.store, work / "run"), strict=True):
        recipe, rows_dir = run.recipe, run.artifacts["data"].path
        model = run.artifacts["merge"].path / "model"
        rows = {split: WORK.encoded(recipe, rows_dir, model, split) for split in ("validation", "test")}
        ids = {split: [row.ids for row in rows[split]] for split in rows}
        arms, weights = opened(
            model, recipe.data.max_length, ids["validation"][:CALIBRATION], work / f"{seed}", options.threads
        )
        sizes |= weights
        for name, ask in arms.items():
            scores = [float(int(ask(row.ids).argmax()) == row.label) for row in rows["test"]]
            right.setdefault(name, []).append(scores)
        for name, each in timed(arms, ids["test"][:TIMED]).items():
            seconds.setdefault(name, []).extend(each)
    report(right, seconds, sizes, options.threads)


def opened(
    model: Path, length: int | None, texts: Sequence[Sequence[int]], work: Path, threads: int
) -> tuple[dict[str, Ask], dict[str, int]]:
    """Every arm: token ids of a text -> logits [C]; and the bytes of its weights."""
    arms: dict[str, Ask] = {}
    sizes: dict[str, int] = {}
    for name in SCHEMES:
        out = work / name.replace(":", "-")
        out.mkdir(parents=True)
        facts = {"name": "student", "input": InputForm("classifier", max_length=length).dumps()}
        export_onnx(model, parse_scheme(name), facts, out, SilentProgress())
        runtime: Any = open_runtime("onnxruntime", out, threads=threads, context=length or 512)
        arms[name], sizes[name] = runtime.classify, sum(file.stat().st_size for file in out.glob("model.onnx*"))
    import nncf
    import openvino

    core = openvino.Core()
    graph = core.read_model(work / "onnx-fp32" / "model.onnx")
    names = [each.get_any_name() for each in graph.inputs]
    quantized = nncf.quantize(
        graph, nncf.Dataset([inputs(names, ids) for ids in texts]), model_type=nncf.ModelType.TRANSFORMER,
        preset=nncf.QuantizationPreset.MIXED, subset_size=len(texts),
    )  # fmt: skip
    openvino.save_model(quantized, work / "openvino.xml")
    sizes[PEER] = sum((work / f"openvino.{end}").stat().st_size for end in ("xml", "bin"))
    # Pinned threads are slower where anything else runs.
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "ENABLE_CPU_PINNING": False}
    request = core.compile_model(quantized, "CPU", settings).create_infer_request()
    arms[PEER] = lambda ids: np.asarray(request.infer(inputs(names, ids))[0][0])
    if length is not None:
        quantized.reshape({name: [1, length] for name in names})
        fixed = core.compile_model(quantized, "CPU", settings).create_infer_request()
        arms[FIXED] = lambda ids: np.asarray(fixed.infer(inputs(names, ids, length))[0][0])
    return arms, sizes


def inputs(names: Sequence[str], ids: Sequence[int], length: int | None = None) -> dict[str, np.ndarray]:
    """What the graph reads of a text [1, L] int64, with padding up to `length`."""
    rest = 0 if length is None else length - len(ids)
    known = {"input_ids": [*ids, *[0] * rest], "attention_mask": [1] * len(ids) + [0] * rest}
    return {name: np.array([known.get(name, [0] * (len(ids) + rest))], dtype=np.int64) for name in names}


def timed(arms: Mapping[str, Ask], texts: Sequence[Sequence[int]]) -> dict[str, list[float]]:
    """Seconds of each text by each arm; the arms take turns, and the first arm is another at each text."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    order = list(arms)
    for at, ids in enumerate(texts):
        for name in (*order[at % len(order) :], *order[: at % len(order)]):
            start = time.perf_counter()
            arms[name](ids)
            found[name].append(time.perf_counter() - start)
    return found


def report(
    right: Mapping[str, list[list[float]]], seconds: Mapping[str, list[float]], sizes: Mapping[str, int], threads: int
) -> None:
    """Write the result."""
    fastest = min((PEER, FIXED), key=lambda name: float(np.median(seconds[name])))
    speed = {name: ratio(seconds, name, fastest) for name in ("onnx:int8", OURS)}
    write_result(
        "openvino",
        "python benchmarks/openvino.py",
        description=f"MiniLM student of three layers, {len(SEEDS)} seeds, {len(right[OURS][0])} held-out rows, "
        f"batch 1, {threads} threads; a ratio of seconds for each text",
        bars=[bar(f"speed of {fastest} over {name}", figure, ">=", 1.5, unit="x") for name, figure in speed.items()]
        + [bar(f"accuracy, {fastest} - {OURS}", paired(right[fastest], right[OURS]), ">=", 0.0)],
        samples={f"ms, {name}": [1e3 * each for each in values] for name, values in seconds.items()},
        metrics={
            "accuracy": {
                name: mean_interval([sum(row) / len(row) for row in zip(*seeds, strict=True)])
                for name, seeds in right.items()
            },
            "median ms": {name: 1e3 * float(np.median(values)) for name, values in seconds.items()},
            "size_bytes": sizes,
        },
        seeds=SEEDS,
    )


if __name__ == "__main__":
    main()
