"""A quantization-aware training step against a plain one: CPU time of an optimizer step, in full and through LoRA.

The same student, rows and optimizer; one arm computes with its weights on the grid of Q4_0 and rounds them again after
every step. Arms take turns in one process on one thread; CPU time, so that what else runs on the machine counts less.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import bar, interleave, ratio, write_result
from reference_model import SEED, default_work, reference, training_rows

from distill2edge.bench import contention
from distill2edge.distill.batches import collate
from distill2edge.distill.decoder_model import DistillModel
from distill2edge.distill.fake_quantization import follow, install
from distill2edge.distill.objective import GOLD
from distill2edge.distill.train import load_student
from distill2edge.models.precision import compute_dtype
from distill2edge.quantize import ggml
from distill2edge.quantize.scales import TensorGrid
from distill2edge.recipe.schema import Lora
from distill2edge.util.progress import for_stream

ROWS, RANK = 4, 64


def stepper(model_dir: Path, batch: dict[str, Any], lora: Lora | None, on_grid: bool) -> Callable[[], float]:
    """A function that takes one step and returns its CPU seconds."""
    dtype = compute_dtype("auto")
    student: Any = load_student(model_dir, lora, torch.float32 if on_grid else dtype)
    stored = {}
    if on_grid:
        base: Any = student.get_base_model() if lora else student
        grids = {
            f"{name.removesuffix('.base_layer')}.weight": TensorGrid.of_gguf(
                ggml.quantize(module.weight.detach().float().numpy(), "Q4_0"), "Q4_0"
            )
            for name, module in base.named_modules()
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding) and "lora_" not in name and name != "lm_head"
        }
        stored = install(student, grids, dtype)
    model = DistillModel(student, GOLD, 1.0, 256, dtype).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)
    follow(optimizer, stored.values())

    def step() -> float:
        begin = time.process_time()
        model(**batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.process_time() - begin

    return step


def main() -> None:
    """Both kinds of training, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where the reference model is kept")
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    progress = for_stream()
    model_dir = reference(arguments.work, progress)
    rows, _ = training_rows(model_dir, progress)
    batch = collate([{"ids": row.ids, "mask": row.mask} for row in rows[:ROWS]], 0)
    samples: dict[str, list[float]] = {}
    bars, metrics = [], {}
    probe = contention.Probe(1)
    for name, lora in (("LoRA", Lora(rank=RANK, alpha=2 * RANK)), ("full", None)):
        arms = {kind: stepper(model_dir, batch, lora, kind == "on the grid") for kind in ("plain", "on the grid")}
        found = interleave(arms, arguments.rounds, log=lambda line, at=name: print(at, line, flush=True))
        figure = ratio(found, "on the grid", "plain")
        note = f"batch of {ROWS} x 128 tokens, {compute_dtype('auto')}, one thread"
        bars.append(bar(f"quantization-aware step / plain step, {name}", figure, "<=", 1.5, unit="x", note=note))
        metrics[name] = figure
        samples |= {f"{name}, {kind}: CPU seconds": values for kind, values in found.items()}
        del arms
    busy = probe.stop()
    metrics["contention"] = {**busy, "reasons": contention.reasons(busy, 1)}
    path = write_result(
        "quantization_aware_step",
        f"python benchmarks/quantization_aware_step.py --rounds {arguments.rounds}",
        description="SmolLM2-135M, cross-entropy, fused AdamW; every matrix on the grid of Q4_0, the head too",
        bars=bars,
        samples=samples,
        metrics=metrics,
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
