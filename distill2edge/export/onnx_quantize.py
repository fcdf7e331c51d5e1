"""Puts the weights of an fp32 graph into a scheme: fp16, or 8/4-bit blocks of 32, the embedding and the head included.

Block-wise weights become `MatMulNBits` (a matrix product) and `GatherBlockQuantized` (a table lookup), rounded by
ONNX Runtime's own kernel, or onto grids given for them: then each table has the bits, blocks, zero points and scales of
its own. A table that serves both the lookup and the head is stored once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from distill2edge.export.onnx_edit import attribute, follow, initializer, replace, sweep
from distill2edge.export.onnx_quiet import quiet
from distill2edge.export.onnx_tally import Tally
from distill2edge.gguf.ggml_types import BLOCK
from distill2edge.quantize.types import ONNX_TYPES, OnnxType

if TYPE_CHECKING:
    import onnx_ir as ir

    from distill2edge.export.grid import RowGrids
    from distill2edge.quantize.scales import TensorGrid

ACCURACY_INT8 = 4
"""`accuracy_level` of MatMulNBits: activations are rounded to 8 bits per block, products are summed in integers."""
SMALLEST = 2048
"""Weights; a smaller matrix stays in fp32 (a classifier of three labels, a table of token types)."""
_MICROSOFT = "com.microsoft"


@dataclass
class Table:
    """One matrix and the nodes that read it.

    Attributes:
        name: of its initializer.
        weight: [rows, width] float32.
        lookups: nodes that gather its rows.
        products: nodes that multiply by its transpose, so a row is one output of the product.
    """

    name: str
    weight: np.ndarray
    lookups: list[ir.Node] = field(default_factory=list)
    products: list[ir.Node] = field(default_factory=list)


def quantize_blocks(weight: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Round rows to symmetric blocks of 32 along the width, with ONNX Runtime's kernel.

    Args:
        weight: [rows, width] float32.
        bits: 4 or 8.

    Returns:
        packed [rows, blocks, 32 * bits / 8] uint8, scales [rows, blocks] float32; the last block is padded with zeros.
    """
    with quiet():  # importing it sets up the root logger
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )

    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=True, bits=bits)
    columns = np.ascontiguousarray(weight.T, dtype=np.float32)
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(columns)
    return packed, scales


def dequantize_blocks(packed: np.ndarray, scales: np.ndarray, width: int, bits: int) -> np.ndarray:
    """The values [rows, width] float32 that MatMulNBits computes with: (stored - 2^(bits-1)) * scale."""
    stored = packed
    if bits == 4:
        stored = np.stack((packed & 0xF, packed >> 4), axis=-1).reshape(*packed.shape[:2], BLOCK)
    centred: np.ndarray = stored.astype(np.float32) - 2 ** (bits - 1)
    return np.asarray((centred * scales[..., None]).reshape(len(packed), -1)[:, :width])


def apply_scheme(
    model: ir.Model,
    scheme: str,
    tally: Tally | None = None,
    grids: RowGrids | None = None,
) -> Tally:
    """Rewrite the graph in place.

    Args:
        model: graph whose weights are float32 initializers.
        scheme: `fp32`, `fp16`, `int8` or `int4-b32`.
        tally: that of an earlier graph of the same model, to go on with.
        grids: of a trained model, or one that was rounded to them, which the file gets; None: scales by ONNX Runtime's
            quantizer.

    Returns:
        the tally over every initializer.

    Raises:
        UserError: a matrix that is to be stored in blocks has no grid in `grids`, or rows of several types.
    """
    tally = tally or Tally()
    for table in collect_tables(model):
        rows, width = table.weight.shape
        if scheme == "fp32":
            _store_float(model, table)
        elif table.weight.size < SMALLEST:
            tally.fall_back(table.name, (rows, width), f"fewer than {SMALLEST} weights: fp32")
            _store_float(model, table)
        elif scheme == "fp16":
            _store_half(model, table, tally)
        else:
            grid = scheme if grids is None else grids.of(table.weight, table.name)
            if grid is None:
                tally.fall_back(table.name, (rows, width), f"joins matrices of fewer than {SMALLEST} weights: fp32")
                _store_float(model, table)
                continue
            blocks = _rounded(table, ONNX_TYPES[grid]) if isinstance(grid, str) else _on_grid(table, grid)
            if width % blocks.size:
                tally.fall_back(table.name, (rows, width), f"width padded to a multiple of {blocks.size}")
            _store_blocks(model, table, blocks, tally)
    sweep(model)
    tally.add_rest(model)
    return tally


