"""Scaling that leaves a model as it is and makes it round better (AWQ, Lin 2023, arXiv 2306.00978, section 3.2).

Where the inputs of a product come from a norm or from the rows of another matrix, each column can be multiplied by s
and its input divided by s there. Columns with large inputs then take more of their block's range. s is the inputs' root
mean square to a power; of some powers that one is taken with which rounding changes the products least.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill2edge.quantize.scales import Held

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.progress import Progress

POWERS = tuple(number / 10 for number in range(9))
_KIND = "uint4-b32-f16"
"""The grid that powers are compared on, whatever the file's types will be."""
_ROWS = 96
"""Rows of a matrix that they are compared on, evenly spaced."""
_SMALLEST = 1e-4


@dataclass(frozen=True)
class Pair:
    """Products that read one input, and what that input comes from.

    Attributes:
        source: weight whose rows (of a norm, whose elements) are divided; with its bias, where it has one.
        into: weights whose columns are multiplied.
        offset: what is added to the source's weight when it is used: 1 in Gemma's norms.
        repeats: times that each of `source`'s heads is read: of grouped queries.
        head: width of a head; 0 where columns are their source's own rows.
    """

    source: str
    into: tuple[str, ...]
    offset: float = 0.0
    repeats: int = 1
    head: int = 0


def pairs(model: Any) -> Iterator[Pair]:
    """Those of every block of a decoder with gated feed-forward layers (Llama, Qwen, Gemma); none of other models.

    The attention's output comes before the feed-forward's, and what a matrix gives before what it reads: a power is
    chosen for weights as they are then.
    """
    state, config = model.state_dict(), model.config
    offset = 1.0 if config.model_type.startswith("gemma") else 0.0
    for number in range(int(getattr(config, "num_hidden_layers", 0))):
        at = f"model.layers.{number}."
        query, key, value, output = (f"{at}self_attn.{name}_proj.weight" for name in "qkvo")
        gate, up, down = (f"{at}mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        norm = f"{at}pre_feedforward_layernorm.weight"
        norm = norm if norm in state else f"{at}post_attention_layernorm.weight"
        if not {query, key, value, output, gate, up, down, norm, f"{at}input_layernorm.weight"} <= set(state):
            continue
        heads, kept = config.num_attention_heads, config.num_key_value_heads or config.num_attention_heads
        yield Pair(value, (output,), repeats=heads // kept, head=state[value].shape[0] // kept)
        yield Pair(up, (down,))
        yield Pair(f"{at}input_layernorm.weight", (query, key, value), offset)
        yield Pair(norm, (gate, up), offset)


def scale(
    model: Any,
    importance: Callable[[str], Tensor | None],
    gram: Callable[[str], Tensor | None],
    progress: Progress,
) -> dict[str, Tensor]:
    """Scale a model in place.

    Args:
        model: a torch model in float32.
        importance: weight -> [columns] mean squared input; None where it is not known: the pair is left as it is.
        gram: weight -> [columns, columns] mean of x x^T.

    Returns:
        weight -> [columns] that its columns were multiplied by.
    """
    state = model.state_dict()
    chosen: dict[str, Tensor] = {}
    todo = list(pairs(model))
    with progress.task("scaling", len(todo)) as task:
        for pair in todo:
            squares, products = importance(pair.into[0]), gram(pair.into[0])
            if squares is not None and products is not None:
                found = best([state[name] for name in pair.into], squares, products, pair)
                _apply(state, pair, found)
                chosen |= dict.fromkeys(pair.into, found)
            task.advance(note=pair.source)
    return chosen


def best(weights: list[Tensor], squares: Tensor, products: Tensor, pair: Pair) -> Tensor:
    """[columns], the scale of the power that changes the products' outputs least; ones where none helps.

    Args:
        weights: matrices [rows, columns] that read the input.
        squares: [columns] mean squared input.
        products: [columns, columns] mean of x x^T.
    """
    spread = squares.float().clamp_min(_SMALLEST * float(squares.mean())).sqrt()
    samples = [weight[_spaced(len(weight))].float() for weight in weights]

    def error(scale: Tensor) -> float:
        total = 0.0
        for weight, sample in zip(weights, samples, strict=True):
            stored = Held.fitted(sample * scale, _KIND, squares / scale.square()).stored(sample * scale) / scale
            gap = stored - sample
            total += float(((gap @ products) * gap).sum()) * len(weight) / len(sample)
        return total

    scales = [_scale(spread, power, pair) for power in POWERS]
    return min(scales, key=error)  # the first of those alike, so no scale where none helps


def _scale(spread: Tensor, power: float, pair: Pair) -> Tensor:
    found = spread.pow(power)
    if pair.head:  # all readers of a head share its scale: the geometric mean of theirs
        each = found.reshape(-1, pair.repeats, pair.head).log().mean(1, keepdim=True).exp()
        found = each.expand(-1, pair.repeats, -1).reshape(-1)
    return found / (found.max() * found.min()).sqrt()


def _apply(state: Mapping[str, Tensor], pair: Pair, scale: Tensor) -> None:
    source = state[pair.source]
    rows = scale.reshape(-1, pair.repeats, pair.head)[:, 0].reshape(-1) if pair.head else scale
    if source.ndim == 1:
        source.copy_((source + pair.offset) / rows - pair.offset)
    else:
        source.div_(rows[:, None])
    bias = state.get(pair.source.removesuffix("weight") + "bias")
    if bias is not None:
        bias.div_(rows)
    for name in pair.into:
        state[name].mul_(scale)


def _spaced(count: int) -> list[int]:
    return [row * count // min(count, _ROWS) for row in range(min(count, _ROWS))]
