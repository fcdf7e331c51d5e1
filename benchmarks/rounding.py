"""Algorithms that round weights to 4 bits, all on one grid: KL of SmolLM2-135M to itself in full precision.

    python benchmarks/rounding.py                   # the arms that are not in the work directory yet, then the bar
    python benchmarks/rounding.py --iterations 200  # AutoRound's default, an hour or more on one core

The grid is ONNX Runtime's `MatMulNBits` with zero points: 16 levels, blocks of 32, scales in 16 bits. The linear layers
of the decoder blocks are rounded, the embedding and the head are not. Arms: nearest levels between the least and the
greatest weight of a block, as ONNX Runtime's default; scales fitted by importance, and compensated errors (GPTQ,
important columns first), both ours; HQQ, as ONNX Runtime has it, whose zero points are floats (of 16 bits here, not 4);
AWQ and AutoRound, as the library auto-round has them. Reference, text and measure are those of the other quantization
benchmarks, in torch with dequantized weights. Who calibrates does so on the same windows, AWQ on the first of them; of
this model it scales no input of the attention's output product, since several heads share a value.

SmoothQuant is left out: it makes activations easier to round, and here none are. No library in the dependency set has
it for decoders: ONNX Runtime hands it to neural-compressor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import bar, paired, write_result
from reference_model import SEED, WINDOW, Fidelity, calibration_rows, default_work, reference, statistics_of
from safetensors.torch import load_file

from distill2edge.models.loading import load_model
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.rounding import compensate, inverse
from distill2edge.quantize.scales import TensorGrid
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress, for_stream

KIND = "uint4-b32-f16"
GRID = GRIDS[KIND]
TOKENS, BATCH = 16_384, 8
OURS, FITTED, NEAREST, HQQ, AWQ, AUTOROUND = (
    "compensated errors (GPTQ)", "scales fitted by importance", "nearest", "HQQ", "AWQ", "AutoRound",
)  # fmt: skip
OTHERS = (NEAREST, HQQ, AWQ, AUTOROUND)

Tensors = dict[str, torch.Tensor]


class Bench:
    """The reference, what was measured of its inputs, and the figures found so far (kept on disk by arm)."""

    def __init__(self, work: Path, progress: Progress) -> None:
        self.model_dir = reference(work, progress)
        self.rows = calibration_rows(self.model_dir, TOKENS, progress)
        self.fidelity = Fidelity(self.model_dir, work, progress)
        squares, _ = statistics_of(self.model_dir, work, progress)
        whole = load_file(self.model_dir / "model.safetensors")
        self.weights = {name: whole[name].float() for name in squares.grams if ".layers." in name}
        self.inputs = {n: (squares.squares[n] / squares.tokens[n]).float().clamp_min(1e-12) for n in self.weights}
        self.grams = {name: squares.grams[name] / squares.tokens[name] for name in self.weights}
        self._path = work / "rounding" / "figures.json"
        self._path.parent.mkdir(exist_ok=True)
        self.figures: dict[str, Any] = json.loads(self._path.read_text()) if self._path.is_file() else {}

    def measure(self, arm: str, make: Callable[[], Tensors], **settings: Any) -> dict[str, Any]:
        """KL and seconds of an arm, once for each of its settings."""
        kept = self.figures.get(arm)
        if kept is None or kept["settings"] != settings:
            print(f"{arm}: rounding {len(self.weights)} matrices", flush=True)
            start = time.perf_counter()
            changed = make()
            seconds = time.perf_counter() - start
            check(changed, self.weights)
            model = load_model(self.model_dir, dtype=torch.float32).eval()
            model.load_state_dict(changed, strict=False)
            self.figures[arm] = {**self.fidelity.of_torch(model), "seconds": seconds, "settings": settings}
            write_json(self._path, self.figures)
        found = self.figures[arm]
        print(f"{arm:28s} KL {found['kl']:.4f} +- {found['kl_se']:.4f}, {found['seconds']:.0f} s", flush=True)
        return found

    def each(self, rounded: Callable[[str, torch.Tensor], torch.Tensor]) -> Tensors:
        """Every matrix, rounded by itself."""
        return {name: rounded(name, weight) for name, weight in self.weights.items()}

    def nearest(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Levels from the least to the greatest weight of a block, 0 among them."""
        blocks = weight.reshape(len(weight), -1, GRID.block)
        low, high = blocks.amin(-1).clamp_max(0), blocks.amax(-1).clamp_min(0)
        scale = GRID.stored_scale((high - low) / GRID.table[-1])
        zero = torch.where(scale == 0, 0, -low / scale).round().clamp(0, GRID.table[-1])
        return TensorGrid(KIND, scale, zero, weight.shape[1]).fake_quantized(weight)

    def fitted(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Ours: the scales of the least squared error, each weight as important as its input."""
        return TensorGrid.fitted(weight, KIND, self.inputs[name]).fake_quantized(weight)

    def compensated(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Ours: a column's error is compensated in later columns."""
        moved, grid = compensate(weight, KIND, inverse(self.grams[name]))
        return grid.fake_quantized(moved)

    def hqq(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """ONNX Runtime's own, scales and zero points stored in 16 bits."""
        from onnxruntime.quantization import matmul_nbits_quantizer as ort

        quantizer = ort.HQQWeightOnlyQuantizer(ort.HQQWeightOnlyQuantConfig(GRID.block, GRID.bits))
        codes, scale, zero = quantizer.quantize_internal(weight, GRID.bits, group_size=GRID.block)
        blocks = codes.reshape(len(weight), -1, GRID.block)
        return GRID.decode(blocks, GRID.stored_scale(scale), GRID.stored_scale(zero)).reshape(weight.shape)

    def auto_round(self, algorithm: Any, windows: int) -> Tensors:
        """What the library makes of the blocks: the rounded matrices, and the norms that AWQ rescales."""
        from auto_round import AutoRound, QuantizationScheme
        from transformers import AutoTokenizer

        ids = torch.tensor(self.rows[:windows])
        scheme = QuantizationScheme(bits=GRID.bits, group_size=GRID.block, sym=False, data_type="int", act_bits=16)
        model, _ = AutoRound(
            load_model(self.model_dir, dtype=torch.float32).eval(),
            AutoTokenizer.from_pretrained(self.model_dir, local_files_only=True),
            scheme=scheme,
            alg_configs=algorithm,
            dataset=list(ids.split(BATCH)),
            nsamples=len(ids),
            seqlen=WINDOW,
            batch_size=BATCH,
            amp=False,  # else in bfloat16, which rounds the weights once more
            enable_torch_compile=False,
            device_map="cpu",
            seed=SEED,
        ).quantize()
        for name in self.weights:
            check_parameters(model.get_submodule(name.removesuffix(".weight")))
        return {name: value for name, value in model.state_dict().items() if ".layers." in name}


def check(changed: Tensors, weights: Tensors) -> None:
    """Every matrix and no other is rounded: no block has more values than the grid has levels."""
    assert weights.keys() == {name for name, value in changed.items() if value.ndim > 1}
    for name in weights:
        ordered = changed[name].reshape(-1, GRID.block).sort(-1).values
        levels = int((ordered.diff(dim=-1) != 0).sum(-1).max()) + 1
        assert levels <= len(GRID.table), f"{name}: {levels} levels in a block"


def check_parameters(layer: Any) -> None:
    """A layer that auto-round made lies on the grid: 16-bit scales, whole zero points, whole codes within 4 bits."""
    scale, zero = layer.scale.float(), layer.zp.float()
    assert torch.equal(scale, GRID.stored_scale(scale)), "scales of more than 16 bits"
    assert torch.equal(zero, zero.round()), "zero points between levels"
    codes = layer.weight.detach().reshape(*scale.shape, GRID.block) / scale[..., None] + zero[..., None]
    assert float((codes - codes.round()).abs().max()) < 1e-3, "weights between levels"
    assert torch.equal(codes.round(), codes.round().clamp(0, GRID.table[-1])), "codes beyond 4 bits"


def algorithms(iterations: int) -> tuple[Any, Any]:
    """AWQ and AutoRound, as auto-round configures them.

    Raises:
        SystemExit: the library is not installed.
    """
    try:
        from auto_round import AWQConfig, SignRoundConfig
    except ImportError as error:
        raise SystemExit(
            f"AWQ and AutoRound need a library that distill2edge does not ({error}): "
            "pip install --no-deps auto-round==0.16.1 py-cpuinfo"
        ) from error
    return AWQConfig(), SignRoundConfig(iters=iterations)


def main() -> None:
    """All arms, then the bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where the reference and figures are kept")
    parser.add_argument("--iterations", type=int, default=30, help="of AutoRound on each block, 8 windows each")
    parser.add_argument("--awq-windows", type=int, default=16, help="calibration windows of AWQ, of 64")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    awq, auto_round = algorithms(arguments.iterations)
    bench = Bench(arguments.work, for_stream())
    everything = len(bench.rows)
    bench.measure(NEAREST, partial(bench.each, bench.nearest))
    bench.measure(FITTED, partial(bench.each, bench.fitted), windows=everything)
    bench.measure(OURS, partial(bench.each, bench.compensated), windows=everything)
    bench.measure(HQQ, partial(bench.each, bench.hqq))
    windows = arguments.awq_windows
    bench.measure(AWQ, partial(bench.auto_round, awq, windows), windows=windows)
    bench.measure(
        AUTOROUND,
        partial(bench.auto_round, auto_round, everything),
        windows=everything,
        iterations=arguments.iterations,
    )
    write(bench.figures, arguments)


def write(figures: dict[str, Any], arguments: argparse.Namespace) -> None:
    """The result file."""
    best = min(OTHERS, key=lambda arm: figures[arm]["kl"])
    kls = {arm: figures[arm]["windows"] for arm in figures}
    ratio = paired([kls[OURS]], [kls[best]], ratio=True)
    print(f"{OURS} / {best}: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]", flush=True)
    path = write_result(
        "rounding",
        f"python benchmarks/rounding.py --iterations {arguments.iterations} --awq-windows {arguments.awq_windows}",
        description="SmolLM2-135M (noise of half a step on its packaged weights), the linear layers of its blocks "
        "rounded to 4 bits with zero points in blocks of 32 by different algorithms: KL on 3,072 held-out tokens of "
        "newspaper editorials, in torch; calibrated on film and product reviews. Seconds are of one thread on a busy "
        "machine",
        bars=[
            bar("GPTQ-compensated / best of the other algorithms, same grid: KL", ratio, "<=", 1.0, unit="x",
                note=f"best: {best}; AutoRound with {arguments.iterations} iterations a block (its default is 200), "
                f"AWQ on {arguments.awq_windows} of 64 windows; SmoothQuant: no library in the dependency set has it"),
        ],
        samples={f"KL of each window, {arm}": values for arm, values in kls.items()},
        metrics={
            "arms": {arm: {k: v for k, v in found.items() if k != "windows"} for arm, found in figures.items()},
            "KL of compensated errors minus that of": {
                arm: paired([kls[OURS]], [values]) for arm, values in kls.items() if arm != OURS
            },
        },
        seeds=[SEED],
    )  # fmt: skip
    print(f"written: {path}")


if __name__ == "__main__":
    main()
