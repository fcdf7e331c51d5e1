"""A decoder or an encoder made of some of its layers, and which of them do least."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of_model
from distill2edge.models.some_layers import PACKED, fields_of_some, ties_between
from distill2edge.student.chosen import check_layers

if TYPE_CHECKING:
    from distill2edge.util.progress import Progress


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
    changes = fields_of_some(model.config.to_dict(), kept, total)
    _install(model, [layers[old] for old in kept])
    for name, value in changes.items():
        setattr(model.config, name, value)
    for name in PACKED:
        for part in body_of(model).modules():
            if (packed := getattr(part, name, None)) is not None:
                _cut(packed, kept, total)


def _cut(packed: nn.Embedding | nn.Linear, kept: Sequence[int], total: int) -> None:
    """The parts of some layers, of a module that gives a vector for each: a linear layer's rows, a table's columns."""
    across = 0 if isinstance(packed, nn.Linear) else 1
    width = packed.weight.shape[across] // total
    places = torch.cat([torch.arange(layer * width, (layer + 1) * width) for layer in kept])
    packed.weight = nn.Parameter(packed.weight.detach().index_select(across, places.to(packed.weight.device)))
    setattr(packed, "embedding_dim" if across else "out_features", len(places))


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

    Raises:
        UserError: layers that depend on one another, so that none can be left out for a try.
    """
    if tie := ties_between(model.config.to_dict()):
        raise UserError(f"layers cannot be compared one by one: they depend on one another ({tie})",
                        where="student.init.select", fix="set select: even, or list the layers")  # fmt: skip
    layers = list(layers_of(model))
    kept = list(range(len(layers)))
    dropped: list[dict[str, float]] = []
    config_types = getattr(model.config, "layer_types", None)
    with progress.task("measure layers", max(1, len(layers) - count)) as task:
        while len(kept) > count:
            _reduce(model, layers, kept, config_types)
            found = distances(model, batches)
            at = min(range(len(kept)), key=found.__getitem__)
            dropped.append({"layer": kept.pop(at), "distance": found[at]})
            task.advance(1, f"dropped {dropped[-1]['layer']:.0f}")
    _reduce(model, layers, list(range(len(layers))), config_types)
    return kept, dropped


def _reduce(model: Any, layers: list[nn.Module], kept: Sequence[int], config_types: list[str] | None) -> None:
    _install(model, [layers[i] for i in kept])
    if config_types is not None:
        model.config.layer_types = [config_types[i] for i in kept]


def distances(model: Any, batches: Sequence[dict[str, Tensor]]) -> list[float]:
    """Mean angular distance of each layer's input and output over all real tokens, without gradients.

    Args:
        batches: as of `by_similarity`.
    """
    layers = layers_of(model)
    sums = [0.0] * len(layers)
    mask: Tensor

    def hook(at: int) -> Any:
        def measure(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            cosine = nn.functional.cosine_similarity(before[mask].float(), after[mask].float(), dim=-1)
            sums[at] += float(torch.arccos(cosine.clamp(-1, 1)).sum()) / math.pi

        return measure

    handles = [layer.register_forward_hook(hook(at), with_kwargs=True) for at, layer in enumerate(layers)]
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
