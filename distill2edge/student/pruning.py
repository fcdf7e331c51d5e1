"""A narrower model made of another's heads, feed-forward channels and hidden channels: whole rows and columns.

It must compute what the whole one does with the others set to zero; that is compared each time, so that a family whose
parts depend on each other in another way is refused. Of hidden channels this needs norms that go by the mean square:
over fewer channels it is larger by a known factor, which their weights take back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of_model, logits_of
from distill2edge.models.widths import Widths, settings
from distill2edge.student.importance import Importance
from distill2edge.student.tensor_roles import CHANNELS, HEADS, HIDDEN, KV, WHERE, Roles


@dataclass(frozen=True)
class Kept:
    """What stays, as ascending indices.

    Attributes:
        rows: name of a layer's matrix that reads heads or channels -> kv groups, or channels.
        hidden: of the whole model; None: all.
    """

    rows: Mapping[str, Tensor]
    hidden: Tensor | None


def choose(found: Importance, whole: Widths, narrow: Widths) -> Kept:
    """The parts of each layer, and the channels of the residual stream, with the largest activations."""
    rows: dict[str, Tensor] = {}
    for part, count, total in (
        (found.groups, narrow.kv_groups, whole.kv_groups),
        (found.channels, narrow.feed_forward, whole.feed_forward),
    ):
        if count < total:
            rows |= {name: _largest(values, count) for name, values in part.items()}
    if narrow.hidden == whole.hidden:
        return Kept(rows, None)
    return Kept(rows, _largest(torch.stack(list(found.hidden.values())).sum(0), narrow.hidden))


def _largest(values: Tensor, count: int) -> Tensor:
    return values.argsort(descending=True, stable=True)[:count].sort().values


@torch.no_grad()
def prune(model: Any, roles: Roles, whole: Widths, narrow: Widths, kept: Kept) -> Any:
    """A model of the kept parts. The given one is left with the others set to zero.

    Raises:
        UserError: a family whose parts depend on each other in a way that is not known here.
    """
    if kept.hidden is not None:
        for name in roles.norms:
            _check_norm(model.get_submodule(name), name, type(model).__name__)
    state = {name: _cut(value, name, roles, whole, kept) for name, value in model.state_dict().items()}
    small = _built(model, roles, narrow, whole, state)
    probe = _probe(model)
    _zero_others(model, roles, whole, kept)
    before, after = logits_of(model, probe, 0).float(), logits_of(small, probe, 0).float()
    scale = max(float(before.abs().max()), 1.0)
    if before.shape != after.shape or not float((before - after).abs().max()) <= 1e-3 * scale:
        raise UserError(
            f"a narrower {type(model).__name__} computes something else than the whole one with the same parts",
            where=WHERE,
            fix="take student.init.width out, or leave out hidden",
        )
    return small


def _cut(value: Tensor, name: str, roles: Roles, whole: Widths, kept: Kept) -> Tensor:
    """The rows and columns of one tensor that stay."""
    for axis, role in enumerate(roles.axes.get(name, ())):
        index = _index(role, name, roles, whole, kept)
        if index is not None and axis < value.ndim:
            value = value.index_select(axis, index)
    return value.clone().contiguous()


def _index(role: str | None, name: str, roles: Roles, whole: Widths, kept: Kept) -> Tensor | None:
    """What stays of an axis; None: all of it."""
    if role == HIDDEN:
        return kept.hidden
    if role not in (HEADS, KV, CHANNELS):
        return None
    readers = roles.feed_forward if role == CHANNELS else roles.attention
    at = kept.rows.get(_of_layer(readers, name))
    if at is None or role == CHANNELS:
        return at
    width = whole.head * (whole.queries if role == HEADS else 1)
    return (at[:, None] * width + torch.arange(width)).flatten()


def _of_layer(names: Sequence[str], other: str) -> str:
    """That of some modules, one for each layer, which is of the layer of a tensor."""
    layer = _layer_of(other)
    return next((name for name in names if _layer_of(name) == layer), "")


def _layer_of(name: str) -> str:
    parts = name.split(".")
    at = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return "" if at is None else ".".join(parts[: at + 1])


def _built(model: Any, roles: Roles, narrow: Widths, whole: Widths, state: Mapping[str, Tensor]) -> Any:
    """The class of a model with narrower settings and these weights."""
    fields = {**model.config.to_dict(), **settings(whole, narrow)}
    if "rms_norm_eps" in fields:
        # sum / kept + e * all / kept is what sum / all + e was, but for a factor.
        fields["rms_norm_eps"] *= whole.hidden / narrow.hidden
    config = type(model.config).from_dict(fields)
    config.architectures = model.config.architectures
    small = type(model)(config, **kind_of_model(model).options(config.to_dict())).to(model.dtype).eval()
    shapes = {name: value.shape for name, value in small.state_dict().items()}
    for name, value in state.items():
        if shapes.get(name) != value.shape:
            found = "no such tensor" if name not in shapes else f"{list(shapes[name])}"
            raise UserError(
                f"a narrower {type(model).__name__} has other weights than are known here: {name} is "
                f"{list(value.shape)} here and {found} there",
                where=WHERE,
                fix="take student.init.width out",
            )
    small.load_state_dict(state)
    small.tie_weights()
    for name in () if narrow.hidden == whole.hidden else roles.norms:
        _scale_norm(small.get_submodule(name), math.sqrt(whole.hidden / narrow.hidden))
    if getattr(model, "generation_config", None) is not None:
        small.generation_config = model.generation_config
    return small


def _zero_others(model: Any, roles: Roles, whole: Widths, kept: Kept) -> None:
    """Set to zero, in place, what goes: where it is written into the residual stream, or read from a layer's inside."""
    state = model.state_dict(keep_vars=True)
    for name, axes in roles.axes.items():
        for axis, role in enumerate(axes[: state[name].ndim]):
            reads = axis == 1 and role in (HEADS, CHANNELS)
            writes = (role == HIDDEN and (axis == 0 or axes[0] is None) and len(axes) == 2) or (
                role == HIDDEN and name.endswith(".bias")
            )
            index = _index(role, name, roles, whole, kept) if reads or writes else None
            if index is not None:
                gone = torch.ones(state[name].shape[axis], dtype=torch.bool)
                gone[index] = False
                state[name].data.index_fill_(axis, gone.nonzero().flatten(), 0.0)


def _check_norm(norm: Any, name: str, family: str) -> None:
    """Refuse norms that are more than their weights times the input over its root mean square."""
    x = torch.linspace(-2, 3, norm.weight.numel()).to(norm.weight)[None]
    plain = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True))
    if any(
        torch.allclose(norm(x).float(), plain * (norm.weight.float() + add), rtol=1e-2, atol=1e-3) for add in (0, 1)
    ):
        return
    raise UserError(
        f"{name} of this {family} takes a mean over all channels, not only their square",
        where=f"{WHERE}.hidden",
        fix="leave student.init.width.hidden out",
    )


def _scale_norm(norm: Any, factor: float) -> None:
    """Multiply a norm's output; some add 1 to their weights."""
    one = torch.ones(1, norm.weight.numel()).to(norm.weight)
    added = (norm(one).float() - norm.weight.float()).mean().round()
    norm.weight.data = ((norm.weight.float() + added) * factor - added).to(norm.weight.dtype)


def _probe(model: Any) -> list[int]:
    return [index % int(model.get_input_embeddings().weight.shape[0]) for index in range(3, 19)]
