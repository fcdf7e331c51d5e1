"""A distillation step with our top-k + chunked loss against the dense full-vocabulary loss: peak memory and tokens/s.

Every sample is a fresh process; arms take turns. Both arms train the same student (LoRA rank 64 on all linear layers,
products in what this processor computes best in, AdamW) on the same token ids with the same weights of the loss:
0.5 CE + 0.5 T^2 forward KL at T = 2. The teacher is not run: each arm gets what its loss reads, 64 log-probabilities
and the tail, or all of them. Two scopes: the whole step, and the loss alone, from hidden states to their gradient.

`dense` makes all logits, as a causal model's forward pass does, then selects the supervised ones. `recompute` is our
chunked loss with its logits recomputed in the backward pass: the alternative that was not chosen. `ours, checkpointed`
is ours with `gradient_checkpointing`, which trades time for the layers' activations.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import bar, interleave, ratio, summary, write_result

from distill2edge.bench import contention
from distill2edge.util.progress import for_stream
from distill2edge.util.threads import available_threads

MODEL = "bundled:smollm2-135m-instruct"
BATCH, LENGTH, TOP_K, TEMPERATURE, CHUNK, RANK = 16, 128, 64, 2.0, 256, 64
SCOPES = ("step", "loss")
SHARES = {"all": 1.0, "quarter": 0.25}
SEED = 0
CHECKPOINTED = "ours, checkpointed"


def work(model_dir: Path, scope: str, arm: str, share: float, threads: int, steps: int) -> dict[str, Any]:
    """One process's sample: peak memory, and seconds per step."""
    import torch

    from distill2edge.distill.batches import IGNORED
    from distill2edge.distill.decoder_model import DistillModel
    from distill2edge.distill.objective import objective_of
    from distill2edge.distill.train import load_student
    from distill2edge.models.precision import compute_dtype
    from distill2edge.recipe.schema import Lora, Loss

    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    dtype = compute_dtype("auto")
    student: Any = load_student(model_dir, Lora(rank=RANK, alpha=2 * RANK), dtype, checkpointing=arm == CHECKPOINTED)
    objective = objective_of(Loss(ce=0.5, forward_kl=0.5))
    model = DistillModel(student, objective, TEMPERATURE, CHUNK, dtype).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    vocabulary = model.config.vocab_size
    ids = torch.randint(vocabulary, (BATCH, LENGTH))
    labels = ids.clone()
    labels[:, : LENGTH - round(LENGTH * share)] = IGNORED  # a prompt, then a response
    labels[:, 0] = IGNORED
    count = int((labels != IGNORED).sum())
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    loaded = _status("VmRSS")
    if arm == "dense":
        log_p = torch.log_softmax(torch.randn(count, vocabulary).mul_(2), -1)
    else:
        # Distinct within a row, and made without large temporaries that the allocator would keep.
        batch["tokens"] = (torch.randint(vocabulary, (count, 1)) + torch.arange(TOP_K) * 751) % vocabulary
        kept = torch.log_softmax(torch.randn(count, TOP_K + 1) * 2, -1)
        batch["log_p"], batch["log_tail"] = kept[:, :TOP_K].contiguous(), kept[:, TOP_K].contiguous()
    hidden = torch.randn(BATCH, LENGTH, model.config.hidden_size, dtype=dtype, requires_grad=True)

    def loss() -> torch.Tensor:
        if scope == "loss":
            states = hidden
        else:
            with model.autocast():
                states = model.hidden(ids, batch["attention_mask"])
        if arm == "dense":
            return _dense(states.to(dtype), model.head.weight, labels, log_p)
        return _chunked(model, states, batch, recompute=arm == "recompute")

    _reset_peak()  # what it took to make up a signal is not the step's; the signal itself is
    times = []
    for number in range(1 + steps):
        if number == 1:
            probe = contention.Probe(threads)
        start = time.perf_counter()
        loss().backward()
        if scope != "loss":
            optimizer.step()
            optimizer.zero_grad()
        hidden.grad = None
        times.append(time.perf_counter() - start)
    busy = probe.stop()
    peak = _status("VmHWM")
    return {
        "step_s": statistics.median(times[1:]),
        "tokens": BATCH * LENGTH,
        "supervised": count,
        "loaded_bytes": loaded,
        "peak_bytes": peak,
        "over_model_bytes": peak - loaded,
        "contention": busy,
    }


