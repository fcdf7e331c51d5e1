"""What our llama.cpp runtime costs over a bare `llama_decode` loop, and what batching sequences gains.

Both arms: the same library, file, threads, context, prompt and number of greedy steps; only the code around
`llama_decode` differs. The bare loop reads the logits where llama.cpp left them.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from pathlib import Path

import numpy as np
from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.intake import bundled
from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
from distill2edge.util.progress import for_stream
from distill2edge.util.threads import available_threads

MODEL = "smollm2-135m-instruct"
SEED = 0


class Bare:
    """The least code that decodes greedily with llama_cpp's low-level interface."""

    def __init__(self, path: Path, threads: int, context: int) -> None:
        import llama_cpp as api

        self.api = api
        model = api.llama_model_default_params()
        model.n_gpu_layers = 0
        self.model = api.llama_model_load_from_file(str(path).encode(), model)
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.no_perf = context, 512, 512, True
        params.n_threads = params.n_threads_batch = threads
        self.context = api.llama_init_from_model(self.model, params)
        self.vocabulary = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))

    def prefill(self, ids: list[int]) -> int:
        self.api.llama_memory_clear(self.api.llama_get_memory(self.context), False)
        return self._step((ctypes.c_int32 * len(ids))(*ids))

    def decode(self, token: int, steps: int) -> None:
        one = (ctypes.c_int32 * 1)(token)
        for _ in range(steps):
            one[0] = self._step(one)

    def _step(self, tokens: ctypes.Array) -> int:
        if self.api.llama_decode(self.context, self.api.llama_batch_get_one(tokens, len(tokens))) != 0:
            raise RuntimeError("llama_decode failed")
        pointer = self.api.llama_get_logits_ith(self.context, -1)
        view = (ctypes.c_float * self.vocabulary).from_address(ctypes.addressof(pointer.contents))
        return int(np.frombuffer(view, dtype=np.float32).argmax())


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--steps", type=int, default=64, help="tokens decoded per round and arm")
    chosen = parser.parse_args()
    path = bundled.fetch(MODEL, for_stream())
    prompt = np.random.default_rng(SEED).integers(10, 40_000, 32).tolist()
    bare = Bare(path, chosen.threads, 512)
    ours = LlamaCppRuntime(path, threads=chosen.threads, context=512)

    def run_bare() -> float:
        first = bare.prefill(prompt)
        start = time.perf_counter()
        bare.decode(first, chosen.steps)
        return chosen.steps / (time.perf_counter() - start)

    def run_ours() -> float:
        token = int(ours.prefill(prompt).argmax())
        start = time.perf_counter()
        for _ in range(chosen.steps):
            token = int(ours.decode(token).argmax())
        return chosen.steps / (time.perf_counter() - start)

    probe = contention.Probe(chosen.threads)
    samples = interleave({"ours": run_ours, "bare": run_bare}, chosen.rounds, warmup=2, log=print)
    busy = probe.stop()
    ours.close()
    batching = _batching(path, chosen.threads)
    decode = ratio(samples, "ours", "bare")
    command = f"python benchmarks/gguf_decode.py --rounds {chosen.rounds} --threads {chosen.threads}"
    write_result(
        "gguf_decode",
        command,
        description=f"greedy decode of {chosen.steps} tokens after 32, {MODEL} (Q4_1 GGUF), our runtime / bare loop",
        bars=[bar("llama.cpp decode tokens/s, our runtime / bare llama_decode loop", decode, ">=", 0.97, unit="x")],
        samples={**samples, **batching},
        metrics={
            "decode_ratio": decode,
            "batching_ratio": ratio(batching, "many_16", "one_by_one"),
            **{name: summary(values) for name, values in {**samples, **batching}.items()},
            "contention": {**busy, "reasons": contention.reasons(busy, chosen.threads)},
        },
        seeds=[SEED],
    )
    print(f"decode ratio {decode.value:.4f} [{decode.low:.4f}, {decode.high:.4f}]")


def _batching(path: Path, threads: int) -> dict[str, list[float]]:
    """Tokens/s of logits for 48 rows of 20 to 60 tokens: one by one, and 16 per `llama_decode`."""
    rng = np.random.default_rng(SEED)
    requests = []
    for length in rng.integers(20, 60, 48).tolist():
        requests.append((rng.integers(10, 40_000, length).tolist(), list(range(length // 2, length))))
    total = sum(len(ids) for ids, _ in requests)
    one = LlamaCppRuntime(path, threads=threads, context=128)
    many = LlamaCppRuntime(path, threads=threads, context=128, sequences=16)

    def single() -> float:
        start = time.perf_counter()
        for ids, positions in requests:
            one.logits(ids, positions)
        return total / (time.perf_counter() - start)

    def grouped() -> float:
        start = time.perf_counter()
        many.logits_many(requests)
        return total / (time.perf_counter() - start)

    return interleave({"one_by_one": single, "many_16": grouped}, 5, warmup=1, log=print)


if __name__ == "__main__":
    main()
