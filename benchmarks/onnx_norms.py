"""What an encoder's ONNX file gains where norms are taken apart from residuals (`export/onnx_norms.py`).

python benchmarks/onnx_norms.py

Random encoders of the shapes of MiniLM (six layers) and of BERT-base (three of its twelve), exported twice: as
`transformers.exporters` fuses them, and as the product ships them. One thread, processor time, rounds interleaved.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from common import bar, graph_seconds, interleave, ratio, write_result

from distill2edge.export import onnx_encoders
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import Scheme
from distill2edge.util.bootstrap import Figure
from distill2edge.util.progress import SilentProgress

SHAPES = {"minilm": (384, 12, 6), "bert-base": (768, 12, 3)}
"""Width, heads, layers."""
SCHEMES = ("fp32", "int8-dynamic")
BATCHES = {"1 x 24": (1, 24), "1 x 128": (1, 128), "16 x 64": (16, 64)}
ROUNDS, TOKENS = 15, 480
USUAL, TARGET = "minilm int8-dynamic 1 x 24", 0.9


def make_model(target: Path, shape: tuple[int, int, int]) -> None:
    """A random classifier of this shape, without a tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    width, heads, layers = shape
    config = BertConfig(
        vocab_size=2000, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, num_labels=2,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(target)


def exported(model: Path, scheme: str, target: Path, *, fused: bool) -> Path:
    """The file, with fused norms or with the product's."""
    norms = (lambda _: 0) if fused else onnx_encoders.split_skip_norms
    with mock.patch.object(onnx_encoders, "split_skip_norms", norms):
        export_onnx(model, Scheme("onnx", scheme), {"name": model.name}, target, SilentProgress())
    return target / "model.onnx"


def timed(file: Path, shape: tuple[int, int]) -> Callable[[], float]:
    """What gives the processor seconds of one batch."""
    ids = np.random.default_rng(0).integers(0, 2000, shape)
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    return graph_seconds(file, feed, max(1, TOKENS // ids.size))


def main() -> None:
    """Measure, write the result."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    samples: dict[str, Any] = {}
    found: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory() as root:
        for name, shape in SHAPES.items():
            make_model(model := Path(root) / name, shape)
            for scheme in SCHEMES:
                files = {
                    arm: exported(model, scheme, Path(root) / f"{name}-{scheme}-{arm}", fused=arm == "fused")
                    for arm in ("split", "fused")
                }
                for batch, sizes in BATCHES.items():
                    case = f"{name} {scheme} {batch}"
                    samples[case] = interleave({arm: timed(file, sizes) for arm, file in files.items()}, ROUNDS)
                    found[case] = ratio(samples[case], "split", "fused")
                    print(f"{case:30} {found[case].value:.3f}")
    slowest = max(found, key=lambda case: found[case].value)
    write_result(
        "onnx_norms",
        "python benchmarks/onnx_norms.py",
        description="an encoder's ONNX file with norms taken apart from residuals over fused ones, one thread, CPU",
        bars=[
            bar(f"onnx-norms: time of {USUAL}, norms taken apart over fused", found[USUAL], "<=", TARGET, unit="x"),
            bar("onnx-norms: the same of the case that gains least", found[slowest], "<=", 1.0, unit="x", note=slowest),
        ],
        samples=samples,
        metrics=found,
    )


if __name__ == "__main__":
    main()