def _chunked(model: Any, states: Any, batch: dict[str, Any], *, recompute: bool) -> Any:
    import torch
    from torch.utils.checkpoint import checkpoint

    from distill2edge.distill.batches import supervised
    from distill2edge.distill.chunked import chunked_loss
    from distill2edge.distill.losses import TopK, distillation_loss

    positions, targets = supervised(batch["labels"])
    chosen = states.reshape(-1, states.shape[-1]).index_select(0, positions)
    teacher = TopK(batch["tokens"], batch["log_p"], batch["log_tail"])
    with model.autocast():
        terms = model.terms(chosen)
    if not recompute:
        total, _ = chunked_loss(terms, targets, teacher, model.objective, temperature=TEMPERATURE, chunk=CHUNK)
        return total / len(targets)

    def part(x: Any, at: slice) -> Any:
        signal = TopK(*(t[at] for t in teacher))
        return distillation_loss(x @ terms[0][1].T, targets[at], signal, model.objective, TEMPERATURE).sum()

    total = torch.zeros(())
    for begin in range(0, len(targets), CHUNK):
        at = slice(begin, begin + CHUNK)
        total = total + checkpoint(part, terms[0][0][at], at, use_reentrant=False)
    return total / len(targets)


def _dense(states: Any, head: Any, labels: Any, log_p: Any) -> Any:
    """Plain PyTorch, in its fused operations."""
    from torch.nn import functional as F

    from distill2edge.distill.batches import IGNORED

    logits = (states @ head.T)[:, :-1]
    mask = labels[:, 1:] != IGNORED
    chosen = logits[mask].float()
    ce = F.cross_entropy(chosen, labels[:, 1:][mask])
    log_q = F.log_softmax(chosen / TEMPERATURE, -1)
    kl = F.kl_div(log_q, log_p, log_target=True, reduction="batchmean")
    return 0.5 * ce + 0.5 * TEMPERATURE**2 * kl


