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


def fused_graph(kind: str, inputs: list[str], outputs: list[str], **attributes: float) -> onnx.ModelProto:
    """One fused norm; its fourth output is the sum, as in a layer whose norm comes first."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(WIDTH, np.float32), name)
        for name in inputs
        if name not in ("", "x", "residual")
    ]
    node = helper.make_node(kind, inputs, outputs, domain="com.microsoft", **attributes)
    shape = ["batch", "length", WIDTH]
    ends = [[helper.make_tensor_value_info(name, FLOAT, [*shape[:2], 1] if name == "mean" else shape)
             for name in names if name] for names in (("x", "residual"), outputs)]  # fmt: skip
    graph = helper.make_graph([node], "norm", *ends, weights)
    versions = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=versions, ir_version=10)


def outputs_of(model: onnx.ModelProto, scale: float = 1.0) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    feed = {name: scale * random.standard_normal((2, 5, WIDTH), np.float32) for name in ("x", "residual")}
    feed = {name: value.astype(np.float32) for name, value in feed.items()}
    return list(session.run(None, feed))


@pytest.mark.parametrize("outputs", [["y"], ["y", "", "", "sum"], ["y", "", "", ""]])
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
def test_a_norm_taken_apart_computes_the_same(kind: str, inputs: list[str], outputs: list[str]) -> None:
    fused = fused_graph(kind, inputs, outputs, epsilon=1e-5)
    model = ir.from_proto(fused)
    assert split_skip_norms(model) == 1
    split = ir.to_proto(model)
    assert [node.op_type for node in split.graph.node] == ["Sum", kind.removeprefix("Skip")]
    assert [each.name for each in split.graph.output] == [each.name for each in fused.graph.output]
    for got, expected in zip(outputs_of(split), outputs_of(fused), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["SkipLayerNormalization", "SkipSimplifiedLayerNormalization"])
def test_a_fused_norm_that_names_no_epsilon_has_its_own(kind: str) -> None:
    fused = fused_graph(kind, ["x", "residual", "scale"], ["y"])
    model = ir.from_proto(fused)
    assert split_skip_norms(model) == 1
    small = 1e-3  # beside which the plain norm's default would show
    np.testing.assert_allclose(outputs_of(ir.to_proto(model), small), outputs_of(fused, small), atol=1e-4)


def test_a_norm_whose_mean_is_read_stays() -> None:
    model = ir.from_proto(fused_graph("SkipLayerNormalization", ["x", "residual", "scale"], ["y", "mean"]))
    assert split_skip_norms(model) == 0
    assert [node.op_type for node in model.graph] == ["SkipLayerNormalization"]


def test_a_graph_without_fused_norms_stays_as_it_is() -> None:
    node = helper.make_node("Add", ["x", "residual"], ["y"])
    ends = [[helper.make_tensor_value_info(name, FLOAT, ["batch", "length", WIDTH]) for name in names]
            for names in (("x", "residual"), ("y",))]  # fmt: skip
    model = ir.from_proto(helper.make_model(helper.make_graph([node], "sum", *ends)))
    assert split_skip_norms(model) == 0
    assert [each.op_type for each in model.graph] == ["Add"]
