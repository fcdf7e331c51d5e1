"""Which layers of a decoder or an encoder to keep, and a model made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of_model

if TYPE_CHECKING:
    from distill2edge.util.progress import Progress

WHERE = "student.init.layers"


def evenly(total: int, count: int) -> list[int]:
    """`count` of `total` layers, evenly spaced, first and last among them (one layer: the first)."""
    if count == 1:
        return [0]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def check_layers(layers: int | Sequence[int], total: int, owner: str = "the teacher") -> None:
    """Refuse a count or a list that their owner does not have.

    Raises:
        UserError: none, too many, out of range, twice, or out of order.
    """
    span = f"{owner} has {total} layers"
    if isinstance(layers, int):
        if not 1 <= layers <= total:
            raise UserError(f"{layers} layers: {span}", where=WHERE, fix=f"give a number from 1 to {total}")
        return
    if not layers:
        raise UserError("no layer is chosen", where=WHERE, fix=f"{span}, 0 to {total - 1}: list some")
    if wrong := [layer for layer in layers if not 0 <= layer < total]:
        raise UserError(f"layer {wrong[0]} is out of range: {span}", where=WHERE, fix=f"use 0 to {total - 1}")
    if list(layers) != sorted(set(layers)):
        raise UserError("layers must ascend, each once", where=WHERE, fix=f"write {sorted(set(layers))}")


def body_of(model: Any) -> nn.Module:
    """The part of a model that turns ids into hidden states: its decoder, or for a classifier all but the head."""
    return kind_of_model(model).body(model)  # type: ignore[no-any-return]


def layers_of(model: Any) -> nn.ModuleList:
    """The ModuleList of a model's layers.

    Raises:
        UserError: the architecture keeps them in no list, or shares one layer among all.
    """
    owner, name = _place_of(model)
    return getattr(owner, name)  # type: ignore[no-any-return]


def _place_of(model: Any) -> tuple[nn.Module, str]:
    """The module that holds the list of layers, and the list's name in it."""
    body, total = body_of(model), model.config.num_hidden_layers
    found = [
        (owner, name)
        for owner in body.modules()
        for name, child in owner.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == total and name in ("layers", "layer", "h", "blocks")
    ]
    if not found:
        raise UserError(
            f"the layers of {type(model).__name__} are not in one list",
            where="student.init",
            fix="start the student from a checkpoint instead: student.init: {model: ...}",
        )
    return found[0]


def _install(model: Any, layers: Sequence[nn.Module]) -> None:
    owner, name = _place_of(model)
    setattr(owner, name, nn.ModuleList(layers))
    model.config.num_hidden_layers = len(layers)


def keep_layers(model: Any, kept: Sequence[int]) -> None:
    """Reduce a model to some of its layers, in place: modules, indices, per-layer lists of its config."""
    layers = layers_of(model)
    total = len(layers)
    check_layers(list(kept), total)
    for new, old in enumerate(kept):
        for module in layers[old].modules():
            if getattr(module, "layer_idx", None) == old:
                module.layer_idx = new  # type: ignore[assignment]
    _install(model, [layers[old] for old in kept])
    config = model.config
    for name, value in config.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == total and name not in ("architectures",):
            setattr(config, name, [value[old] for old in kept])
    if getattr(config, "max_window_layers", None) is not None:
        config.max_window_layers = min(config.max_window_layers, len(kept))


@torch.no_grad()
def by_similarity(
    model: Any, batches: Sequence[dict[str, Tensor]], count: int, progress: Progress
) -> tuple[list[int], list[dict[str, float]]]:
    """Drop, one at a time, the block whose output is closest to its input, measured again after each drop.

    Distance: arccos(cosine(input, output)) / pi of the residual stream, mean over tokens (Gromov et al. 2024, "The
    Unreasonable Ineffectiveness of the Deeper Layers", equation 7, for one block; ShortGPT's block influence, Men et
    al. 2024, is 1 - cosine). Their scores are taken once; after a drop the inputs of all later blocks change, so here
    they are taken again.

    Args:
        model: in evaluation mode.
        batches: input_ids, attention_mask and, of two texts, token_type_ids [B, L].

    Returns:
        The layers kept, ascending; and for each drop {layer, distance}.
    """
    layers = list(layers_of(model))
    kept = list(range(len(layers)))
    dropped: list[dict[str, float]] = []
    config_types = getattr(model.config, "layer_types", None)
    with progress.task("measure layers", max(1, len(layers) - count)) as task:
        while len(kept) > count:
            distances = _distances(model, layers, kept, batches, config_types)
            at = min(range(len(kept)), key=distances.__getitem__)
            dropped.append({"layer": kept.pop(at), "distance": distances[at]})
            task.advance(1, f"dropped {dropped[-1]['layer']:.0f}")
    _reduce(model, layers, list(range(len(layers))), config_types)
    return kept, dropped


def _reduce(model: Any, layers: list[nn.Module], kept: Sequence[int], config_types: list[str] | None) -> None:
    _install(model, [layers[i] for i in kept])
    if config_types is not None:
        model.config.layer_types = [config_types[i] for i in kept]


def _distances(
    model: Any,
    layers: list[nn.Module],
    kept: Sequence[int],
    batches: Sequence[dict[str, Tensor]],
    config_types: list[str] | None,
) -> list[float]:
    """Mean angular distance of each kept layer's input and output over all real tokens."""
    _reduce(model, layers, kept, config_types)
    sums = [0.0] * len(kept)
    mask: Tensor

    def hook(at: int) -> Any:
        def measure(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = nn.functional.cosine_similarity(before[mask].float(), after[mask].float(), dim=-1)
            sums[at] += float(torch.arccos(cosine.clamp(-1, 1)).sum()) / math.pi

        return measure

    handles = [layers[i].register_forward_hook(hook(at), with_kwargs=True) for at, i in enumerate(kept)]
    tokens = 0
    without_cache = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    try:
        for batch in batches:
            mask = batch["attention_mask"].bool()
            tokens += int(mask.sum())
            body_of(model)(**batch, **without_cache)
    finally:
        for handle in handles:
            handle.remove()
    return [total / tokens for total in sums]
