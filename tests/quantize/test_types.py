"""The table of types, row by row, against the gguf package, ggml itself and what llama.cpp's quantizer does."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from distill2edge.gguf import llama_process
from distill2edge.gguf.ggml_types import GGML_TYPES, LAST_RESORT, GgmlType, Levels, falls_back_to, file_type, fitting
from distill2edge.gguf.reader import read_gguf
from distill2edge.quantize import ggml
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.schemes import ALL, TRAINABLE, Scheme, parse_scheme
from distill2edge.quantize.types import ONNX_TYPES, TYPES

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
BLOCKS = [name for name, row in GGML_TYPES.items() if row.levels is not None]
NUMBERS = [name for name, row in GGML_TYPES.items() if row.mantissa is not None]


@pytest.mark.parametrize("kind", GGML_TYPES)
def test_a_row_is_a_type_of_ggml_with_its_number_and_bytes(kind: str) -> None:
    row, theirs = GGML_TYPES[kind], gguf.GGMLQuantizationType[kind]
    assert row.number == theirs.value
    assert (row.block, row.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]
    assert row.row_bytes(3 * row.block) == 3 * row.block_bytes
    assert row.weight_bits == 8 * row.block_bytes / row.block
    assert all(0 <= at <= row.block_bytes - 2 for at in row.halves)
    if row.levels is not None:
        assert row.levels.multiple == row.block
        codes = row.levels.bits * row.levels.multiple // 8
        header = 0 if row.header is None else row.header.stop - row.header.start
        assert row.block_bytes >= codes + max(2, header)
        if row.packs:
            assert row.block_bytes == codes + (header or 2 * len(row.halves))


@pytest.mark.parametrize("kind", BLOCKS)
def test_levels_are_those_that_ggml_reads(kind: str) -> None:
    """No block has more values than there are levels, some have about as many, and without an offset each is the
    block's scale times a level."""
    row = GGML_TYPES[kind]
    levels = row.levels
    assert levels is not None
    weight = np.random.default_rng(0).standard_normal((64, 512)).astype(np.float32)
    stored = ggml.dequantize(ggml.quantize(weight, kind), kind, 512)
    table, seen = np.array(levels.table, np.float64), 0
    for block in stored.reshape(-1, levels.block).astype(np.float64)[:400]:
        values = np.unique(block)
        assert len(values) <= len(table)
        if len(values) < 4:
            continue
        if not levels.affine:  # every value is a scale times a level, for the scale that the largest stands for
            peak = values[np.abs(values).argmax()]
            scales = peak / table[table != 0]
            fits = np.abs(values[:, None, None] - scales[:, None] * table).min(-1).max(0)
            assert fits.min() < 1e-5 * np.abs(peak)
        seen = max(seen, len(values))
    assert seen > min(len(table), levels.block) / 3


@pytest.mark.parametrize("kind", BLOCKS)
def test_calibration_changes_the_types_below_eight_bits_alone(kind: str) -> None:
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((8, 512)).astype(np.float32)
    costs = (generator.random(512) ** 4 + 1e-3).astype(np.float32)
    changed = not np.array_equal(ggml.quantize(weight, kind), ggml.quantize(weight, kind, costs))
    assert changed == (GGML_TYPES[kind].precision == "lower")


def test_fallbacks_end_at_a_type_without_blocks() -> None:
    for kind in BLOCKS:
        assert fitting(kind, 512) == kind
        assert fitting(kind, 48) == LAST_RESORT
        assert GGML_TYPES[fitting(kind, 96)].block == 32
        if GGML_TYPES[kind].block == 256:
            assert kind in falls_back_to(fitting(kind, 96))
    assert GGML_TYPES[LAST_RESORT].block == 1
    assert falls_back_to("Q4_0") == "Q2_K or Q3_K"
    assert falls_back_to("Q5_0") == "Q4_K"
    assert falls_back_to(LAST_RESORT) == "any"
    assert not falls_back_to("Q2_K")