# --- which matrices there are -----------------------------------------------


def collect_tables(model: ir.Model) -> list[Table]:
    """Every constant matrix that a MatMul, Gemm or Gather reads, tied ones joined into one table.

    Two are tied when one feeds the other through a Transpose, or when a product's matrix equals the transpose of a
    lookup's, value by value.
    """
    tables: list[Table] = []
    for node in list(model.graph):
        if node.op_type == "Gather" and attribute(node, "axis", 0) == 0:
            found = _constant_matrix(node.inputs[0])
            if found:
                _table_of(tables, *found).lookups.append(node)
    for node in list(model.graph):
        if node.op_type in ("Gemm", "FusedMatMul"):
            node = _split(model, node) or node
        if node.op_type == "MatMul":
            found = _constant_matrix(node.inputs[1])
            if found:
                name, matrix = found
                _table_of(tables, name, matrix.T).products.append(node)
    return tables


def _constant_matrix(value: ir.Value | None) -> tuple[str, np.ndarray] | None:
    """Name and values of a float32 matrix, seen through one Transpose."""
    if value is None:
        return None
    producer = value.producer()
    if producer is not None and producer.op_type == "Transpose":
        inner = _constant_matrix(producer.inputs[0])
        return (inner[0], inner[1].T) if inner else None
    tensor = value.const_value
    if producer is not None or tensor is None or tensor.dtype.name != "FLOAT" or len(tensor.shape) != 2:
        return None
    return str(value.name), tensor.numpy()


def _table_of(tables: list[Table], name: str, rows: np.ndarray) -> Table:
    for table in tables:
        if table.weight.shape == rows.shape and (table.name == name or np.array_equal(table.weight, rows)):
            return table
    tables.append(Table(name, rows))
    return tables[-1]


def _split(model: ir.Model, node: ir.Node) -> ir.Node | None:
    """Gemm or FusedMatMul with a constant matrix becomes [Mul,] MatMul [, Add], in place; None where it cannot."""
    import onnx_ir as ir

    found = _constant_matrix(node.inputs[1])
    odd = ("transA", "transBatchA", "transBatchB")
    if not found or any(attribute(node, key, 0) for key in odd) or attribute(node, "beta", 1.0) != 1:
        return None
    name, matrix = found
    if attribute(node, "transB", 0):
        matrix = matrix.T
    left, new = node.inputs[0], []
    alpha = attribute(node, "alpha", 1.0)
    if alpha != 1:
        scale = initializer(model, f"{node.name}.alpha", np.array(alpha, dtype=np.float32))
        new.append(ir.node("Mul", [left, scale], name=f"{node.name}/Mul"))
        left = new[-1].outputs[0]
    product = ir.node("MatMul", [left, initializer(model, f"{name}.kn", matrix)], name=f"{node.name}/MatMul")
    new.append(product)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        new.append(ir.node("Add", [product.outputs[0], node.inputs[2]], name=f"{node.name}/Add"))
    replace(model, node, new)
    return product


# --- how each is stored -----------------------------------------------------


def _store_float(model: ir.Model, table: Table) -> None:
    """Only a tied table changes: one copy, read by rows and, transposed, by the product."""
    import onnx_ir as ir

    if not (table.lookups and table.products):
        return
    rows = initializer(model, f"{table.name}.rows", table.weight)
    for node in table.lookups:
        node.replace_input_with(0, rows)
    for node in table.products:
        fused = ir.node(
            "FusedMatMul", [node.inputs[0], rows], {"transB": 1}, domain=_MICROSOFT, name=f"{node.name}/transposed"
        )
        replace(model, node, [fused])


