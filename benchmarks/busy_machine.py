"""A training step beside another busy process: threads that sleep soon (`spin_briefly`) against libgomp's own default.

A LoRA step of a model with SmolLM2's widths, in fresh processes that take turns, alone and beside one busy loop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from common import bar, interleave, ratio, summary, write_result

from distill2edge.util.threads import available_threads, spin_briefly

STEPS, ROWS, LENGTH, LAYERS = 4, 16, 32, 8


def worker() -> float:
    """Seconds of a step: the median of some, after one to warm up."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from distill2edge.util.allocator import keep_freed_memory

    keep_freed_memory()
    torch.manual_seed(0)
    torch.set_num_threads(available_threads())
    config = LlamaConfig(
        vocab_size=4096, hidden_size=576, intermediate_size=1536, num_hidden_layers=LAYERS, num_attention_heads=9,
        num_key_value_heads=3,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(r=32, lora_alpha=64, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = torch.randint(0, 4096, (ROWS, LENGTH))
    found = []
    for _ in range(STEPS + 1):
        start = time.perf_counter()
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(time.perf_counter() - start)
    return statistics.median(found[1:])


def timed(brief: bool, busy: bool) -> Callable[[], float]:
    """A fresh process with one of the two settings, alone or beside a busy loop."""
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if brief:
        spin_briefly(environment)

    def run() -> float:
        neighbour = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
        try:
            command = [sys.executable, __file__, "--worker"]
            return float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
        finally:
            if neighbour is not None:
                neighbour.kill()
                neighbour.wait()

    return run


def main() -> None:
    """Measure and write results/busy_machine.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(worker())
        return
    arms = {
        f"{setting}, {where}": timed(setting == "brief spin", where == "busy")
        for where in ("alone", "busy")
        for setting in ("brief spin", "default")
    }
    samples = interleave(arms, options.rounds, warmup=0, log=print)
    alone = ratio(samples, "brief spin, alone", "default, alone")
    busy = ratio(samples, "brief spin, busy", "default, busy")
    print(f"alone {alone.value:.2f} [{alone.low:.2f}, {alone.high:.2f}]; busy {busy.value:.2f}")
    path = write_result(
        "busy_machine",
        f"python benchmarks/busy_machine.py --rounds {options.rounds}",
        description=f"seconds of a LoRA step ({ROWS} x {LENGTH} tokens, {LAYERS} layers of SmolLM2's widths) on "
        f"{available_threads()} threads, alone and beside one busy loop",
        bars=[
            bar("training step beside a busy process: threads that sleep soon / default", busy, "<=", 0.5, unit="x"),
            bar("training step alone: threads that sleep soon / default", alone, "<=", 1.05, unit="x"),
        ],
        samples=samples,
        metrics={name: summary(values) for name, values in samples.items()},
        seeds=[0],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
