"""Fused norms of an exported graph are taken apart again, and compute the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill2edge.export.onnx_norms import split_skip_norms

WIDTH = 12
FLOAT = TensorProto.FLOAT


def fused_graph(kind: str, inputs: list[str], also_sum: bool) -> onnx.ModelProto:
    """One fused norm; with `also_sum` its sum is an output too, as in a layer whose norm comes first."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(WIDTH, np.float32), name)
        for name in inputs
        if name not in ("", "x", "residual")
    ]
    outputs = ["y", "", "", "sum"] if also_sum else ["y"]
    node = helper.make_node(kind, inputs, outputs, domain="com.microsoft", epsilon=1e-5)
    shape = ["batch", "length", WIDTH]
    ends = [[helper.make_tensor_value_info(name, FLOAT, shape) for name in names if name]
            for names in (("x", "residual"), outputs)]  # fmt: skip
    graph = helper.make_graph([node], "norm", *ends, weights)
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def outputs_of(model: onnx.ModelProto) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    feed = {name: random.standard_normal((2, 5, WIDTH), np.float32) for name in ("x", "residual")}
    return list(session.run(None, feed))


@pytest.mark.parametrize("also_sum", [False, True])
@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("SkipLayerNormalization", ["x", "residual", "scale"]),
        ("SkipLayerNormalization", ["x", "residual", "scale", "shift"]),
        ("SkipLayerNormalization", ["x", "residual", "scale", "shift", "bias"]),
        ("SkipLayerNormalization", ["x", "residual", "scale", "", "bias"]),
        ("SkipSimplifiedLayerNormalization", ["x", "residual", "scale"]),
        ("SkipSimplifiedLayerNormalization", ["x", "residual", "scale", "bias"]),
    ],
)
def test_a_norm_taken_apart_computes_the_same(kind: str, inputs: list[str], also_sum: bool) -> None:
    fused = fused_graph(kind, inputs, also_sum)
    model = ir.from_proto(fused)
    assert split_skip_norms(model) == 1
    split = ir.to_proto(model)
    assert [node.op_type for node in split.graph.node] == ["Sum", kind.removeprefix("Skip")]
    assert [each.name for each in split.graph.output] == [each.name for each in fused.graph.output]
    for got, expected in zip(outputs_of(split), outputs_of(fused), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_graph_without_fused_norms_stays_as_it_is() -> None:
    node = helper.make_node("Add", ["x", "residual"], ["y"])
    ends = [[helper.make_tensor_value_info(name, FLOAT, ["batch", "length", WIDTH]) for name in names]
            for names in (("x", "residual"), ("y",))]  # fmt: skip
    model = ir.from_proto(helper.make_model(helper.make_graph([node], "sum", *ends)))
    assert split_skip_norms(model) == 0
    assert [each.op_type for each in model.graph] == ["Add"]
