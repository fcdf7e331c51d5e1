"""A type for each tensor against the stock types with an importance matrix, in the same number of bytes.

For each stock type, `llama_model_quantize` makes the file with an importance matrix, and `quantize.allocation` chooses
types in at most its bytes, rounded with compensated errors. What is measured is the KL of both files to SmolLM2-135M in
full precision (`reference_model`), in llama.cpp, on held-out text of another source than the calibration's.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from common import bar, paired, write_result
from quantization_aware import Bench
from reference_model import SEED, default_work

from distill2edge.util.progress import for_stream

STOCK = ("Q3_K_M", "Q3_K_L", "IQ4_XS", "Q4_0", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_K_S", "Q5_K_M")
TARGET = 2 / 3
HELD_OUT_TOKENS = 12_288  # on 3,072 one token of a file decided a bar (docs/log.md)


def main() -> None:
    """Each stock type and its mix, then the bars."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models and files are kept")
    parser.add_argument("--only", nargs="*", default=STOCK, help="stock types; the others' bars are left unmeasured")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(arguments.work, for_stream(), "mix", HELD_OUT_TOKENS)
    rows = {}
    for kind in arguments.only:
        stock = bench.measure(f"{kind}, imatrix", lambda k=kind: bench.stock(k, True))
        types = bench.mix(stock["bytes"])
        expected = bench.expected
        mixed = bench.measure(
            f"mix in {kind}'s bytes", lambda t=types, k=kind: bench.mixed(t, f"mix-{k}", "compensated")
        )
        assert mixed["bytes"] <= stock["bytes"], (kind, mixed["bytes"], stock["bytes"])
        ratio = paired([mixed["windows"]], [stock["windows"]], ratio=True)
        rows[kind] = {"stock": stock, "mix": mixed, "expected": expected, "ratio": ratio}
        print(f"{kind}: {ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}] of the stock type's KL", flush=True)
    write(rows)


def write(rows: dict[str, dict]) -> None:
    """The result file."""
    bars = []
    for kind in STOCK:
        name, row = f"mix / {kind} with importance matrix, in its bytes: KL", rows.get(kind)
        if row is None:
            bars.append(bar(name, None, "<=", TARGET, unit="x", note="not measured in this run"))
            continue
        note = f"{row['mix']['kl']:.4f} and {row['stock']['kl']:.4f} nats in {row['stock']['bytes'] / 1e6:.1f} MB"
        bars.append(bar(name, row["ratio"], "<=", TARGET, unit="x", note=note))
    path = write_result(
        "mix",
        "python benchmarks/mix.py" + ("" if len(rows) == len(STOCK) else f" --only {' '.join(rows)}"),
        description="SmolLM2-135M (noise of half a step on its packaged weights) against its own files: KL on "
        f"{HELD_OUT_TOKENS:,} held-out tokens of newspaper editorials; both arms calibrated on film and product "
        "reviews. One seed, one text",
        bars=bars,
        samples={f"{kind}, {arm}": [row[arm]["kl"]] for kind, row in rows.items() for arm in ("stock", "mix")},
        metrics={"files": rows},
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
