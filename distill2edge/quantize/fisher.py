"""The Fisher information of a model's weights: what a small change of each does to what the model says.

Labels are sampled from the model's own predictions, so that 1/2 sum F d^2 estimates the KL that a small change d of the
weights causes (Amari's metric). What is predicted follows from the kind of model: a token at each position, a class,
or numbers, taken as the means of normal distributions of variance 1, whose KL is half the squared distance.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER_DECODER,
    REGRESSOR,
    kind_of_model,
)
from distill2edge.quantize.activation_statistics import Statistics, linears
from distill2edge.quantize.calibration_texts import said_of, take
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

    Sampled = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


def _categorical(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Minus the log-likelihood of labels drawn from logits [P, C], summed."""
    import torch

    labels = torch.multinomial(logits.detach().softmax(-1), 1, generator=generator)[:, 0]
    return torch.nn.functional.cross_entropy(logits, labels, reduction="sum")


def _normal(means: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """The same of numbers [P, D] of unit variance, up to a constant."""
    import torch

    drawn = means.detach() + torch.randn(means.shape, generator=generator)
    return 0.5 * (drawn - means).square().sum()


_SAMPLED: Mapping[str, Sampled] = {
    DECODER.name: _categorical,
    ENCODER_DECODER.name: _categorical,
    CLASSIFIER.name: _categorical,
    REGRESSOR.name: _normal,
    EMBEDDER.name: _normal,
}
"""Kind of model -> minus the log-likelihood of what is drawn from what it says."""

_TOKEN_BY_TOKEN = (DECODER.name,)
"""Kinds of which every token that a layer reads is taken as independent of the others, as in K-FAC: as many labels as
tokens are drawn. Of the others the gradients of a text's tokens are summed before they are squared: its labels are
drawn apart, so the square of their sum has the Fisher information as its mean."""


def collect_fisher(
    model: Any,
    rows: Sequence[Sequence[int]],
    progress: Progress,
    *,
    max_tokens: int = 4096,
    seed: int = 0,
    only: Collection[str] | None = None,
) -> Statistics:
    """The diagonal of the Fisher information per prediction (a token, or a text of a model that says something of it),
    and the squared inputs, of linear layers and the embedding.

    A tied embedding has an entry for each of its two uses: their sum is that of the matrix.

    Args:
        model: a torch model in eval mode; its parameters no longer require gradients afterwards.
        rows: token ids of each row; of an encoder-decoder, `Text`s.
        max_tokens: rows beyond this many tokens are left out.
        seed: of the labels.
        only: names of the weights to keep, so that a large model goes in parts, all with the same labels.

    Raises:
        UserError: no rows.
    """
    import torch

    found, kind = Statistics(), kind_of_model(model).name
    chosen = take(rows, max_tokens)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    predictions = 0
    with progress.task("measuring sensitivity", len(chosen)) as task, _hooks(model, found, only, kind):
        for row in chosen:
            logits = said_of(model, row)
            logits = logits.reshape(-1, logits.shape[-1]).float()
            _SAMPLED[kind](logits, generator).backward()
            predictions += len(logits)
            task.advance()
    for value in found.fisher.values():
        value /= predictions
    return found


@contextmanager
def _hooks(model: Any, found: Statistics, only: Collection[str] | None, kind: str) -> Iterator[None]:
    """Adds up squared gradients of every backward pass."""
    summed = kind not in _TOKEN_BY_TOKEN
    handles = []
    for name, part in linears(model).items():
        weight = f"{name}.weight"
        if only is None or weight in only:
            handles += _of_product(part, weight, found, summed=summed)
    name, tables = _tables(model)
    for table in tables:
        handles.append(_of_lookup(table, name, found, summed=summed, kept=only is None or name in only))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _of_product(part: Any, name: str, found: Statistics, *, summed: bool) -> list[Any]:
    seen: list[torch.Tensor] = []  # the last call comes first in the backward pass

    def after(gradient: torch.Tensor) -> None:
        x, g = seen.pop(), gradient.detach().reshape(-1, gradient.shape[-1]).float()
        squares = x.square().sum(0).double()
        product = (g.T @ x).square() if summed else g.square().T @ x.square()
        if name in found.fisher:
            found.fisher[name] += product
            found.squares[name] += squares
        else:
            found.fisher[name], found.squares[name] = product, squares
        found.tokens[name] = found.tokens.get(name, 0) + len(x)

    def before(x: torch.Tensor) -> None:
        seen.append(x.detach().reshape(-1, x.shape[-1]).float())

    return [
        part.register_forward_pre_hook(lambda _, args: before(args[0])),
        part.register_full_backward_hook(lambda _, __, gradients: after(gradients[0])),
    ]


def _of_lookup(table: Any, name: str, found: Statistics, *, summed: bool, kept: bool) -> Any:
    """The squared gradients of the embedding's rows; Gemma scales what it looks up."""
    import torch

    scale = float(getattr(table, "embed_scale", 1.0))

    def add(ids: torch.Tensor, gradient: torch.Tensor) -> None:
        flat, scaled = ids.reshape(-1), gradient.reshape(-1, gradient.shape[-1]).float() * scale
        if name not in found.fisher:
            found.fisher[name] = torch.zeros(table.weight.shape)
        if summed:
            rows, places = flat.unique(return_inverse=True)
            scaled = torch.zeros(len(rows), scaled.shape[1]).index_add_(0, places, scaled)
        else:
            rows = flat
        found.fisher[name].index_add_(0, rows, scaled.square())
        found.tokens[name] = found.tokens.get(name, 0) + len(flat)

    def looked_up(ids: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        # No parameter requires a gradient: the first hidden state begins it.
        started = out.detach().requires_grad_(True)
        if kept:
            started.register_hook(lambda gradient: add(ids, gradient))
        return started

    return table.register_forward_hook(lambda _, args, out: looked_up(args[0], out))


def _tables(model: Any) -> tuple[str, list[Any]]:
    """The name of the embedding's weight, and every module that looks rows of it up: an encoder-decoder has several."""
    from torch import nn

    embedding = model.get_input_embeddings()
    parts = dict(model.named_modules())
    name = next(name for name, part in parts.items() if part is embedding)
    return f"{name}.weight", [part for part in parts.values() if getattr(part, "weight", None) is embedding.weight
                              and isinstance(part, nn.Embedding)]  # fmt: skip
