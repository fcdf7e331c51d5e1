"""Grids are those of the files: bit for bit what ggml and ONNX Runtime store, on random and on adversarial matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.export.onnx_quantize import BITS, dequantize_blocks, quantize_blocks
from distill2edge.quantize import ggml
from distill2edge.quantize.grids import GRIDS, Grid, plain
from distill2edge.quantize.scales import Held

GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
ONNX = ("int4-b32", "int8")
MIXED = tuple(name for name, grid in GRIDS.items() if grid.onnx and grid.half)


@st.composite
def matrices(draw: st.DrawFn, odd: bool = False) -> np.ndarray:
    """Random rows at a scale from denormal to huge, with the rows that quantizers trip over."""
    rows = draw(st.integers(1, 6))
    columns = draw(st.integers(1, 100)) if odd else 32 * draw(st.integers(1, 9))
    scale = 10.0 ** draw(st.integers(-42, 30 if odd else 4))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    found = generator.standard_normal((rows, columns)) * scale
    kind = draw(st.sampled_from(("random", "zeros", "constant", "outlier", "ties", "negative", "mixed")))
    if kind == "zeros":
        found[0] = 0
    elif kind == "constant":
        found[0] = scale
    elif kind == "outlier":
        found[:, 0] *= 100
    elif kind == "ties":
        found = np.round(found / scale * 4) / 4 * scale  # ends of the range that are alike, halves between levels
    elif kind == "negative":
        found = -np.abs(found)
    elif kind == "mixed":
        found *= 10.0 ** generator.integers(-6, 1, found.shape)
    return found.astype(np.float32)


@settings(max_examples=150, deadline=None)
@given(matrices(), st.sampled_from(GGUF))
def test_plain_is_what_ggml_stores_bit_for_bit(weight: np.ndarray, kind: str) -> None:
    theirs = ggml.dequantize(ggml.quantize(weight, kind), kind, weight.shape[1])
    np.testing.assert_array_equal(plain(torch.from_numpy(weight), kind).numpy(), theirs)


@settings(max_examples=150, deadline=None)
@given(matrices(odd=True), st.sampled_from(ONNX))
def test_plain_is_what_onnx_runtime_stores_bit_for_bit(weight: np.ndarray, kind: str) -> None:
    packed, scales = quantize_blocks(weight, BITS[kind])
    theirs = dequantize_blocks(packed, scales.reshape(len(weight), -1), weight.shape[1], BITS[kind])
    np.testing.assert_array_equal(plain(torch.from_numpy(weight), kind).numpy(), theirs)


@settings(max_examples=150, deadline=None)
@given(matrices(), matrices(), st.sampled_from((*GGUF, "IQ4_NL")))
def test_what_trains_on_a_files_grid_is_what_the_file_stores(first: np.ndarray, then: np.ndarray, kind: str) -> None:
    """Scales from ggml's bytes; then other weights on that grid, written and read back by ggml, bit for bit."""
    weight = torch.from_numpy(np.resize(then, first.shape))
    data = ggml.quantize(first, kind)
    assume(np.isfinite(ggml.dequantize(data, kind, first.shape[1])).all())
    held = Held.of_gguf(data, kind)
    np.testing.assert_array_equal(held.stored(weight).numpy(), ggml.dequantize(held.gguf(weight), kind, first.shape[1]))


@settings(max_examples=60, deadline=None)
@given(matrices(), st.sampled_from((*GGUF, "IQ4_NL")))
def test_weights_on_the_grid_stay_where_they_are(weight: np.ndarray, kind: str) -> None:
    data = ggml.quantize(weight, kind)
    stored = ggml.dequantize(data, kind, weight.shape[1])
    assume(np.isfinite(stored).all())
    held = Held.of_gguf(data, kind)
    np.testing.assert_allclose(held.stored(torch.from_numpy(stored)).numpy(), stored, rtol=1e-6, atol=1e-37)


@settings(max_examples=60, deadline=None)
@given(matrices(odd=True), st.sampled_from(ONNX))
def test_a_held_grid_in_onnx_is_what_is_computed(weight: np.ndarray, kind: str) -> None:
    held = Held.fitted(torch.from_numpy(weight), kind)
    packed, scales, _ = held.onnx(torch.from_numpy(weight))
    theirs = dequantize_blocks(packed, scales, weight.shape[1], BITS[kind])
    np.testing.assert_array_equal(held.stored(torch.from_numpy(weight)).numpy(), theirs)


def covering(weight: torch.Tensor, grid: Grid) -> torch.Tensor:
    """Rounded to levels that span each block, min to max; the scale in 16 bits."""
    blocks = torch.nn.functional.pad(weight, (0, -weight.shape[1] % grid.block)).unflatten(1, (-1, grid.block))
    if grid.zeros:
        low, high = blocks.amin(-1, keepdim=True).clamp_max(0), blocks.amax(-1, keepdim=True).clamp_min(0)
        step = ((high - low) / 15).half().float()
        zero = (-low / step).round()
        stored = (((blocks / step).round() + zero).clamp(0, 15) - zero) * step
    else:
        step = (blocks.abs().amax(-1, keepdim=True) / 128).half().float()
        stored = (blocks / step).round().clamp(-128, 127) * step
    return stored.flatten(1)[:, : weight.shape[1]]


@pytest.mark.parametrize("kind", GRIDS)
def test_a_fitted_grid_errs_no_more_than_the_plain_one(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 96, generator=generator)
    importance = torch.rand(96, generator=generator) ** 3
    held = Held.fitted(weight, kind, importance)

    def error(stored: torch.Tensor) -> float:
        return float((importance * (stored - weight).square()).sum())

    if kind in MIXED:
        reference = covering(weight, GRIDS[kind])
    else:
        reference = weight.new_tensor(0) if kind == "IQ4_NL" else plain(weight, kind)
    assert error(held.stored(weight)) <= error(reference) * (1 + 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "int4-b32"])
def test_weights_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    weight = torch.ones(2, 32)
    weight[1, 3] = bad
    with pytest.raises(UserError, match="NaN or Inf"):
        Held.fitted(weight, kind)


def test_weights_beyond_the_scales_of_a_type_are_refused() -> None:
    weight = np.linspace(-1e5, 1, 64, dtype=np.float32).reshape(2, 32)
    with pytest.raises(UserError, match="beyond the 16-bit scales of Q4_1"):
        Held.of_gguf(ggml.quantize(weight, "Q4_1"), "Q4_1")
    with pytest.raises(UserError, match="beyond the 16-bit scales of Q4_0"):
        Held.fitted(torch.full((2, 32), 1e30), "Q4_0")


def test_a_row_that_a_type_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match="48 weights don't fit Q4_0"):
        plain(torch.ones(2, 48), "Q4_0")