@pytest.fixture(scope="module")
def two_widths(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights whose rows have 128 or 256 weights."""
    from tiny import tiny_llama

    from distill2edge.export.gguf import export_gguf
    from distill2edge.util.progress import SilentProgress

    root = tmp_path_factory.mktemp("widths")
    tiny_llama(root / "model", hidden=128, layers=1, tied=False)  # feed-forward 256
    export_gguf(root / "model", parse_scheme("gguf:F32"), {"name": "tiny"}, root, SilentProgress())
    return root / "model.gguf"


@pytest.mark.parametrize("scheme", [scheme for scheme in ALL if scheme.format == "gguf"], ids=str)
def test_llama_cpp_makes_the_file_that_the_table_says(scheme: Scheme, two_widths: Path, tmp_path: Path) -> None:
    """Of its number, in the scheme's type (of a mixture some in a larger one), in the fallback where rows don't fit."""
    name = scheme.name
    (kind,) = (kind for kind, row in GGML_TYPES.items() if name in row.stock)
    llama_process.quantize(two_widths, tmp_path / "out.gguf", file_type(name), threads=1)
    file = read_gguf(tmp_path / "out.gguf")
    assert file.get("general.file_type") == file_type(name)
    narrow = gguf.GGMLQuantizationType(file.tensors["blk.0.ffn_gate.weight"].type).name
    wide = gguf.GGMLQuantizationType(file.tensors["blk.0.ffn_down.weight"].type).name
    assert narrow == fitting(kind, 128)
    assert GGML_TYPES[wide].weight_bits >= GGML_TYPES[kind].weight_bits


def test_every_scheme_has_one_type() -> None:
    assert len({str(scheme) for scheme in ALL}) == len(ALL)
    for scheme in ALL:
        assert parse_scheme(str(scheme)) == scheme
        assert parse_scheme(str(scheme).lower()) == scheme
        assert scheme.type in TYPES.values()
        assert scheme.trainable == (str(scheme) in TRAINABLE)
        if scheme.trainable:
            assert scheme.type is not None
            assert scheme.type.name in GRIDS
    with pytest.raises(ValueError, match="unknown scheme"):
        parse_scheme("gguf:Q4_9")


def test_grids_are_the_types_that_are_packed() -> None:
    assert set(GRIDS) == {name for name, row in TYPES.items() if row.packs}
    for name, grid in GRIDS.items():
        assert vars(grid) == vars(TYPES[name].levels) | {"name": name, "onnx": name in ONNX_TYPES}
    assert {name for name, row in ONNX_TYPES.items() if row.packs} == {
        name for name, row in ONNX_TYPES.items() if row.levels is not None and row.levels.block
    }


@pytest.mark.parametrize("kind", NUMBERS)
def test_numbers_have_the_mantissa_of_their_type(kind: str) -> None:
    import torch

    row = GGML_TYPES[kind]
    assert row.dtype is not None
    assert torch.finfo(getattr(torch, row.dtype)).eps == 2.0**-row.mantissa
    assert row.precision == "lossless"


def test_a_type_needs_its_row_alone() -> None:
    """Number, file type, bytes and precision of one that is not in the table follow from its row."""
    row = GgmlType("MXFP4", Levels((-12, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 12), group=1), stock=("MXFP4",))
    assert (row.number, row.block, row.block_bytes) == (gguf.GGMLQuantizationType.MXFP4, 32, 17)
    assert row.precision == "lower"
    assert not row.packs  # its scale is a power of two, in a byte


def test_the_pace_of_a_type_is_the_measured_one() -> None:
    measured = json.loads((RESULTS / "onnx_kernels.json").read_text())["metrics"]["pace"]
    mixed = {name: row.pace for name, row in ONNX_TYPES.items() if not row.stock}
    assert mixed == {name: round(value, 2) for name, value in measured.items()}
