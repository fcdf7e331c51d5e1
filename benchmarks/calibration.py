"""What an importance matrix brings to stock GGUF types: KL to the full-precision model at the same size.

The matrix is that of the calibration stage: squared inputs of 16,384 tokens of reviews. KL is measured in llama.cpp on
newspaper editorials (`reference_model`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from common import bar, write_result
from quantization_aware import STOCK, Bench
from reference_model import SEED, default_work

from distill2edge.util.progress import for_stream


def main() -> None:
    """Every type twice."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models and files are kept")
    bench = Bench(parser.parse_args().work, for_stream())
    bench.imatrix()
    for kind in STOCK:
        for calibrated in (False, True):
            label = f"{kind}, {'imatrix' if calibrated else 'plain'}"

            bench.measure(label, lambda kind=kind, calibrated=calibrated: bench.stock(kind, calibrated))
    kl = {kind: [bench.figures[f"{kind}, {arm}"]["kl"] for arm in ("plain", "imatrix")] for kind in STOCK}
    bars = [
        bar(f"{kind}: KL with the importance matrix / plain", kl[kind][1] / kl[kind][0], "<=", 0.75, unit="x",
            note=f"KL {kl[kind][0]:.4f} plain, {kl[kind][1]:.4f} calibrated")
        for kind in STOCK
    ]  # fmt: skip
    path = write_result(
        "calibration",
        "python benchmarks/calibration.py",
        description="SmolLM2-135M (noise of half a step on its packaged weights): KL of stock GGUF types on 3,072 "
        "held-out tokens, rounded plainly and by an importance matrix of 16,384 tokens of another source",
        bars=bars,
        samples={f"KL {kind}": values for kind, values in kl.items()},
        metrics={
            "files": {name: bench.figures[name] for name in bench.figures if name.split(",")[0] in STOCK},
        },
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
