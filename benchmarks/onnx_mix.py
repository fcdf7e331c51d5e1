"""An ONNX file of at most 90 MB with a type for each matrix: KL to full precision, and decode speed beside plain int4.

The reference, the text and the measure are those of `quantization_aware`. Types (4 bits with zero points or 8 bits, in
blocks of several sizes, scales in 16 bits) are chosen by Fisher information, the weights rounded with compensated
errors, so that a token takes no longer than in plain int4. `--train` goes on from there on that very grid.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import bar, interleave, ratio, summary, write_result
from reference_model import SEED, Fidelity, default_work, reference, signal_of, statistics_of, training_rows
from safetensors.torch import load_file

from distill2edge.bench import contention
from distill2edge.export.initial_weights import write_rounded
from distill2edge.export.onnx import export_onnx
from distill2edge.models.loading import load_model
from distill2edge.quantize import onnx_types
from distill2edge.quantize.allocation import choose
from distill2edge.quantize.budget import expected_kl
from distill2edge.quantize.rounding import round_matrix
from distill2edge.quantize.schemes import Scheme
from distill2edge.quantize.tensor_grids import load_grids, save_grids
from distill2edge.recipe.schema import Loss, Training
from distill2edge.runtimes.onnx_runtime import OnnxRuntime
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress, for_stream

BUDGET = 90_000_000
GRAPH = 150_000
"""Bytes that zero points and 16-bit scales may add to the graph of plain int4, and alignment to its data."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SCHEME = Scheme("onnx", "int4-b32")
VALIDATION = 8
CONTEXT = 512


class Mix:
    """The reference's matrices, their statistics, and the files made so far (kept on disk)."""

    def __init__(self, work: Path, progress: Progress) -> None:
        self.shared, self.progress, self.model_dir = work, progress, reference(work, progress)
        self.work = work / "onnx-mix"
        self.work.mkdir(exist_ok=True)
        self.weights = {n: w for n, w in load_file(self.model_dir / "model.safetensors").items() if w.ndim > 1}
        squares, fisher = statistics_of(self.model_dir, work, progress)
        used = {name: HEAD if name == EMBEDDING else name for name in self.weights}
        self.fisher = {name: fisher.fisher[key] for name, key in used.items()}
        self.inputs = {n: (squares.squares[k] / squares.tokens[k]).float().clamp_min(1e-12) for n, k in used.items()}
        self.grams = {name: squares.grams[key] / squares.tokens[key] for name, key in used.items()}

    def plain(self) -> Path:
        """Int4 as ONNX Runtime rounds it."""
        return self._export(self.model_dir, "plain", None)

    def types(self) -> tuple[dict[str, str], float]:
        """Weight -> type under the budget, and the expected KL."""
        path = self.work / "options.json"
        if not path.is_file():
            each = {
                name: onnx_types.option(weight, self.fisher[name], self.inputs[name], self.grams.get(name))
                for name, weight in self.weights.items()
            }
            write_json(path, onnx_types.joined(each, onnx_types.groups(each)))
        table = {g: {k: (int(b), float(c)) for k, (b, c) in o.items()} for g, o in json.loads(path.read_text()).items()}
        facts = json.loads((self.plain() / "export.json").read_text())
        rest = facts["size_bytes"] - facts["types"]["int4-b32"]["bytes"] + GRAPH
        weights = {group: sum(self.weights[name].numel() for name in names)
                   for group, names in onnx_types.groups(self.weights).items()}  # fmt: skip
        chosen = choose(table, BUDGET - rest, onnx_types.pace_of(weights, table))
        return onnx_types.by_weight(chosen, onnx_types.groups(self.weights)), expected_kl(table, chosen)

    def start(self, types: dict[str, str]) -> Path:
        """A model whose nearest levels are the compensated ones, with its grid."""
        target = self.work / "start"
        if not (target / "grid.safetensors").is_file():
            shutil.rmtree(target, ignore_errors=True)
            write_rounded(
                self.model_dir,
                types,
                lambda name, kind: round_matrix(self.weights[name], kind, self.inputs[name], self.grams.get(name)),
                target,
                self.progress,
            )
        return target

    def mixed(self, start: Path) -> Path:
        """The file of a model on its grid."""
        return self._export(start, "mix", start)

    def validation(self, start: Path) -> float:
        """KL of the stored weights on windows of reviews, in torch: to choose between configurations."""
        grids = load_grids(start)
        models = [load_model(path, dtype=torch.float32).eval() for path in (self.model_dir, start)]
        state = models[1].state_dict()
        found = []
        with torch.no_grad():
            for name, grid in grids.items():
                state[name].copy_(grid.fake_quantized(state[name]))
            for row in training_rows(self.model_dir, self.progress)[1][:VALIDATION]:
                ids = torch.tensor([row.ids])
                wanted, ours = (torch.log_softmax(model(ids, use_cache=False).logits[0], -1) for model in models)
                found.append(float((wanted.exp() * (wanted - ours)).sum(-1).mean()))
        return sum(found) / len(found)

    def train(self, start: Path, steps: int) -> Path:
        """The file after training on the grid: 4 x 128 tokens a step, stopped and gone on with at will."""
        from distill2edge.distill.train import train

        work = self.work / f"trained-{steps}"
        work.mkdir(exist_ok=True)
        grids = load_grids(start)
        save_grids(grids, work)
        rows, validation = training_rows(self.model_dir, self.progress)
        signal = signal_of(self.model_dir, [*validation, *rows], self.shared, self.progress)
        training = Training(
            epochs=1, max_steps=steps, learning_rate=1e-4, batch_size=4, schedule="cosine", checkpoints=6
        )
        loss = Loss(ce=0, forward_kl=1)
        train(start, rows, validation[:12], signal, training, loss, None, 512, SEED, work, self.progress, grids)
        for path in self.model_dir.iterdir():
            if not (work / "model" / path.name).exists():
                shutil.copy(path, work / "model" / path.name)
        return self._export(work / "model", f"mix-trained-{steps}", work)

    def _export(self, model_dir: Path, label: str, grid: Path | None) -> Path:
        path = self.work / label
        if not (path / "export.json").is_file():
            export_onnx(model_dir, SCHEME, {"name": label}, path, self.progress, grid=grid)
        return path


