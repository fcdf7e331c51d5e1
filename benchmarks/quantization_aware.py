"""The same model in 92 MB, in Q4_K_M's 105 MB and in ONNX int4: what rounding, a mix of types and training bring.

Teacher and student are one model, SmolLM2-135M in full precision (`reference_model`); what is measured is the KL of
exported files to it, in llama.cpp and ONNX Runtime, on held-out text of another source than all else.

Arms: stock types, plain, with an importance matrix and compensated; a type for each tensor, chosen by Fisher
information under the byte budget (`quantize.allocation`), rounded plainly, by importance, and with compensated
errors (GPTQ); the mix trained on its grid from those weights (`distill.quantization_aware`'s training). Training goes
on where it was stopped; finished parts are kept.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import bar, write_result
from reference_model import (
    HELD_OUT_TOKENS,
    SEED,
    Fidelity,
    default_work,
    gguf_types,
    reference,
    signal_of,
    statistics_of,
    training_rows,
)
from safetensors.numpy import load_file

from distill2edge.export.gguf import export_gguf
from distill2edge.export.grid import packed
from distill2edge.export.initial_weights import write_rounded
from distill2edge.export.onnx import export_onnx
from distill2edge.gguf import llama_process
from distill2edge.gguf.families import by_model_type
from distill2edge.gguf.ggml_types import file_type
from distill2edge.gguf.hf_layout import layout_of
from distill2edge.gguf.imatrix import Importance, write_imatrix
from distill2edge.gguf.repack import overhead, repack
from distill2edge.quantize.allocation import choose
from distill2edge.quantize.rounding import gguf_bytes, round_matrix
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.schemes import Scheme, parse_scheme
from distill2edge.quantize.sensitivity import KINDS, options
from distill2edge.quantize.tensor_grids import load_grids, save_grids
from distill2edge.recipe.schema import Lora, Loss, Training
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress, for_stream

STOCK = ("Q4_0", "IQ4_XS", "Q4_K_M")
BUDGETS = {"92 MB": 92_000_000, "Q4_K_M's size": 105_454_016}
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


class Bench:
    """The reference, its statistics, and the figures found so far (kept on disk by file name)."""

    def __init__(
        self, work: Path, progress: Progress, name: str = "quantization-aware", held_out: int = HELD_OUT_TOKENS
    ) -> None:
        self.progress = progress
        self.model_dir = reference(work, progress)
        self.fidelity = Fidelity(self.model_dir, work, progress, held_out)
        self.work, self.shared = work / name, work
        self.work.mkdir(exist_ok=True)
        self.weights = {n: w for n, w in load_file(self.model_dir / "model.safetensors").items() if w.ndim > 1}
        self.squares, self.fisher = statistics_of(self.model_dir, work, progress)
        self.base = work / "base" / "model.gguf"
        if not self.base.is_file():
            export_gguf(self.model_dir, parse_scheme("gguf:F32"), {"name": "reference"}, work / "base", progress)
        family = by_model_type("llama")
        assert family is not None
        self.names = {theirs: ours for ours, theirs in family.names(30).items()}
        self._figures = self.work / "figures.json"
        self.figures: dict[str, Any] = json.loads(self._figures.read_text()) if self._figures.is_file() else {}

    def layer(self, name: str) -> str:
        """The layer that multiplies by a weight: of the tied embedding the head."""
        return HEAD if name == EMBEDDING else name

    def importance(self, name: str) -> np.ndarray:
        """[columns] mean squared input; the tied embedding's as the head."""
        key = self.layer(name)
        return np.maximum((self.squares.squares[key] / self.squares.tokens[key]).numpy().astype(np.float32), 1e-12)

    def imatrix(self) -> Path:
        """llama.cpp's file of the same."""
        path = self.work / "imatrix.gguf"
        if not path.is_file():
            keys = {n: self.layer(n) for n in self.weights}
            sums = {self.names[n]: self.squares.squares[k].numpy() for n, k in keys.items()}
            counts = {self.names[n]: self.squares.tokens[k] for n, k in keys.items()}
            write_imatrix(path, Importance(sums, counts, ["reviews"]))
        return path

    def measure(self, label: str, make: Callable[[], Path], **more: Any) -> dict[str, Any]:
        """KL of a file, once."""
        if label not in self.figures:
            path = make()
            if path.suffix == ".gguf":
                found = self.fidelity.of_gguf(path) | {"bytes": path.stat().st_size}
                found["types"] = dict(Counter(gguf_types(path).values()))
            else:
                found = self.fidelity.of_onnx(path)
                found["bytes"] = json.loads((path / "export.json").read_text())["size_bytes"]
            self.figures[label] = {**found, **more}
            write_json(self._figures, self.figures)
        found = self.figures[label]
        print(f"{label:44s} {found['bytes'] / 1e6:6.1f} MB  KL {found['kl']:.4f} +- {found['kl_se']:.4f}", flush=True)
        return found

    def stock(self, kind: str, imatrix: bool) -> Path:
        """A stock type by `llama_model_quantize`."""
        path = self.work / f"{kind}-{'imatrix' if imatrix else 'plain'}.gguf"
        if not path.is_file():
            llama_process.quantize(
                self.base, path, file_type(kind), threads=1, imatrix=self.imatrix() if imatrix else None
            )
        return path

    def stock_types(self, kind: str) -> dict[str, str]:
        """Weight -> the type that a stock file gives it."""
        found = gguf_types(self.stock(kind, True))
        return {name: found[self.names[name]] for name in self.weights}

    def options(self) -> dict[str, dict[str, tuple[int, float]]]:
        """Weight -> type -> bytes and expected KL, kept on disk."""
        path = self.work / f"options-{len(KINDS)}.json"
        if not path.is_file():
            fisher = {n: self.fisher.fisher[self.layer(n)].numpy() for n in self.weights}
            importance = {n: self.importance(n) for n in self.weights}
            grams = {n for n in self.weights if self.layer(n) in self.squares.grams}
            write_json(path, options(self.weights, fisher, importance, grams=grams))
        found = json.loads(path.read_text())
        return {n: {k: (int(b), float(c)) for k, (b, c) in kinds.items()} for n, kinds in found.items()}

    def mix(self, budget: int) -> dict[str, str]:
        """Weight -> type under a budget for the whole file."""
        table = self.options()
        chosen = choose(table, budget - overhead(self.base, frozenset(self.names[n] for n in self.weights)))
        self.expected = sum(table[n][k][1] for n, k in chosen.items())
        return chosen

    def mixed(self, types: dict[str, str], label: str, how: str) -> Path:
        """A file of the mix, rounded plainly, by importance, or compensated."""
        path = self.work / f"{label}-{how}.gguf"
        if path.is_file():
            return path
        tensors = {}
        for name, kind in types.items():
            gram = self.squares.grams.get(self.layer(name)) if how == "compensated" else None
            importance = None if how == "plain" else torch.from_numpy(self.importance(name))
            data = gguf_bytes(torch.from_numpy(self.weights[name]), kind, importance, gram)
            tensors[self.names[name]] = (kind, layout_of(self.model_dir).to_gguf(self.names[name], data))
        repack(self.base, path, tensors)
        return path

    def train(
        self,
        label: str,
        start: Path,
        grids: dict[str, TensorGrid],
        training: Training,
        loss: Loss | None = None,
        lora: Lora | None = None,
        rows: list[Any] | None = None,
    ) -> Path:
        """Train on a grid, by default every weight by forward KL; the directory with train.json, grid and `model/`.

        `rows` take the place of the reviews, with a signal of their own; the validation rows stay.
        """
        from distill2edge.distill.train import train
        from distill2edge.student.merge import merge

        work = self.work / label
        work.mkdir(exist_ok=True)
        if not (work / "grid.safetensors").is_file():
            save_grids(grids, work)
        reviews, validation = training_rows(self.model_dir, self.progress)
        shared = self.shared if rows is None else work
        signal = signal_of(self.model_dir, [*validation, *(rows or reviews)], shared, self.progress)
        train(
            start,
            rows or reviews,
            validation[:12],
            signal,
            training,
            loss or Loss(ce=0, forward_kl=1),
            lora,
            512,
            SEED,
            work,
            self.progress,
            load_grids(work),
        )
        if lora is not None and not (work / "merge.json").is_file():
            merge(start, work, validation[:2], [], work)
        for path in self.model_dir.iterdir():
            if not (work / "model" / path.name).exists():
                shutil.copy(path, work / "model" / path.name)
        return work

    def trained_gguf(self, work: Path) -> Path:
        """The trained weights and norms in the bytes of their grid."""
        path = work / "model.gguf"
        if not path.is_file():
            tensors = packed(load_grids(work), work / "model", layout_of(work / "model"))
            for name, weight in load_file(work / "model" / "model.safetensors").items():
                if weight.ndim == 1:
                    tensors[self.names[name]] = ("F32", weight.astype(np.float32).view(np.uint8))
            repack(self.base, path, tensors)
        return path

    def start(self, types: dict[str, str], label: str) -> tuple[Path, dict[str, TensorGrid]]:
        """Weights whose nearest levels are the compensated ones, and their grid."""
        target = self.work / label
        if (target / "grid.safetensors").is_file():
            return target, load_grids(target)
        shutil.rmtree(target, ignore_errors=True)

        def moved(name: str, kind: str) -> tuple[torch.Tensor, TensorGrid]:
            weight, gram = torch.from_numpy(self.weights[name]), self.squares.grams.get(self.layer(name))
            return round_matrix(weight, kind, torch.from_numpy(self.importance(name)), gram)

        return target, write_rounded(self.model_dir, types, moved, target, self.progress)

    def onnx(self, model_dir: Path, label: str, grid: Path | None) -> Path:
        """An ONNX int4 export."""
        path = self.work / label
        if not (path / "export.json").is_file():
            export_onnx(model_dir, Scheme("onnx", "int4-b32"), {"name": label}, path, self.progress, grid=grid)
        return path


