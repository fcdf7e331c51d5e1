"""Which matrices of a model are multiplied with the same input: a traced graph joins them into one product."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from distill2edge.models.kinds import DECODER, kind_of_model
from distill2edge.quantize import onnx_types
from distill2edge.quantize.activation_statistics import linears
from distill2edge.quantize.calibration_texts import said_of


def groups_of(model: Any, row: Sequence[int], names: Iterable[str]) -> dict[str, list[str]]:
    """Group -> weights that an ONNX graph of the model stores in one type.

    A decoder's graph is built by names. That of every other kind is traced, and joins what reads the same tensor:
    query, key and value, the halves of a gate, the keys and values that all blocks of a decoder take of its encoder.

    Args:
        row: tokens of one text.
        names: of the weights.
    """
    if kind_of_model(model) is DECODER:
        return onnx_types.groups(names)
    first = _readers(model, row)
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(first.get(name, name), []).append(name)
    # A group of several is not called as its first matrix is.
    more = {len(members): f" + {len(members) - 1}" for members in found.values() if len(members) > 1}
    return {f"{members[0]}{more.get(len(members), '')}": members for members in found.values()}


def _readers(model: Any, row: Sequence[int]) -> dict[str, str]:
    """Weight -> the first weight that was multiplied with the same tensor."""
    import torch

    first: dict[str, str] = {}
    seen: list[tuple[Any, str]] = []

    def look(name: str, x: Any) -> None:
        if name in first:
            return
        for other, reader in seen:
            if other is x:
                first[name] = reader
                return
        seen.append((x, name))
        first[name] = name

    handles = [
        part.register_forward_pre_hook(lambda _, args, name=f"{name}.weight": look(name, args[0]))
        for name, part in linears(model).items()
    ]
    try:
        with torch.no_grad():
            said_of(model, row)
    finally:
        for handle in handles:
            handle.remove()
    return first
