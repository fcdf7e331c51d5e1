"""What each matrix of a torch model is multiplied with on calibration text.

Sums over tokens, gathered by hooks while rows pass through the model batch by batch.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.quantize.calibration_texts import batches, inputs_of, take
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

FEW_TOKENS = 2048
"""Below this many tokens the statistics are noisy, and the caller is warned."""


@dataclass
class Statistics:
    """Sums over the calibration tokens, by the name of the weight in the model's state.

    Attributes:
        squares: [in] float64, squared inputs.
        tokens: inputs seen.
        grams: [in, in] float32, x x^T summed; only where asked for. Layers that share their input share the tensor.
        fisher: [out, in] float32, squared gradients of the log-likelihood of what is sampled (`quantize.fisher`).
    """

    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    grams: dict[str, torch.Tensor] = field(default_factory=dict)
    fisher: dict[str, torch.Tensor] = field(default_factory=dict)


def collect(
    model: Any,
    rows: Sequence[Sequence[int]],
    progress: Progress,
    *,
    max_tokens: int = 16_384,
    grams: bool | Collection[str] = False,
) -> Statistics:
    """Squared inputs of every linear layer over calibration rows.

    Args:
        model: a torch model in eval mode, of any kind.
        rows: token ids of each row; of a model that reads a source apart from the target, a `Text`.
        max_tokens: rows beyond this many tokens are left out.
        grams: also keep x x^T, for rounding that compensates its errors: of all layers, or of those weights' names.

    Raises:
        UserError: no rows, or activations that are not finite.
    """
    import torch

    found = Statistics()
    chosen = take(rows, max_tokens)
    with torch.no_grad(), progress.task("calibrating", len(chosen)) as task, _hooks(model, found, grams) as see:
        for batch in batches(chosen):
            inputs, masks = inputs_of(model, batch)
            see(masks)
            model(**inputs)
            task.advance(len(batch))
    for name, value in found.squares.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"the inputs of {name} are not finite on the calibration rows",
                where="quantize.calibration",
                fix="check the weights for NaN or Inf",
            )
    return found


def linears(model: Any) -> dict[str, Any]:
    """The linear layers of a model, by name."""
    import torch

    return {name: part for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}


@contextmanager
def _hooks(
    model: Any, found: Statistics, grams: bool | Collection[str]
) -> Iterator[Callable[[Sequence[torch.Tensor]], None]]:
    """Forward hooks that add up inputs; yields a function that takes the masks of the next pass."""
    state: dict[str, Any] = {}

    def see(masks: Sequence[torch.Tensor]) -> None:
        state.update(masks={tuple(mask.shape): mask.bool() for mask in masks}, last=None, last_gram=None)

    def add(name: str, x: torch.Tensor) -> None:
        # An encoder's pooler and head see one vector for each row, not one for each token.
        mask = state["masks"].get(tuple(x.shape[:2])) if x.ndim == 3 else None
        flat = (x.reshape(-1, x.shape[-1]) if mask is None else x[mask]).float()
        squares = flat.square().sum(0).double()
        found.squares[name] = found.squares[name] + squares if name in found.squares else squares
        found.tokens[name] = found.tokens.get(name, 0) + len(flat)
        if not (grams if isinstance(grams, bool) else name in grams):
            return
        if state["last"] is x:  # query, key and value read one input, and so do gate and up
            found.grams[name] = found.grams[state["last_gram"]]
            return
        gram = flat.T @ flat
        if name in found.grams:
            found.grams[name] += gram
        else:
            found.grams[name] = gram
        state.update(last=x, last_gram=name)

    handles = [
        part.register_forward_pre_hook(lambda _, args, name=f"{name}.weight": add(name, args[0]))
        for name, part in linears(model).items()
    ]
    try:
        yield see
    finally:
        for handle in handles:
            handle.remove()
