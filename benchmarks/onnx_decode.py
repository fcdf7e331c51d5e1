"""Our ONNX files and runtime against onnxruntime-genai's: size, decode and prefill tokens/s, on SmolLM2-135M.

Arms take turns, each in a fresh process: our int4, int8 and fp32 files in our loop, genai's own int4 file in the same
loop, and both int4 files in genai's own runtime. Same prompt ids, same count of greedy steps, same threads. (In one
process the session made first is up to 15% slower than the same file loaded later.)
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import Scheme
from distill2edge.runtimes.onnx_runtime import OnnxRuntime
from distill2edge.util.progress import for_stream
from distill2edge.util.threads import available_threads

MODEL = "bundled:smollm2-135m-instruct"
SEED = 0
CONTEXT = 512
SCHEMES = ("int4-b32", "int8", "fp32")
REPEATS = 3  # in one process, after one to warm up; the median counts
Arm = Callable[[], tuple[float, float]]


def build_peer(model_dir: Path, out: Path) -> None:
    """The int4 file that onnxruntime-genai's model builder writes by default."""
    from onnxruntime_genai.models import builder

    arguments = ("", str(model_dir), str(out), "int4", "cpu", str(out / "cache"))
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        builder.create_model(*arguments, **builder.parse_extra_options(*arguments, ["hf_token=false"]))


def in_our_loop(path: Path, threads: int, prompt: list[int], steps: int) -> Arm:
    """Prefill and greedy decode through OnnxRuntime; gives (prefill, decode) tokens/s."""
    runtime = OnnxRuntime(path, threads=threads, context=CONTEXT)

    def run() -> tuple[float, float]:
        start = time.perf_counter()
        token = int(runtime.prefill(prompt).argmax())
        first = time.perf_counter()
        for _ in range(steps):
            token = int(runtime.decode(token).argmax())
        end = time.perf_counter()
        return len(prompt) / (first - start), steps / (end - first)

    return run


def in_genai(path: Path, threads: int, prompt: list[int], steps: int) -> Arm:
    """The same work in onnxruntime-genai's generator."""
    import onnxruntime_genai as genai

    config = genai.Config(str(path))
    config.overlay(json.dumps({"model": {"decoder": {"session_options": {"intra_op_num_threads": threads}}}}))
    model = genai.Model(config)
    ids = np.array(prompt, dtype=np.int32)

    def run() -> tuple[float, float]:
        params = genai.GeneratorParams(model)
        # no end of text within the steps: every arm decodes as many
        params.set_search_options(max_length=CONTEXT, min_length=len(prompt) + steps + 2, do_sample=False)
        generator = genai.Generator(model, params)
        start = time.perf_counter()
        generator.append_tokens(ids)
        generator.generate_next_token()
        first = time.perf_counter()
        for _ in range(steps):
            generator.generate_next_token()
        end = time.perf_counter()
        return len(prompt) / (first - start), steps / (end - first)

    return run


def work(arm: str, path: Path, chosen: argparse.Namespace) -> dict[str, float]:
    """What one process measures: medians of tokens/s."""
    prompt = np.random.default_rng(SEED).integers(10, 40_000, chosen.prompt).tolist()
    make = in_genai if arm == "genai" else in_our_loop
    run = make(path, chosen.threads, prompt, chosen.steps)
    run()
    pairs = [run() for _ in range(REPEATS)]
    return {"prefill": statistics.median(p for p, _ in pairs), "decode": statistics.median(d for _, d in pairs)}


def bytes_of(directory: Path) -> int:
    """Graph and weights."""
    return sum(path.stat().st_size for path in directory.glob("model.onnx*"))


