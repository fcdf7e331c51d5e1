"""Small edits of an ONNX graph, in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir


def attribute(node: ir.Node, name: str, default: Any) -> Any:
    """Value of a node's attribute."""
    attribute = node.attributes.get(name)
    return default if attribute is None else attribute.value


def initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """The graph's constant of this name, made where there is none."""
    import onnx_ir as ir

    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    tensor = ir.tensor(np.ascontiguousarray(array), name=name)
    value = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype))
    model.graph.register_initializer(value)
    return value


def replace(model: ir.Model, old: ir.Node, new: list[ir.Node]) -> None:
    """Put `new` where `old` was; the last one's output takes the name, shape and users of the old one's."""
    model.graph.insert_before(old, new)
    hand_over(model, old.outputs[0], new[-1].outputs[0])
    model.graph.remove(old, safe=True)


def hand_over(model: ir.Model, source: ir.Value, target: ir.Value) -> None:
    """Give a value's name, shape and users to another one."""
    target.shape, target.type = source.shape, source.type
    for node, position in list(source.uses()):
        node.replace_input_with(position, target)
    for position, output in enumerate(model.graph.outputs):
        if output is source:
            model.graph.outputs[position] = target
    name, source.name = source.name, f"{source.name}/replaced"
    target.name = name


def follow(model: ir.Model, node: ir.Node, after: ir.Node) -> None:
    """Insert `after`, which widens fp16, behind `node` and hand it the users of node's output."""
    import onnx_ir as ir

    source, target = node.outputs[0], after.outputs[0]
    users = [(user, position) for user, position in source.uses() if user is not after]
    target.shape, target.type = source.shape, source.type
    source.type = ir.TensorType(ir.DataType.FLOAT16)
    model.graph.insert_after(node, after)
    for user, position in users:
        user.replace_input_with(position, target)


def sweep(model: ir.Model) -> None:
    """Drop nodes and initializers that nothing reads any more."""
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            model.graph.remove(node, safe=True)
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
