"""How long ONNX Runtime's product of one token takes with each type of a mix, against plain int4 of the same shape.

python benchmarks/onnx_kernels.py

`MatMulNBits` of one row on one thread, processor time, rounds interleaved, on shapes of SmolLM2-135M: the two of a
layer, and the head. The median of each type over rounds, weighted over the shapes of a layer by their weights, is what
`quantize/types.py` has as `pace`; `export/onnx_mix.py` chooses by it. The head's is told beside it: larger blocks save
more there, so by the layers' pace a mix is rather faster than asked.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from common import graph_seconds, interleave, ratio, write_result
from onnx import TensorProto, helper, numpy_helper

from distill2edge.export.onnx_quantize import ACCURACY_INT8
from distill2edge.quantize.onnx_types import KINDS
from distill2edge.quantize.types import ONNX_TYPES

PLAIN = "int4-b32"
SHAPES = {"up": (576, 1536), "down": (1536, 576), "head": (576, 49152)}
SHARES = {"up": 0.57, "down": 0.43}
"""Of a layer's weights: products from the width, and back to it."""
ROUNDS, WEIGHTS = 15, 3e7


def graph(kind: str, columns: int, rows: int) -> bytes:
    """One product of `rows` outputs."""
    levels = ONNX_TYPES[kind].levels
    assert levels is not None
    blocks, random = -(-columns // levels.block), np.random.default_rng(0)
    values = {
        "codes": random.integers(0, 256, (rows, blocks, levels.block * levels.bits // 8), np.uint8),
        "scales": random.random(rows * blocks, np.float32),
    }
    if levels.zeros:
        values["zeros"] = random.integers(0, 256, rows * -(-blocks * levels.bits // 8), np.uint8)
    node = helper.make_node(
        "MatMulNBits", ["x", *values], ["y"], domain="com.microsoft", K=columns, N=rows, bits=levels.bits,
        block_size=levels.block, accuracy_level=ACCURACY_INT8,
    )  # fmt: skip
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, w]) for n, w in (("x", columns), ("y", rows))]
    weights = [numpy_helper.from_array(value, name) for name, value in values.items()]
    whole = helper.make_graph([node], "product", ends[:1], ends[1:], weights)
    versions = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return onnx.ModelProto.SerializeToString(helper.make_model(whole, opset_imports=versions, ir_version=10))


def timed(kind: str, shape: tuple[int, int]) -> Callable[[], float]:
    """What gives the seconds of a product."""
    feed = {"x": np.random.default_rng(1).random((1, shape[0]), np.float32)}
    return graph_seconds(graph(kind, *shape), feed, max(3, int(WEIGHTS / (shape[0] * shape[1]))))


def main() -> None:
    """Measure, write the result."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    samples: dict[str, dict[str, list[float]]] = {}
    ratios: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
    for name, shape in SHAPES.items():
        samples[name] = interleave({kind: timed(kind, shape) for kind in (PLAIN, *KINDS)}, ROUNDS)
        for kind in KINDS:
            ratios[kind][name] = ratio(samples[name], kind, PLAIN)
    pace = {kind: sum(share * found[name].value for name, share in SHARES.items()) for kind, found in ratios.items()}
    for kind, value in pace.items():
        print(f"{kind:16} {value:.2f}  " + "  ".join(f"{name} {each.value:.2f}" for name, each in ratios[kind].items()))
    write_result(
        "onnx_kernels",
        "python benchmarks/onnx_kernels.py",
        description=f"time of a MatMulNBits of one token by type over {PLAIN} of the same shape, one thread",
        bars=[],
        samples=samples,
        metrics={"pace": pace, "by shape": ratios},
    )


if __name__ == "__main__":
    main()