def measure(model_dir: Path, root: Path, chosen: argparse.Namespace) -> None:
    """Export, run the rounds, write the result."""
    progress = for_stream()
    exports: dict[str, dict[str, Any]] = {}
    export_s = {}
    for scheme in SCHEMES:
        start = time.perf_counter()
        exports[scheme] = export_onnx(model_dir, Scheme("onnx", scheme), {"name": MODEL}, root / scheme, progress)
        export_s[scheme] = time.perf_counter() - start
    build_peer(model_dir, root / "genai")
    arms = {f"ours_{scheme}": ("loop", root / scheme) for scheme in SCHEMES}
    arms["genai_file_our_loop"] = ("loop", root / "genai")
    arms["genai_file_genai_runtime"] = ("genai", root / "genai")
    arms["ours_int4_genai_runtime"] = ("genai", root / "int4-b32")
    prefills: dict[str, list[float]] = {name: [] for name in arms}

    def timed(name: str) -> Callable[[], float]:
        arm, path = arms[name]
        options = ("threads", "prompt", "steps")
        command = [sys.executable, __file__, "--work", arm, "--model", str(path)]
        command += [text for key in options for text in (f"--{key}", str(getattr(chosen, key)))]

        def run() -> float:
            figures = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            prefills[name].append(figures["prefill"])
            return float(figures["decode"])

        return run

    probe = contention.Probe(chosen.threads)
    decode = interleave({name: timed(name) for name in arms}, chosen.rounds, warmup=0, log=print)
    busy = probe.stop()
    samples = {
        **{f"decode_{name}": values for name, values in decode.items()},
        **{f"prefill_{name}": values for name, values in prefills.items()},
    }
    ours = "ours_int4-b32"
    size = exports["int4-b32"]["size_bytes"] / 1e6
    same_loop, runtime = ratio(decode, ours, "genai_file_our_loop"), ratio(decode, ours, "genai_file_genai_runtime")
    against_fp32 = ratio(decode, ours, "ours_fp32")
    write_result(
        "onnx_decode",
        f"python benchmarks/onnx_decode.py --rounds {chosen.rounds} --threads {chosen.threads}"
        f" --prompt {chosen.prompt} --steps {chosen.steps}",
        description=f"{chosen.steps} greedy tokens after {chosen.prompt}, {MODEL}, ours / onnxruntime-genai / fp32",
        bars=[
            bar("ONNX int4 of SmolLM2-135M: graph and weights", size, "<=", 90, unit="MB"),
            bar(
                "ONNX int4 decode tokens/s, our file / genai's file, same loop",
                same_loop,
                ">=",
                1.0,
                unit="x",
                note="the same operators and block size on both sides: a ratio of one is what to expect",
            ),
            bar("ONNX int4 decode tokens/s, ours / genai's file and runtime", runtime, ">=", 0.9, unit="x"),
            bar("ONNX decode tokens/s, int4 / fp32", against_fp32, ">=", 2.5, unit="x"),
        ],
        samples=samples,
        metrics={
            "size_bytes": {
                **{name: facts["size_bytes"] for name, facts in exports.items()},
                "genai_int4": bytes_of(root / "genai"),
            },
            "effective_bits": {name: facts["effective_bits"] for name, facts in exports.items()},
            "export_s": export_s,
            "int8_decode_over_fp32": ratio(decode, "ours_int8", "ours_fp32"),
            "our_file_over_genai_file_in_genai": ratio(decode, "ours_int4_genai_runtime", "genai_file_genai_runtime"),
            "prefill_int4_over_genai_runtime": ratio(prefills, ours, "genai_file_genai_runtime"),
            "prefill_int8_over_fp32": ratio(prefills, "ours_int8", "ours_fp32"),
            **{name: summary(values) for name, values in samples.items()},
            "contention": {**busy, "reasons": contention.reasons(busy, chosen.threads)},
        },
        seeds=[SEED],
    )
    print(f"{size:.1f} MB; same loop {same_loop.value:.3f} [{same_loop.low:.3f}, {same_loop.high:.3f}]; "
          f"genai's runtime {runtime.value:.3f}; fp32 {against_fp32.value:.2f}")  # fmt: skip


def main() -> None:
    """Parse the command line, find the model, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help=f"Hugging Face directory; {MODEL} where it is not given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--prompt", type=int, default=128, help="tokens of the prompt")
    parser.add_argument("--steps", type=int, default=64, help="tokens decoded per round and arm")
    parser.add_argument("--work", choices=("loop", "genai"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.work:
        print(json.dumps(work(chosen.work, chosen.model, chosen)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        model_dir = chosen.model
        if model_dir is None:
            from distill2edge.intake.obtain import fetch_model

            fetch_model(MODEL, None, root / "source", for_stream(), where="--model")
            model_dir = root / "source" / "model"
        measure(model_dir, root, chosen)


if __name__ == "__main__":
    main()