def _reset_peak() -> None:
    """Set the peak of the resident set to what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def _status(key: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key} in /proc/self/status: this benchmark needs Linux")


class Sampler:
    """Runs workers, and keeps what they say."""

    def __init__(self, model_dir: Path, threads: int, steps: int) -> None:
        self.model_dir, self.threads, self.steps = model_dir, threads, steps
        self.raw: dict[str, list[dict[str, Any]]] = {}

    def run(self, scope: str, share: str, arm: str) -> float:
        """Seconds per step of a fresh process."""
        arguments = ["--model", str(self.model_dir), "--threads", str(self.threads), "--steps", str(self.steps)]
        command = [sys.executable, __file__, *arguments, "--worker", scope, share, arm]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
        if done.returncode:
            raise RuntimeError(f"{scope}, {share}, {arm} failed with {done.returncode}:\n{done.stderr[-2000:]}")
        sample = json.loads(done.stdout.splitlines()[-1])
        self.raw.setdefault(f"{scope}, {share}, {arm}", []).append(sample)
        return float(sample["step_s"])


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help=f"Hugging Face directory; {MODEL} where it is not given")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=1, help="timed steps per process, after one that is not")
    parser.add_argument("--threads", type=int, default=available_threads())
    parser.add_argument("--worker", nargs=3, metavar=("SCOPE", "SHARE", "ARM"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        scope, share, arm = chosen.worker
        print(json.dumps(work(chosen.model, scope, arm, SHARES[share], chosen.threads, chosen.steps)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        model_dir = chosen.model
        if model_dir is None:
            from distill2edge.intake.obtain import fetch_model

            fetch_model(MODEL, None, Path(temporary), for_stream(), where="MODEL")
            model_dir = Path(temporary) / "model"
        measure(Sampler(model_dir, chosen.threads, chosen.steps), chosen.rounds)


def measure(sampler: Sampler, rounds: int) -> None:
    """All cells, then the bars."""
    from distill2edge.models.precision import compute_dtype

    metrics: dict[str, Any] = {}
    speed: dict[str, Any] = {}
    for scope in SCOPES:
        for share in SHARES:
            arms = ["ours", "dense", "recompute" if scope == "loss" else CHECKPOINTED]
            runs = {arm: (lambda arm=arm, scope=scope, share=share: sampler.run(scope, share, arm)) for arm in arms}
            times = interleave(runs, rounds, warmup=0, log=lambda line, at=f"{scope}, {share}": print(at, line))
            # tokens/s of one arm over the other = seconds of the other over the one.
            speed[f"{scope}, {share}"] = ratio(times, "dense", "ours")
            if scope == "step":
                speed[f"{scope}, {share}, checkpointed"] = ratio(times, "dense", CHECKPOINTED)
            if scope == "loss":
                metrics[f"loss, {share}: speed, ours / recompute"] = ratio(times, "recompute", "ours")

    def memory(scope: str, share: str, key: str, ours: str = "ours") -> Any:
        cells = {arm: [s[key] for s in sampler.raw[f"{scope}, {share}, {arm}"]] for arm in (ours, "dense")}
        return ratio(cells, ours, "dense")

    bars = []
    for scope in SCOPES:
        for share in SHARES:
            name = f"distillation {scope}, {share} positions supervised, ours / dense"
            over, whole = (memory(scope, share, key) for key in ("over_model_bytes", "peak_bytes"))
            peaks = (
                statistics.median(s["over_model_bytes"] for s in sampler.raw[f"{scope}, {share}, {arm}"]) / 1e6
                for arm in ("ours", "dense")
            )
            note = "peak over the loaded model, {:.0f} / {:.0f} MB".format(*peaks)
            note += f"; of the whole process the ratio is {whole.value:.2f}"
            if over.value > 0.5:
                note += "; the layers' activations, the same in both arms, are nearly all of ours"
            bars.append(bar(f"{name}: peak memory", over, "<=", 0.5, unit="x", note=note))
            bars.append(bar(f"{name}: tokens/s", speed[f"{scope}, {share}"], ">=", 1.0, unit="x"))
            metrics[f"{scope}, {share}: whole-process peak, ours / dense"] = whole
            if scope == "step":
                name += ", ours with gradient checkpointing"
                bars.append(
                    bar(f"{name}: peak memory", memory(scope, share, "over_model_bytes", CHECKPOINTED), "<=", 0.5)
                )
                metrics[f"{scope}, {share}: tokens/s, ours with checkpointing / dense"] = speed[
                    f"{scope}, {share}, checkpointed"
                ]
    for cell, samples in sampler.raw.items():
        metrics[cell] = {
            "tokens_per_s": summary([s["tokens"] / s["step_s"] for s in samples]),
            **{f"{k}_MB": summary([s[f"{k}_bytes"] / 1e6 for s in samples]) for k in ("peak", "over_model", "loaded")},
        }
    busy = contention.worst([s["contention"] for samples in sampler.raw.values() for s in samples])
    metrics["contention"] = {**busy, "reasons": contention.reasons(busy, sampler.threads)}
    command = f"python benchmarks/distill_step.py --rounds {rounds} --steps {sampler.steps} --threads {sampler.threads}"
    path = write_result(
        "distill_step",
        command,
        description=(
            f"SmolLM2-135M-Instruct (30 layers, vocabulary 49,152), LoRA {RANK} on all linear layers, "
            f"{BATCH} x {LENGTH} tokens, {compute_dtype('auto')}, T {TEMPERATURE:g}. "
            f"Ours: top-{TOP_K} + tail in chunks of {CHUNK}; dense: "
            "the whole vocabulary. Peak: resident set of a fresh process (VmHWM); tokens/s count every token"
        ),
        bars=bars,
        samples=sampler.raw,
        metrics=metrics,
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
