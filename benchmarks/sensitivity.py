"""Whether the Fisher proxy ranks types as the measured KL does: one tensor of SmolLM2-135M quantized at a time.

For a seeded sample of tensors and types, the expected KL (`quantize.sensitivity`, without the share that compensation
leaves) stands against the KL measured in torch with only that tensor rounded by importance, on held-out text. The
reference is that of the other quantization benchmarks.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from common import bar, write_result
from quantization_aware import Bench
from reference_model import SEED, default_work
from scipy.stats import spearmanr

from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.models.loading import load_model
from distill2edge.quantize import ggml
from distill2edge.quantize.sensitivity import KINDS, option
from distill2edge.util.progress import for_stream

TARGET = 0.9
QUICK = ("Q3_K", "Q4_0", "IQ4_NL", "Q4_K", "Q5_0", "Q8_0")
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def main() -> None:
    """The sample, both figures of each, and their rank correlation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models and files are kept")
    parser.add_argument("--pairs", type=int, default=60, help="tensors x types measured")
    parser.add_argument("--windows", type=int, default=1, help="held-out windows of 256 tokens")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(arguments.work, for_stream(), "mix")
    model = load_model(bench.model_dir, dtype=torch.float32).eval()
    state = model.state_dict()
    start = time.process_time()
    rows = []
    for name, kind in sample(bench, arguments.pairs):
        weight, importance = bench.weights[name], bench.importance(name)
        fisher = bench.fisher.fisher[HEAD if name == EMBEDDING else name].numpy()
        _, expected = option(weight, fisher, importance, (kind,))[kind]
        stored = ggml.dequantize(ggml.quantize(weight, kind, importance), kind, weight.shape[1])
        with torch.no_grad():
            state[name].copy_(torch.from_numpy(stored))
            measured = bench.fidelity.of_torch(model, arguments.windows)["kl"]
            state[name].copy_(torch.from_numpy(weight))
        rows.append({"tensor": name, "type": kind, "expected": expected, "measured": measured})
        print(f"{name:44s} {kind:7s} expected {expected:.6f}  measured {measured:.6f}", flush=True)
    write(rows, arguments, time.process_time() - start)


def sample(bench: Bench, pairs: int) -> list[tuple[str, str]]:
    """Tensors drawn without repetition, the embedding among them, each with types whose blocks fit, by turns."""
    generator = np.random.default_rng(SEED)
    names = [EMBEDDING, *generator.permutation([name for name in bench.weights if name != EMBEDDING])]
    found = []
    for index in range(pairs):
        name = str(names[index % len(names)])
        fitting = [
            kind for kind in KINDS if kind in QUICK and bench.weights[name].shape[1] % GGML_TYPES[kind].block == 0
        ]
        found.append((name, fitting[int(generator.integers(len(fitting)))]))
    return found


def write(rows: list[dict], arguments: argparse.Namespace, seconds: float) -> None:
    """The result file."""
    expected, measured = ([row[key] for row in rows] for key in ("expected", "measured"))
    rank = spearmanr(expected, measured)
    small = [index for index, row in enumerate(rows) if row["type"] != "Q8_0"]
    without = spearmanr([expected[index] for index in small], [measured[index] for index in small])
    ratio = np.array(measured) / np.array(expected)
    path = write_result(
        "sensitivity",
        "python benchmarks/sensitivity.py",
        description=f"SmolLM2-135M: expected KL from the Fisher diagonal against the KL measured in torch on "
        f"{arguments.windows * 256} held-out tokens when only that tensor is quantized; {len(rows)} pairs of tensor "
        "and type, one draw",
        bars=[
            bar("Spearman rank correlation of expected and measured KL, one tensor quantized", float(rank.statistic),
                ">=", TARGET, note=f"{len(rows)} pairs; without Q8_0 {float(without.statistic):.3f}"),
        ],
        samples={"expected": expected, "measured": measured},
        metrics={
            "pairs": rows,
            "spearman": float(rank.statistic),
            "spearman without Q8_0": float(without.statistic),
            "measured / expected, quartiles": [float(value) for value in np.quantile(ratio, (0.25, 0.5, 0.75))],
            "cpu_seconds": seconds,
        },
        seeds=[SEED],
    )  # fmt: skip
    print(f"written: {path}; rank correlation {rank.statistic:.3f}, {seconds:.0f} CPU seconds")


if __name__ == "__main__":
    main()
