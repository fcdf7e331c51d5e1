"""Grids are those of the files: bit for bit what ggml and ONNX Runtime store, on random and on adversarial matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.export.onnx_quantize import dequantize_blocks, quantize_blocks
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.quantize import ggml, k_quants
from distill2edge.quantize.grids import FITTED, GRIDS, Grid, plain
from distill2edge.quantize.rounding import DAMPING, compensate, gguf_bytes, inverse
from distill2edge.quantize.scales import TensorGrid
from distill2edge.quantize.tensor_grids import load_grids, save_grids

GGUF = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
K = k_quants.KINDS
ONNX = ("int4-b32", "int8")
MIXED = tuple(name for name, grid in GRIDS.items() if grid.onnx and grid.half)


@st.composite
def matrices(draw: st.DrawFn, odd: bool = False, block: int = 32) -> np.ndarray:
    """Random rows at a scale from denormal to huge, with the rows that quantizers trip over."""
    rows = draw(st.integers(1, 6))
    columns = draw(st.integers(1, 100)) if odd else block * draw(st.integers(1, 288 // block + 1))
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


@settings(max_examples=150)
@given(matrices(), st.sampled_from(GGUF))
def test_plain_is_what_ggml_stores_bit_for_bit(weight: np.ndarray, kind: str) -> None:
    theirs = ggml.dequantize(ggml.quantize(weight, kind), kind, weight.shape[1])
    np.testing.assert_array_equal(plain(torch.from_numpy(weight), kind).numpy(), theirs)


@settings(max_examples=150)
@given(matrices(odd=True), st.sampled_from(ONNX))
def test_plain_is_what_onnx_runtime_stores_bit_for_bit(weight: np.ndarray, kind: str) -> None:
    packed, scales = quantize_blocks(weight, GRIDS[kind].bits)
    theirs = dequantize_blocks(packed, scales.reshape(len(weight), -1), weight.shape[1], GRIDS[kind].bits)
    np.testing.assert_array_equal(plain(torch.from_numpy(weight), kind).numpy(), theirs)


@settings(max_examples=150)
@given(matrices(), matrices(), st.sampled_from((*GGUF, "IQ4_NL")))
def test_what_trains_on_a_files_grid_is_what_the_file_stores(first: np.ndarray, then: np.ndarray, kind: str) -> None:
    """Scales from ggml's bytes; then other weights on that grid, written and read back by ggml, bit for bit."""
    weight = torch.from_numpy(np.resize(then, first.shape))
    data = ggml.quantize(first, kind)
    assume(np.isfinite(ggml.dequantize(data, kind, first.shape[1])).all())
    grid = TensorGrid.of_gguf(data, kind)
    np.testing.assert_array_equal(
        grid.fake_quantized(weight).numpy(), ggml.dequantize(grid.gguf(weight), kind, first.shape[1])
    )


@settings(max_examples=60)
@given(matrices(), st.sampled_from((*GGUF, "IQ4_NL")))
def test_weights_on_the_grid_stay_where_they_are(weight: np.ndarray, kind: str) -> None:
    data = ggml.quantize(weight, kind)
    stored = ggml.dequantize(data, kind, weight.shape[1])
    assume(np.isfinite(stored).all())
    grid = TensorGrid.of_gguf(data, kind)
    np.testing.assert_allclose(grid.fake_quantized(torch.from_numpy(stored)).numpy(), stored, rtol=1e-6, atol=1e-37)


def of_bytes(data: np.ndarray, kind: str) -> TensorGrid:
    """Headers that overflow say nothing of a grid: they are refused, as another test says."""
    columns = data.shape[1] // GGML_TYPES[kind].row_bytes(256) * 256
    assume(np.isfinite(ggml.dequantize(data, kind, columns)).all())
    return TensorGrid.of_gguf(data, kind)


