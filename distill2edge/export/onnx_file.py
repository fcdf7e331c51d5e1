"""Writes graphs with one weights file beside them; equal weights are stored once, also between two graphs."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.util.files import replacing

if TYPE_CHECKING:
    import onnx_ir as ir

DATA = "model.onnx.data"
_INLINE = 1024  # bytes; smaller tensors stay in the graph, where shape inference can read them
_ALIGN = 64


def write_graphs(graphs: dict[str, ir.Model], directory: Path, properties: dict[str, str]) -> int:
    """Write `NAME.onnx` per graph and one `model.onnx.data`; each file appears whole or not at all.

    Args:
        graphs: file stem -> model; the models' large initializers are turned into external tensors.
        directory: existing directory.
        properties: metadata that goes into every graph.

    Returns:
        bytes of all files written: what a device needs to run the model.
    """
    import onnx_ir as ir

    stored: dict[tuple[str, str], tuple[int, int]] = {}
    moved: list[tuple[ir.Value, int, int]] = []
    with replacing(directory / DATA) as partial, partial.open("wb") as data:
        for model in graphs.values():
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None:
                    continue
                if tensor.nbytes < _INLINE:
                    if isinstance(tensor, ir.ExternalTensor):  # of the scratch directory, which goes away
                        value.const_value = ir.Tensor(
                            tensor.numpy().copy(), dtype=tensor.dtype, shape=tensor.shape, name=tensor.name
                        )
                    continue
                raw = tensor.tobytes()
                digest = (tensor.dtype.name, hashlib.sha256(raw).hexdigest())
                if digest not in stored:
                    data.write(b"\0" * (-data.tell() % _ALIGN))
                    stored[digest] = (data.tell(), len(raw))
                    data.write(raw)
                moved.append((value, *stored[digest]))
    for value, offset, length in moved:
        tensor = value.const_value
        assert tensor is not None
        value.const_value = ir.ExternalTensor(
            DATA,
            offset,
            length,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=str(value.name),
            base_dir=directory,
        )
    size = (directory / DATA).stat().st_size
    for stem, model in graphs.items():
        model.metadata_props.update(properties)
        # The builder adds a commit of wherever it runs: another in every place, and none of the user's business.
        model.producer_version = (model.producer_version or "").partition("+")[0]
        target = directory / f"{stem}.onnx"
        with replacing(target) as partial:
            ir.save(model, partial)
        size += target.stat().st_size
    return size