def main() -> None:
    """All arms, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models, signals and files are kept")
    parser.add_argument(
        "--steps", type=int, default=120, help="of 4 x 128 tokens; half as many at Q4_K_M's size, a third in ONNX"
    )
    parser.add_argument("--untrained", action="store_true", help="leave the training out")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(arguments.work, for_stream())
    for kind in STOCK:
        for imatrix in (False, True):
            bench.measure(f"{kind}, {'imatrix' if imatrix else 'plain'}", lambda k=kind, i=imatrix: bench.stock(k, i))
        types = bench.stock_types(kind)
        bench.measure(f"{kind}, compensated", lambda t=types, k=kind: bench.mixed(t, f"stock-{k}", "compensated"))
    expected = {}
    for size, budget in BUDGETS.items():
        types = bench.mix(budget)
        expected[size] = bench.expected
        for how in ("plain", "imatrix", "compensated"):
            bench.measure(
                f"mix at {size}, {how}", lambda t=types, s=size, h=how: bench.mixed(t, f"mix-{BUDGETS[s]}", h)
            )
    bench.measure("onnx int4, plain", lambda: bench.onnx(bench.model_dir, "onnx-plain", None))
    start, grids = bench.start(dict.fromkeys(bench.weights, "int4-b32"), "onnx-start")
    bench.measure("onnx int4, compensated", lambda: bench.onnx(start, "onnx-compensated", start))
    curves = {} if arguments.untrained else train_all(bench, arguments.steps, start, grids)
    write(bench, curves, expected, arguments.steps)


def train_all(bench: Bench, steps: int, start: Path, grids: dict[str, TensorGrid]) -> dict[str, Any]:
    """The trained arms; validation KL against tokens of each."""
    curves = {}
    shared = {"epochs": 1, "batch_size": 4, "schedule": "cosine", "checkpoints": 6}
    for size, (count, rate) in {"92 MB": (steps, 3e-5), "Q4_K_M's size": (steps // 2, 2e-5)}.items():
        moved, grid = bench.start(bench.mix(BUDGETS[size]), f"start-{BUDGETS[size]}")
        training = Training(max_steps=count, learning_rate=rate, **shared)
        work = bench.train(f"trained-{BUDGETS[size]}", moved, grid, training)
        curves[size] = curve(work)
        bench.measure(f"mix at {size}, trained", lambda w=work: bench.trained_gguf(w), tokens_trained=tokens(work))
    training = Training(max_steps=steps // 3, learning_rate=1e-4, **shared)
    work = bench.train("trained-onnx", start, grids, training)
    curves["onnx int4"] = curve(work)
    bench.measure(
        "onnx int4, trained", lambda: bench.onnx(work / "model", "onnx-trained", work), tokens_trained=tokens(work)
    )
    return curves


def curve(work: Path) -> list[dict[str, float]]:
    """Tokens seen and validation KL (torch, stored weights, top 64 and tail) at each checkpoint."""
    record = json.loads((work / "train.json").read_text())
    each = record["tokens"] / record["steps"]
    return [{"tokens": entry["step"] * each, "kl": entry["loss"]} for entry in record["eval"]]


def tokens(work: Path) -> int:
    """Tokens trained on."""
    return int(json.loads((work / "train.json").read_text())["tokens"])


def write(bench: Bench, curves: dict[str, Any], expected: dict[str, float], steps: int) -> None:
    """The result file."""
    figures = bench.figures

    def least(limit: int, onnx: bool) -> tuple[str, float]:
        fit = {n: f["kl"] for n, f in figures.items() if f["bytes"] <= limit and n.startswith("onnx") == onnx}
        name = min(fit, key=fit.__getitem__)
        return name, fit[name]

    bars = []
    for name, limit, onnx, target in (
        ("GGUF of at most 92 MB", 92_000_000, False, 0.06),
        ("GGUF of at most Q4_K_M's 105.5 MB", BUDGETS["Q4_K_M's size"], False, 0.03),
        ("ONNX int4 of at most 90 MB", 90_000_000, True, 0.10),
    ):
        best, value = least(limit, onnx)
        bars.append(bar(f"{name}: mean KL to full precision", value, "<=", target, unit="nats", note=best))
    if not curves:
        for each in bars:
            each["note"] += "; nothing was trained in this run (--untrained)"
    stock = figures["Q4_K_M, imatrix"]["kl"]
    mixed = figures["mix at Q4_K_M's size, compensated"]["kl"]
    bars.append(
        bar("untrained mix / Q4_K_M with importance matrix, same bytes: KL", mixed / stock, "<=", 2 / 3, unit="x")
    )
    path = write_result(
        "quantization_aware",
        f"python benchmarks/quantization_aware.py {f'--steps {steps}' if curves else '--untrained'}",
        description="SmolLM2-135M (noise of half a step on its packaged weights) against its own files: KL on 3,072 "
        "held-out tokens of newspaper editorials; calibrated and trained on film and product reviews. The trained rows "
        "are one seed; their curve is on validation rows, in torch",
        bars=bars,
        samples={name: [figure["kl"]] for name, figure in figures.items()},
        metrics={"files": figures, "curves": curves, "expected KL of the mixes, from Fisher information": expected},
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