@settings(max_examples=100)
@given(matrices(block=256), matrices(block=256), st.sampled_from(K))
def test_what_trains_on_a_k_quants_grid_is_what_the_file_stores(first: np.ndarray, then: np.ndarray, kind: str) -> None:
    data = ggml.quantize(first, kind)
    grid = of_bytes(data, kind)
    weight = torch.from_numpy(np.resize(then, first.shape))
    written = grid.gguf(weight)
    np.testing.assert_array_equal(grid.fake_quantized(weight).numpy(), ggml.dequantize(written, kind, first.shape[1]))
    size = GGML_TYPES[kind].row_bytes(256)
    for ours, theirs in zip(written.reshape(-1, size), data.reshape(-1, size), strict=True):
        np.testing.assert_array_equal(k_quants.header(ours, kind), k_quants.header(theirs, kind))


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from(K))
def test_any_bytes_of_a_k_quant_are_read_as_ggml_reads_them(seed: int, kind: str) -> None:
    """Negative and zero scales too, which ggml's quantizer seldom writes: every header that is finite."""
    data = np.random.default_rng(seed).integers(0, 256, (3, 2 * GGML_TYPES[kind].row_bytes(256)), dtype=np.uint8)
    grid = of_bytes(data, kind)
    stored = ggml.dequantize(data, kind, 512)
    again = grid.gguf(torch.from_numpy(stored))
    np.testing.assert_array_equal(ggml.dequantize(again, kind, 512), stored)
    np.testing.assert_array_equal(again, np.where(one_code_each(grid), data, again))


@settings(max_examples=100)
@given(matrices(block=256), st.sampled_from(K), st.booleans())
def test_a_k_quants_own_weights_are_written_as_the_very_bytes(weight: np.ndarray, kind: str, weighted: bool) -> None:
    costs = np.random.default_rng(0).random(weight.shape[1], dtype=np.float32) if weighted else None
    data = ggml.quantize(weight, kind, costs)
    grid = of_bytes(data, kind)
    stored = ggml.dequantize(data, kind, weight.shape[1])
    again = grid.gguf(torch.from_numpy(stored))
    np.testing.assert_array_equal(ggml.dequantize(again, kind, weight.shape[1]), stored)
    np.testing.assert_array_equal(again, np.where(one_code_each(grid), data, again))
    if not weighted:
        np.testing.assert_array_equal(plain(torch.from_numpy(weight), kind).numpy(), stored)


def one_code_each(grid: TensorGrid) -> np.ndarray:
    """[rows, bytes]: whether the byte is of a super-block where no two codes stand for one value."""
    codes = torch.arange(len(grid.levels.table)).expand(*grid.scale.shape, -1)
    levels = grid.levels.decode(codes, grid.scale, grid.offset)
    single = (levels.diff(dim=-1) != 0).all(-1).reshape(len(levels), -1, grid.levels.group).all(-1)
    return single.numpy().repeat(GGML_TYPES[grid.kind].row_bytes(grid.levels.multiple), axis=1)


@pytest.mark.parametrize("kind", K)
def test_random_weights_of_a_k_quant_have_one_code_each(kind: str) -> None:
    """The tests above compare bytes where they can: here they do, everywhere."""
    weight = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
    data = ggml.quantize(weight, kind)
    grid = TensorGrid.of_gguf(data, kind)
    assert one_code_each(grid).all()
    again = grid.gguf(torch.from_numpy(ggml.dequantize(data, kind, 512)))
    np.testing.assert_array_equal(again, data)


def test_a_grid_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    weight = torch.randn(4, 512, generator=torch.Generator().manual_seed(0))
    grids = {f"x.{kind}": TensorGrid.fitted(weight, kind) for kind in ("Q4_0", "Q4_1", *K)}
    save_grids(grids, tmp_path)
    again, written = load_grids(tmp_path), (tmp_path / "grid.safetensors").read_bytes()
    save_grids(again, tmp_path)
    assert (tmp_path / "grid.safetensors").read_bytes() == written
    for name, grid in grids.items():
        assert (again[name].header is not None) == (grid.kind in K)
        np.testing.assert_array_equal(again[name].gguf(weight), grid.gguf(weight))


def test_a_k_quant_without_its_header_is_no_grid(tmp_path: Path) -> None:
    grid = TensorGrid.fitted(torch.ones(2, 256), "Q4_K")
    grid.header = None
    save_grids({"x": grid}, tmp_path)
    with pytest.raises(UserError, match="not a grid: Q4_K lacks a header"):
        load_grids(tmp_path)