def _store_half(model: ir.Model, table: Table, tally: Tally) -> None:
    """Stored in 16 bits and widened when the session loads: ONNX Runtime's CPU kernels compute in fp32."""
    import onnx_ir as ir

    limit = float(np.finfo(np.float16).max)
    if np.abs(table.weight).max(initial=0.0) > limit:
        tally.fall_back(table.name, table.weight.shape, "values above the range of fp16: fp32")
        _store_float(model, table)
        return
    tied = bool(table.lookups and table.products)
    by_rows = bool(table.lookups)
    matrix = table.weight if by_rows else table.weight.T
    stored = initializer(model, f"{table.name}.fp16", matrix.astype(np.float16))
    for node in table.lookups:
        node.replace_input_with(0, stored)
        wide = ir.node("Cast", [node.outputs[0]], {"to": ir.DataType.FLOAT}, name=f"{node.name}/Cast")
        follow(model, node, wide)
    if table.products:
        cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, name=f"{table.name}/Cast")
        model.graph.insert_before(table.products[0], cast)
        for node in table.products:
            if tied:
                inputs, extra = [node.inputs[0], cast.outputs[0]], {"transB": 1}
                fused = ir.node("FusedMatMul", inputs, extra, domain=_MICROSOFT, name=f"{node.name}/transposed")
                replace(model, node, [fused])
            else:
                node.replace_input_with(1, cast.outputs[0])
    tally.add("fp16", table.weight, 2 * table.weight.size, (stored.name,))


@dataclass
class Blocks:
    """A table in blocks.

    Attributes:
        kind: what `export.json` calls its type.
        bits: of a code.
        size: codes of a block.
        packed: [rows, blocks, bytes] uint8.
        scales: [rows, blocks] float32, or float16, which are widened when a session loads the file.
        zeros: [rows, bytes] uint8, packed like the codes; None: 2^(bits - 1) stands for 0.
    """

    kind: str
    bits: int
    size: int
    packed: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None = None


def _rounded(table: Table, kind: OnnxType) -> Blocks:
    assert kind.levels is not None
    levels = kind.levels
    return Blocks(kind.label, levels.bits, levels.block, *quantize_blocks(table.weight, levels.bits))


def _on_grid(table: Table, grid: TensorGrid) -> Blocks:
    import torch

    packed, scales, zeros = grid.onnx(torch.from_numpy(np.require(table.weight, requirements=["C", "W"])))
    return Blocks(ONNX_TYPES[grid.kind].label, grid.levels.bits, grid.levels.block, packed, scales, zeros)


def _store_blocks(model: ir.Model, table: Table, blocks: Blocks, tally: Tally) -> None:
    import onnx_ir as ir

    rows, width = table.weight.shape
    kind, parts = blocks.kind, [blocks.packed, blocks.scales]
    stored = initializer(model, f"{table.name}.{kind}", blocks.packed)
    scale = known = initializer(model, f"{table.name}.scales", blocks.scales)
    if blocks.scales.dtype == np.float16:
        # Folded when a session is made: kernels pack weights whose scales are constants.
        cast = ir.node("Cast", [known], {"to": ir.DataType.FLOAT}, name=f"{table.name}.scales/Cast")
        model.graph.insert_before((table.lookups + table.products)[0], cast)
        scale = cast.outputs[0]
    extra: list[ir.Value] = []
    if blocks.zeros is not None:
        parts.append(blocks.zeros)
        extra.append(initializer(model, f"{table.name}.zeros", blocks.zeros))
    common = {"bits": blocks.bits, "block_size": blocks.size}
    for node in table.products:
        attributes = {"K": width, "N": rows, **common, "accuracy_level": ACCURACY_INT8}
        inputs = [node.inputs[0], stored, scale, *extra]
        product = ir.node("MatMulNBits", inputs, attributes, domain=_MICROSOFT, name=f"{node.name}/{kind}")
        replace(model, node, [product])
    for node in table.lookups:
        flat = initializer(model, f"{table.name}.flat", np.array([rows, -1], dtype=np.int64))
        view = ir.node("Reshape", [stored, flat], name=f"{node.name}/flat")
        attributes = {**common, "gather_axis": 0, "quantize_axis": 1}
        inputs = [view.outputs[0], node.inputs[1], scale, *extra]
        lookup = ir.node("GatherBlockQuantized", inputs, attributes, domain=_MICROSOFT, name=f"{node.name}/{kind}")
        nodes = [view, lookup]
        if width % blocks.size:
            ends = [initializer(model, f"{table.name}.{key}", np.array([at], dtype=np.int64))
                    for key, at in (("start", 0), ("end", width), ("axis", -1))]  # fmt: skip
            nodes.append(ir.node("Slice", [lookup.outputs[0], *ends], name=f"{node.name}/unpad"))
        replace(model, node, nodes)
    names = (stored.name, known.name, *(value.name for value in extra))
    tally.add(kind, table.weight, sum(part.nbytes for part in parts), names)
