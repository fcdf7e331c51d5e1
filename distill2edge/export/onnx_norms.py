"""Layer norms in the form that ONNX Runtime's CPU computes fastest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.export.onnx_edit import attribute, hand_over

if TYPE_CHECKING:
    import onnx_ir as ir

_NORM = {
    "SkipLayerNormalization": "LayerNormalization",
    "SkipSimplifiedLayerNormalization": "SimplifiedLayerNormalization",
}
_SUM = 3  # the fused node's output that holds what was normalised
_EPSILON = 1e-12  # where a fused node names none; a plain norm's own default is another


def split_skip_norms(model: ir.Model) -> int:
    """Put a `Sum` and a plain norm in place of each norm that is fused with the residual before it, in place.

    ONNX Runtime's CPU kernels of the fused norms are scalar loops, those of the plain ones are not
    (benchmarks/onnx_norms.py). `Sum` and not `Add`: the runtime would fuse the latter with the norm again.

    A node whose mean or deviation something reads stays: a plain norm gives those of other types.

    Returns:
        how many nodes were replaced.
    """
    import onnx_ir as ir

    fused = [node for node in model.graph if node.op_type in _NORM and node.domain == "com.microsoft"]
    fused = [node for node in fused if not any(map(_is_read, node.outputs[1:_SUM]))]
    for node in fused:
        simplified = node.op_type == "SkipSimplifiedLayerNormalization"
        states, residual, scale, *rest = node.inputs
        shift, bias = (None, *rest, None)[:2] if simplified else (*rest, None, None)[:2]
        parts = [each for each in (states, residual, bias) if each is not None]
        total = ir.node("Sum", parts)
        norm = ir.node(
            _NORM[node.op_type],
            [total.outputs[0], scale] if shift is None else [total.outputs[0], scale, shift],
            attributes={"axis": -1, "epsilon": float(attribute(node, "epsilon", _EPSILON))},
        )
        model.graph.insert_before(node, [total, norm])
        hand_over(model, node.outputs[0], norm.outputs[0])
        if any(map(_is_read, node.outputs[_SUM:])):
            hand_over(model, node.outputs[_SUM], total.outputs[0])
        model.graph.remove(node, safe=True)
    return len(fused)


def _is_read(value: ir.Value) -> bool:
    """Whether a node or whoever runs the graph reads it; an output that is left out has no name."""
    return bool(value.uses()) or value.is_graph_output()
