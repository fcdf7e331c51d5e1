"""Dynamic INT8 of a classifier: integer weights per channel, activations rounded as they come, by ONNX Runtime's tool.

Decoders lose too much by it (a small one KL 0.6 nats); an encoder reads its text once, and gains the integer products.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.export.onnx_quantize import SMALLEST
from distill2edge.export.onnx_quiet import quiet
from distill2edge.export.onnx_tally import Tally

if TYPE_CHECKING:
    import onnx_ir as ir


def quantize_dynamic(model: ir.Model, scratch: Path, tally: Tally) -> ir.Model:
    """The graph with `MatMulInteger` in place of products and 8-bit tables.

    Args:
        model: graph whose weights are float32 initializers, in memory or in files.
        scratch: directory for the tool's own files.
        tally: gets every initializer of the result.

    Returns:
        a new graph, with its weights in memory.
    """
    import onnx
    import onnx_ir as ir

    with quiet():
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization import quantize_dynamic as rewrite

        before, after = scratch / "dynamic-in.onnx", scratch / "dynamic-out.onnx"
        ir.save(model, before, external_data=f"{before.name}.data")
        proto = onnx.load(before)
        # The exporter's shapes and the tool's own inference may differ in rank, which it takes for an error.
        del proto.graph.value_info[:]
        sizes = {each.name: math.prod(each.dims) for each in proto.graph.initializer if len(each.dims) == 2}
        small = [
            node.name for node in proto.graph.node if any(sizes.get(name, SMALLEST) < SMALLEST for name in node.input)
        ]
        rewrite(
            proto, after, weight_type=QuantType.QInt8, per_channel=True, nodes_to_exclude=small,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    found = ir.load(after)
    ir.external_data.load_to_model(found)
    tally.add_rest(found)
    return found