@pytest.mark.parametrize("kind", K)
def test_a_k_quant_is_compensated_in_whole_super_blocks_of_ggmls_scales(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, inputs = torch.randn(4, 512, generator=generator), torch.randn(600, 512, generator=generator)
    inputs = inputs @ torch.randn(512, 512, generator=generator)
    gram = inputs.T @ inputs
    with pytest.raises(ValueError, match="together"):
        GRIDS[kind].fit(weight[:, : GRIDS[kind].block], torch.ones(1))
    moved, grid = compensate(weight, kind, inverse(gram))
    costs = gram.diagonal() + DAMPING * gram.diagonal().mean()
    plain = ggml.quantize(weight.numpy(), kind, costs.numpy())
    first = int(costs.view(-1, 256).mean(1).argmax())  # rounded before any error was spread
    header = TensorGrid.of_gguf(plain, kind).header
    assert header is not None
    assert grid.header is not None
    np.testing.assert_array_equal(grid.header[:, first], header[:, first])
    np.testing.assert_array_equal(gguf_bytes(weight, kind, None, gram), grid.gguf(moved))

    def error(stored: torch.Tensor) -> float:
        return float(((stored - weight) @ inputs.T).square().sum())

    assert error(grid.fake_quantized(moved)) < 0.8 * error(torch.from_numpy(ggml.dequantize(plain, kind, 512)))


@pytest.mark.parametrize("size", [32, 256])
def test_blocks_are_rounded_whole_and_those_of_large_inputs_first(size: int) -> None:
    inputs = torch.randn(900, 512, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.5, 4, 512)
    gram = inputs.T @ inputs
    order, upper = inverse(gram).in_order(size)
    blocks = order.view(-1, size)
    assert torch.equal(blocks // size, (blocks[:, :1] // size).expand(-1, size))
    assert torch.equal(blocks.sort(1).values.flatten().sort().values, torch.arange(512))
    squares = gram.diagonal()[order].view(-1, size)
    assert bool((squares.mean(1).diff() <= 0).all())
    assert bool((squares.diff(dim=1) <= 0).all())
    damped = gram.double() + DAMPING * gram.double().diagonal().mean() * torch.eye(512)
    ours = (upper.T @ upper).double() @ damped[order][:, order]
    torch.testing.assert_close(ours, torch.eye(512).double(), atol=1e-2, rtol=0)


@settings(max_examples=60)
@given(matrices(odd=True), st.sampled_from(ONNX))
def test_a_held_grid_in_onnx_is_what_is_computed(weight: np.ndarray, kind: str) -> None:
    grid = TensorGrid.fitted(torch.from_numpy(weight), kind)
    packed, scales, _ = grid.onnx(torch.from_numpy(weight))
    theirs = dequantize_blocks(packed, scales, weight.shape[1], GRIDS[kind].bits)
    np.testing.assert_array_equal(grid.fake_quantized(torch.from_numpy(weight)).numpy(), theirs)


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
    columns = 96 if kind in FITTED else 512
    weight = torch.randn(64, columns, generator=generator)
    importance = torch.rand(columns, generator=generator) ** 3
    grid = TensorGrid.fitted(weight, kind, importance)

    def error(stored: torch.Tensor) -> float:
        return float((importance * (stored - weight).square()).sum())

    if kind in MIXED:
        reference = covering(weight, GRIDS[kind])
    else:
        reference = weight.new_tensor(0) if kind == "IQ4_NL" else plain(weight, kind)
    assert error(grid.fake_quantized(weight)) <= error(reference) * (1 + 1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", ["Q4_0", "IQ4_NL", "int4-b32"])
def test_weights_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    weight = torch.ones(2, 32)
    weight[1, 3] = bad
    with pytest.raises(UserError, match="NaN or Inf"):
        TensorGrid.fitted(weight, kind)


def test_weights_beyond_the_scales_of_a_type_are_refused() -> None:
    weight = np.linspace(-1e5, 1, 64, dtype=np.float32).reshape(2, 32)
    with pytest.raises(UserError, match="beyond the 16-bit scales of Q4_1"):
        TensorGrid.of_gguf(ggml.quantize(weight, "Q4_1"), "Q4_1")
    with pytest.raises(UserError, match="beyond the 16-bit scales of Q4_0"):
        TensorGrid.fitted(torch.full((2, 32), 1e30), "Q4_0")
    for kind in K:
        with pytest.raises(UserError, match=f"beyond the 16-bit scales of {kind}"):
            TensorGrid.fitted(torch.linspace(-1e15, 1e15, 512).reshape(2, 256), kind)


def test_a_row_that_a_type_cannot_hold_is_refused() -> None:
    with pytest.raises(UserError, match="48 weights don't fit Q4_0"):
        plain(torch.ones(2, 48), "Q4_0")
    for kind in K:
        with pytest.raises(UserError, match=f"96 weights don't fit {kind}: its blocks have 256"):
            TensorGrid.fitted(torch.ones(2, 96), kind)
