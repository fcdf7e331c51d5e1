"""What each part of a model's widths does on calibration rows: heads, feed-forward channels, hidden channels.

After Minitron (Muralidharan et al. 2024, arXiv 2407.14679, section 2.2): the mean size of activations, from forward
passes alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from distill2edge.errors import UserError
from distill2edge.models.widths import MEASURED_TOKENS, Widths
from distill2edge.quantize.calibration_texts import batches, inputs_of, take
from distill2edge.student.tensor_roles import Roles

if TYPE_CHECKING:
    from distill2edge.util.progress import Progress


@dataclass
class Importance:
    """Means over tokens.

    Attributes:
        groups: name of an attention output's matrix -> [kv groups], the L2 norms of a group's heads, summed.
        channels: name of a feed-forward block's second matrix -> [feed-forward], |input|.
        hidden: name of a norm -> [hidden], |output|.
        tokens: on which they were taken.
    """

    groups: dict[str, Tensor] = field(default_factory=dict)
    channels: dict[str, Tensor] = field(default_factory=dict)
    hidden: dict[str, Tensor] = field(default_factory=dict)
    tokens: int = 0


@torch.no_grad()
def measure(model: Any, roles: Roles, widths: Widths, rows: Sequence[Sequence[int]], progress: Progress) -> Importance:
    """Pass calibration rows through a model.

    Args:
        model: in evaluation mode.
        rows: token ids, or `Text`s.

    Raises:
        UserError: no rows, or activations that are not finite.
    """
    found = Importance()
    chosen = take(rows, MEASURED_TOKENS)
    with progress.task("measure widths", len(chosen)) as task, _hooks(model, roles, widths, found) as state:
        for batch in batches(chosen):
            inputs, masks = inputs_of(model, batch)
            state["mask"] = masks[0].bool()
            found.tokens += int(masks[0].sum())
            model(**inputs)
            task.advance(len(batch))
    for part in (found.groups, found.channels, found.hidden):
        for name, total in part.items():
            part[name] = total / found.tokens
            if not torch.isfinite(part[name]).all():
                raise UserError(
                    f"what {name} reads is not finite on the calibration rows",
                    where="data.splits.calibration",
                    fix="check the weights for NaN or Inf",
                )
    return found


@contextmanager
def _hooks(model: Any, roles: Roles, widths: Widths, found: Importance) -> Iterator[dict[str, Any]]:
    """Hooks that add up; yields a table whose `mask` [B, L] says which positions hold tokens."""
    state: dict[str, Any] = {}

    def add(part: dict[str, Tensor], name: str, values: Tensor) -> None:
        total = values[state["mask"]].float().sum(0).double()
        part[name] = part[name] + total if name in part else total

    def heads(name: str) -> Any:
        def see(module: Any, args: Any) -> None:
            split = args[0].unflatten(-1, (widths.kv_groups, widths.queries, widths.head))
            add(found.groups, name, split.float().norm(dim=-1).sum(-1))

        return see

    def channels(name: str) -> Any:
        return lambda module, args: add(found.channels, name, args[0].abs())

    def norm(name: str) -> Any:
        return lambda module, args, output: add(found.hidden, name, output.abs())

    parts = dict(model.named_modules())
    handles = [
        *(parts[name].register_forward_pre_hook(heads(name)) for name in roles.attention),
        *(parts[name].register_forward_pre_hook(channels(name)) for name in roles.feed_forward),
        *(parts[name].register_forward_hook(norm(name)) for name in roles.norms),
    ]
    try:
        yield state
    finally:
        for handle in handles:
            handle.remove()
