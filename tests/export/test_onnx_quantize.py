"""Blocks of int8 and int4: the values that ONNX Runtime computes with, one table for lookup and head, odd widths."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.export.onnx_quantize import apply_scheme, dequantize_blocks, quantize_blocks
from distill2edge.quantize.grids import GRIDS

ROWS = 100


@pytest.fixture(scope="module")
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def graph(width: int, weights: dict[str, np.ndarray], tied: bool) -> ir.Model:
    """ids -> Gather -> MatMul(body) -> MatMul(head): the shape of a language model without its layers."""
    ids = ir.Value(name="ids", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["batch", "length"]))
    values = {
        name: ir.Value(name=name, const_value=ir.tensor(array, name=name), shape=ir.Shape(array.shape),
                       type=ir.TensorType(ir.DataType.FLOAT))
        for name, array in weights.items()
    }  # fmt: skip
    if tied:
        transposed = ir.node("Transpose", [values["head"]], {"perm": (1, 0)}, name="tie")
        nodes, table = [transposed], transposed.outputs[0]
    else:
        nodes, table = [], values["embedding"]
    gather = ir.node("Gather", [table, ids], name="lookup")
    body = ir.node("MatMul", [gather.outputs[0], values["body"]], name="body")
    head = ir.node("MatMul", [body.outputs[0], values["head"]], name="head")
    out = head.outputs[0]
    out.name, out.type, out.shape = "logits", ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "length", ROWS])
    return ir.Model(
        ir.Graph([ids], [out], nodes=[*nodes, gather, body, head], initializers=list(values.values()),
                 opset_imports={"": 22, "com.microsoft": 1}, name="g"),
        ir_version=10,
    )  # fmt: skip


def weights_of(width: int, rng: np.random.Generator, tied: bool) -> dict[str, np.ndarray]:
    made = {"body": rng.normal(size=(width, width)), "head": rng.normal(size=(width, ROWS))}
    if not tied:
        made["embedding"] = rng.normal(size=(ROWS, width))
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in made.items()}


def run(model: ir.Model, ids: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options)
    return session.run(None, {"ids": ids})[0]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("width", [64, 90])
@pytest.mark.parametrize("scheme", ["fp32", "fp16", "int8", "int4-b32"])
def test_the_graph_computes_with_the_stored_values(
    scheme: str, width: int, tied: bool, rng: np.random.Generator
) -> None:
    weights = weights_of(width, rng, tied)
    model = graph(width, weights, tied)
    tally = apply_scheme(model, scheme)

    def seen(rows: np.ndarray) -> np.ndarray:
        if scheme == "fp16":
            return rows.astype(np.float16).astype(np.float32)
        if scheme in GRIDS:
            return dequantize_blocks(*quantize_blocks(rows, GRIDS[scheme].bits), rows.shape[1], GRIDS[scheme].bits)
        return rows

    ids = rng.integers(0, ROWS, (2, 3))
    table = weights["head"].T if tied else weights["embedding"]
    expected = seen(table)[ids] @ seen(weights["body"].T).T @ seen(weights["head"].T).T
    scale = float(np.abs(expected).max())
    # int8 and int4 also round the activations to 8 bits per block (accuracy level 4)
    assert np.abs(run(model, ids) - expected).max() < scale * (0.03 if scheme in GRIDS else 1e-5)
    kind = {"int8": "int8-b32"}.get(scheme, scheme)
    assert tally.types[kind]["tensors"] >= (2 if tied else 3)
    padded = [entry for entry in tally.fallbacks if "padded" in entry["reason"]]
    assert bool(padded) == (scheme in GRIDS and width % 32 != 0)


@pytest.mark.parametrize("scheme", ["fp16", "int8", "int4-b32"])
def test_a_tied_table_is_stored_once(scheme: str, rng: np.random.Generator) -> None:
    weights = weights_of(64, rng, tied=True)
    model = graph(64, weights, tied=True)
    tally = apply_scheme(model, scheme)
    big = [v for v in model.graph.initializers.values() if v.const_value is not None and v.const_value.size >= ROWS]
    bytes_stored = sum(v.const_value.nbytes for v in big if v.const_value is not None)
    per_weight = {"fp16": 2.0, "int8": 1 + 4 / 32, "int4-b32": 0.5 + 4 / 32}[scheme]
    assert bytes_stored == per_weight * (64 * 64 + 64 * ROWS)
    assert tally.effective_bits == pytest.approx(8 * per_weight, rel=0.01)


def test_equal_but_separate_tables_become_one(rng: np.random.Generator) -> None:
    weights = weights_of(64, rng, tied=False)
    weights["embedding"] = np.ascontiguousarray(weights["head"].T)
    model = graph(64, weights, tied=False)
    assert apply_scheme(model, "int4-b32").types["int4-b32"]["tensors"] == 2


def test_small_matrices_stay_exact(rng: np.random.Generator) -> None:
    weights = weights_of(32, rng, tied=False)  # the body has 1,024 weights
    model = graph(32, weights, tied=False)
    tally = apply_scheme(model, "int4-b32")
    assert [entry["tensor"] for entry in tally.fallbacks] == ["body"]
    assert "body" in model.graph.initializers


def test_a_gemm_with_scale_and_bias_is_quantized(rng: np.random.Generator) -> None:
    weight, bias = rng.normal(size=(80, 64)).astype(np.float32), rng.normal(size=80).astype(np.float32)
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(["n", 64]))
    constants = [ir.Value(name=n, const_value=ir.tensor(a, name=n), shape=ir.Shape(a.shape),
                          type=ir.TensorType(ir.DataType.FLOAT)) for n, a in (("w", weight), ("b", bias))]  # fmt: skip
    gemm = ir.node("Gemm", [x, *constants], {"transB": 1, "alpha": 0.5}, name="gemm")
    gemm.outputs[0].name, gemm.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    gemm.outputs[0].shape = ir.Shape(["n", 80])
    imports = {"": 22, "com.microsoft": 1}
    model = ir.Model(ir.Graph([x], gemm.outputs, nodes=[gemm], initializers=constants, opset_imports=imports, name="g"),
                     ir_version=10)  # fmt: skip
    assert apply_scheme(model, "int8").types["int8-b32"]["tensors"] == 1
    rows = rng.normal(size=(5, 64)).astype(np.float32)
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    expected = 0.5 * rows @ dequantize_blocks(*quantize_blocks(weight, 8), 64, 8).T + bias
    np.testing.assert_allclose(session.run(None, {"x": rows})[0], expected, atol=0.15)


def test_half_precision_refuses_what_it_cannot_hold(rng: np.random.Generator) -> None:
    weights = weights_of(64, rng, tied=False)
    weights["body"][3, 4] = 1e6
    model = graph(64, weights, tied=False)
    tally = apply_scheme(model, "fp16")
    assert [entry["tensor"] for entry in tally.fallbacks] == ["body"]
    assert np.isfinite(run(model, np.zeros((1, 2), dtype=np.int64))).all()


@settings(max_examples=40)
@given(
    rows=st.integers(1, 9),
    width=st.integers(1, 100),
    bits=st.sampled_from([4, 8]),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**16),
)
def test_no_weight_moves_by_more_than_a_step(rows: int, width: int, bits: int, scale: float, seed: int) -> None:
    """Half a step, but a whole one at the end of the range that has one level less."""
    weight = (np.random.default_rng(seed).normal(size=(rows, width)) * scale).astype(np.float32)
    packed, scales = quantize_blocks(weight, bits)
    blocks = -(-width // 32)
    assert packed.shape == (rows, blocks, 32 * bits // 8)
    assert scales.shape == (rows, blocks)
    step = np.repeat(np.abs(scales), 32, axis=1)[:, :width]
    assert (np.abs(dequantize_blocks(packed, scales, width, bits) - weight) <= 1.01 * step + 1e-12).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_the_values_are_those_of_onnxruntime(bits: int, rng: np.random.Generator) -> None:
    """A lookup of every row in ONNX Runtime gives dequantize_blocks, bit by bit."""
    weights = weights_of(96, rng, tied=True)
    model = graph(96, weights, tied=True)
    apply_scheme(model, {8: "int8", 4: "int4-b32"}[bits])
    lookup = next(node for node in model.graph if node.op_type == "GatherBlockQuantized")
    out = lookup.outputs[0]
    out.type, out.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", "length", 96])
    model.graph.outputs.clear()
    model.graph.outputs.append(out)
    got = run(model, np.arange(ROWS)[None])[0]
    np.testing.assert_array_equal(got, dequantize_blocks(*quantize_blocks(weights["head"].T, bits), 96, bits))