def worker(path: Path, steps: int) -> float:
    """Greedy tokens decoded per second of processor time, on one thread, of a file in our loop; the median of three.

    Session and loop are those of `onnx_decode`. Processor time, so that what else the machine does counts less.
    """
    runtime = OnnxRuntime(path, threads=1, context=CONTEXT)
    found = []
    for _ in range(4):
        token = int(runtime.prefill(list(range(100, 116))).argmax())
        start = time.process_time()
        for _ in range(steps):
            token = int(runtime.decode(token).argmax())
        found.append(steps / (time.process_time() - start))
    return statistics.median(found[1:])


def speed(files: dict[str, Path], rounds: int, steps: int) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Decode tokens/s of each file, in turns and in fresh processes; and what else ran."""

    def timed(path: Path) -> Callable[[], float]:
        command = [sys.executable, __file__, "--worker", str(path), "--steps", str(steps)]
        return lambda: float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    probe = contention.Probe(1)
    samples = interleave({name: timed(path) for name, path in files.items()}, rounds, warmup=0, log=print)
    busy = probe.stop()
    return samples, {**busy, "reasons": contention.reasons(busy, 1)}


def measured(fidelity: Fidelity, path: Path) -> dict[str, Any]:
    """KL on held-out text, once for each file, and its size."""
    kept = path / "fidelity.json"
    if not kept.is_file():
        write_json(kept, fidelity.of_onnx(path))
    facts = json.loads((path / "export.json").read_text())
    shared = {key: facts[key] for key in ("types", "effective_bits")}
    return {**json.loads(kept.read_text()), "bytes": facts["size_bytes"], **shared}


def main() -> None:
    """Choose, round, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models, signals and files are kept")
    parser.add_argument("--train", type=int, default=0, metavar="STEPS", help="also train, for so many steps")
    parser.add_argument("--rounds", type=int, default=6, help="of the decode speed")
    parser.add_argument("--steps", type=int, default=32, help="tokens decoded in each")
    parser.add_argument("--choose", action="store_true", help="stop before the held-out text is looked at")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.worker:
        print(worker(chosen.worker, chosen.steps))
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    mix = Mix(chosen.work, for_stream())
    types, expected = mix.types()
    print(f"{dict(Counter(types.values()))}, embedding {types[EMBEDDING]}; expected KL {expected:.4f}", flush=True)
    start = mix.start(types)
    files = {"onnx int4, plain": mix.plain(), "onnx mix at 90 MB, compensated": mix.mixed(start)}
    if chosen.choose:
        print(f"validation KL {mix.validation(start):.4f}")
        return
    if chosen.train:
        files["onnx mix at 90 MB, trained"] = mix.train(start, chosen.train)
    fidelity = Fidelity(mix.model_dir, chosen.work, mix.progress)
    figures = {name: measured(fidelity, path) for name, path in files.items()}
    for name, found in figures.items():
        print(f"{name:32s} {found['bytes'] / 1e6:.2f} MB  KL {found['kl']:.4f} +- {found['kl_se']:.4f}", flush=True)
    samples, busy = speed({n: files[n] for n in list(files)[:2]}, chosen.rounds, chosen.steps)
    plain, mixed = list(files)[:2]
    against = ratio(samples, mixed, plain)
    print(f"decode, mix / plain: {against.value:.3f} [{against.low:.3f}, {against.high:.3f}]", flush=True)
    best = list(files)[-1]
    options = f"--train {chosen.train} " if chosen.train else ""
    path = write_result(
        "onnx_mix",
        f"python benchmarks/onnx_mix.py {options}--rounds {chosen.rounds} --steps {chosen.steps}",
        description="SmolLM2-135M (noise of half a step on its packaged weights) against its ONNX files: KL on 3,072 "
        "held-out tokens of newspaper editorials, in ONNX Runtime. Decode speed is per second of processor time, "
        "on one thread",
        bars=[
            bar("ONNX of at most 90 MB: mean KL to full precision", figures[best]["kl"], "<=", 0.10, unit="nats",
                note=best),
            bar("ONNX of at most 90 MB: graph and weights", figures[best]["bytes"] / 1e6, "<=", 90, unit="MB"),
            bar("ONNX of at most 90 MB: decode tokens/s of the mix over plain int4", against, ">=", 1.0, unit="x"),
        ],
        samples={f"decode, {name}": values for name, values in samples.items()},
        metrics={
            "files": figures,
            "types": types,
            "expected KL, from Fisher information": expected,
            "decode tokens per second of processor time, mix / plain int4": against,
            **{f"decode, {name}": summary(values) for name, values in samples.items()},
            "contention": busy,
        },
        seeds=[SEED],
    )  # fmt: skip
    print(f"written: {path}")


if __name__ == "__main__":
    main()
