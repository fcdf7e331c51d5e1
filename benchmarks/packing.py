"""`distill.packing` against padding: tokens per second of a training step over short rows of many lengths.

Arms take turns on the same rows, in batches of the same count: `packed`, which takes rows in any order; `padded` in the
same order; and `grouped`, padded batches of rows of similar length, which training makes where it does not pack.
Tokens are those of rows, no padding.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.util.progress import for_stream
from distill2edge.util.threads import available_threads

MODEL = "bundled:smollm2-135m-instruct"
ROWS, BATCH, RANK, SEED = 64, 16, 16, 0
MEDIAN, DEVIATION, SHORTEST, LONGEST = 60, 0.8, 12, 400  # tokens of a row: log-normal, as chats are
ARMS = ("packed", "padded", "grouped")


def batches(vocabulary: int) -> dict[str, list[dict[str, Any]]]:
    """The batches of each arm."""
    import torch

    from distill2edge.distill.batches import LengthGrouped, collate, collate_packed

    draw = random.Random(SEED)
    rows = []
    for _ in range(ROWS):
        length = round(min(max(draw.lognormvariate(0, DEVIATION) * MEDIAN, SHORTEST), LONGEST))
        ids = [draw.randrange(vocabulary) for _ in range(length)]
        rows.append({"ids": ids, "mask": [position >= length // 2 for position in range(length)]})
    torch.manual_seed(SEED)
    made: dict[str, list[dict[str, Any]]] = {}
    for arm in ARMS:
        lengths = [len(row["ids"]) for row in rows]
        order = list(LengthGrouped(lengths, BATCH, SEED, lambda: 0, grouped=arm == "grouped"))
        laid = collate_packed if arm == "packed" else collate
        made[arm] = [laid([rows[n] for n in order[at : at + BATCH]], 0) for at in range(0, ROWS, BATCH)]
    return made


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help=f"Hugging Face directory; {MODEL} where it is not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=available_threads())
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        model_dir = chosen.model
        if model_dir is None:
            from distill2edge.intake.obtain import fetch_model

            fetch_model(MODEL, None, Path(temporary), for_stream(), where="--model")
            model_dir = Path(temporary) / "model"
        measure(model_dir, chosen.rounds, chosen.threads)


def measure(model_dir: Path, rounds: int, threads: int) -> None:
    """All arms, then the bars."""
    import torch

    from distill2edge.distill.decoder_model import DistillModel
    from distill2edge.distill.objective import objective_of
    from distill2edge.distill.train import load_student
    from distill2edge.models.precision import compute_dtype
    from distill2edge.recipe.schema import Lora, Loss

    torch.set_num_threads(threads)
    dtype = compute_dtype("auto")
    student: Any = load_student(model_dir, Lora(rank=RANK, alpha=2 * RANK), dtype)
    model = DistillModel(student, objective_of(Loss(ce=1.0)), 1.0, 256, dtype).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    made = batches(model.config.vocab_size)
    tokens = sum(int(batch["attention_mask"].sum()) for batch in made["packed"])
    filled = {arm: sum(batch["input_ids"].numel() for batch in made[arm]) / tokens for arm in ARMS}

    def epoch(arm: str) -> float:
        start = time.perf_counter()
        for batch in made[arm]:
            model(**batch)["loss"].backward()
            optimizer.step()
            optimizer.zero_grad()
        return time.perf_counter() - start

    probe = contention.Probe(threads)
    times = interleave({arm: (lambda arm=arm: epoch(arm)) for arm in ARMS}, rounds, warmup=1, log=print)
    busy = probe.stop()
    bars = [
        bar("training on short rows, packed / padded in the same order: tokens/s", ratio(times, "padded", "packed"),
            ">=", 1.3, unit="x", note=f"{filled['padded']:.2f} positions computed for a token of a row, and "
            f"{filled['packed']:.2f} where packed"),
        bar("training on short rows, packed / padded and grouped by length: tokens/s",
            ratio(times, "grouped", "packed"), ">=", 1.0, unit="x",
            note=f"{filled['grouped']:.2f} positions for a token: grouping has most of the gain already"),
    ]  # fmt: skip
    metrics: dict[str, Any] = {
        arm: {"tokens_per_s": summary([tokens / s for s in times[arm]]), "positions_per_token": filled[arm]}
        for arm in ARMS
    }
    metrics["contention"] = {**busy, "reasons": contention.reasons(busy, threads)}
    path = write_result(
        "packing",
        f"python benchmarks/packing.py --rounds {rounds} --threads {threads}",
        description=f"SmolLM2-135M-Instruct, LoRA {RANK}, {ROWS} rows of {SHORTEST} to {LONGEST} tokens (log-normal, "
        f"median {MEDIAN}), {BATCH} to a batch, {dtype}; forward, backward and AdamW step",
        bars=bars,
        samples=times,
        metrics=metrics,
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
