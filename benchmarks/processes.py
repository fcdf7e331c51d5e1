"""One process and two: tokens per second of a training, and how far their losses are apart.

Arms take turns on the same rows, student and steps, in float32: `one` (a process with one thread) and `two`
(`--processes 2`, a thread each). Tokens per second are those of the training loop (train.json); the whole time of a
training, which for `two` has the start of the processes in it, stands beside them. With adapters the processes sum
little, in full every weight.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.util.progress import SilentProgress
from distill2edge.util.threads import available_threads

HIDDEN, LAYERS, VOCABULARY, ROWS, LENGTH, BATCH = 384, 4, 4096, 40, 64, 8
ARMS, KINDS = ("one", "two"), ("adapter", "in full")


def student(place: Path) -> None:
    """A random Llama of about 8 million weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=3 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=6, num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(place)


def rows() -> list[Any]:
    """Rows of half to all of the length, the second half of each supervised."""
    from distill2edge.data.examples import Encoded, example_id

    draw, made = random.Random(0), []
    for _ in range(ROWS + BATCH):
        length = draw.randint(LENGTH // 2, LENGTH)
        ids = [draw.randrange(3, VOCABULARY) for _ in range(length)]
        mask = [at >= length // 2 for at in range(length)]
        made.append(Encoded(example_id(ids, mask), ids, mask))
    return made


def trained(place: Path, arm: str, kind: str, seed: int) -> dict[str, Any]:
    """Train; train.json, and the seconds that all of it took."""
    import torch

    from distill2edge.distill.train import train
    from distill2edge.processes.group import trained_by
    from distill2edge.processes.local_group import LocalGroup
    from distill2edge.recipe import schema

    torch.set_num_threads(1)
    training = schema.Training(epochs=1, batch_size=BATCH, dtype="float32", checkpoints=0)  # type: ignore[call-arg]
    lora = schema.Lora(rank=16, alpha=32) if kind == "adapter" else None
    made, start = rows(), time.perf_counter()
    with tempfile.TemporaryDirectory() as work, trained_by(LocalGroup(2) if arm == "two" else None):
        train(
            place, made[:ROWS], made[ROWS:], None, training, schema.Loss(ce=1), lora, 256, seed, Path(work),  # type: ignore[call-arg]
            SilentProgress(),
        )  # fmt: skip
        record: dict[str, Any] = json.loads((Path(work) / "train.json").read_text())
    return {**record, "whole_s": time.perf_counter() - start}


def scaled(kind: str, times: dict[str, list[float]], reasons: list[str]) -> dict[str, Any]:
    """The bar of the speed. Not measured beside other work: two processes are given more of the cores than one."""
    found, note = ratio(times, f"{kind}, one", f"{kind}, two"), "2 would be all; efficiency is half of it"
    if reasons:
        note = f"not measured: {'; '.join(reasons)} ({found.value:.2f}x was seen, where 2 would be all)"
    name = f"{kind}: two processes x one thread / one: tokens/s"
    return bar(name, None if reasons else found, ">=", 1.6, unit="x", note=note)


def measure(place: Path, rounds: int) -> None:
    """All arms of both kinds, then the bars."""
    records: dict[str, list[dict[str, Any]]] = {f"{kind}, {arm}": [] for kind in KINDS for arm in ARMS}

    def arm_of(name: str) -> float:
        kind, arm = name.split(", ")
        records[name].append(trained(place, arm, kind, len(records[name])))
        return float(records[name][-1]["wall_s"])

    probe = contention.Probe(available_threads())
    say = lambda line: print(line, flush=True)  # noqa: E731
    times = interleave({name: (lambda name=name: arm_of(name)) for name in records}, rounds, warmup=0, log=say)
    busy = probe.stop()
    reasons = contention.reasons(busy, available_threads())
    bars: list[dict[str, Any]] = []
    metrics: dict[str, Any] = {"contention": {**busy, "reasons": reasons}}
    for kind in KINDS:
        one, two = records[f"{kind}, one"], records[f"{kind}, two"]
        apart = max(
            abs(a["loss"] - b["loss"])
            for mine, theirs in zip(one, two, strict=True)
            for curve in ("log", "eval")
            for a, b in zip(mine[curve], theirs[curve], strict=True)
        )
        bars += [
            scaled(kind, times, reasons),
            bar(f"{kind}: greatest distance of the loss curves of one and two processes", apart, "<=", 1e-4),
        ]  # fmt: skip
        for arm in ARMS:
            found = records[f"{kind}, {arm}"]
            metrics[f"{kind}, {arm}"] = {
                "tokens_per_s": summary([each["tokens_per_s"] for each in found]),
                "whole_s": summary([each["whole_s"] for each in found]),
            }
    path = write_result(
        "processes",
        f"python benchmarks/processes.py --rounds {rounds}",
        description=f"a random Llama of {LAYERS} layers of {HIDDEN} and {VOCABULARY} tokens, {ROWS} rows of up to "
        f"{LENGTH} tokens, {BATCH} to a batch, float32 on a CPU, gloo; adapters of rank 16, and in full",
        bars=bars,
        samples=times,
        metrics=metrics,
        seeds=list(range(rounds)),
    )
    print(path)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ.pop("OMP_NUM_THREADS", None)
    with tempfile.TemporaryDirectory() as temporary:
        student(Path(temporary))
        measure(Path(temporary), chosen.rounds)


if __name__ == "__main__":
    main()
