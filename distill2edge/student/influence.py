"""What each part of a decoder does on calibration rows: what a student loses is estimated by it before one is trained.

Layers by their block influence (`layers.distances`), heads and channels by the activations that pruning goes by
(`importance`), types by Fisher information times squared error (`quantize.sensitivity`), the latter on some layers and
some rows of each matrix, whose figures stand for the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.widths import BLOCK, widths_of
from distill2edge.util.files import read_json, write_json

if TYPE_CHECKING:
    import torch

    from distill2edge.student.importance import Importance
    from distill2edge.util.progress import Progress

SCHEMA_VERSION = 1
FILE = "influence.json"
_TOKENS, _BLOCK_TOKENS, FISHER_TOKENS = 4096, 2048, 512
"""Of the calibration rows: for the widths, for layers, and for types, which need a backward pass."""
_LAYERS = 6
"""Layers whose matrices are rounded for a try, at most, evenly spaced."""
_ROWS = 256
"""Rows of a matrix that are, at most, evenly spaced."""
_MOVED = 13


@dataclass(frozen=True)
class Influence:
    """What `write_influence` wrote.

    Attributes:
        tokens: of the calibration rows that were read.
        blocks: of each layer the angle between its input and its output, over pi.
        kept: name of a width -> [layers][counts] share of the activations that the largest parts hold; of the hidden
            size one row. Counts are 1, 2, ... groups, or multiples of `BLOCK` channels. Empty without widths.
        types: part of a layer (`attn_q`), or outside the layers (`token_embd`) -> ggml type -> [layers] or [1] nats per
            token that all of that matrix in the type costs.
    """

    tokens: int
    blocks: Sequence[float]
    kept: Mapping[str, Sequence[Sequence[float]]]
    types: Mapping[str, Mapping[str, Sequence[float]]]

    def share(self, name: str, count: int, layer: int) -> float:
        """Of a layer's activations, what `count` groups or channels hold."""
        rows = self.kept[name]
        row = rows[layer] if len(rows) > 1 else rows[0]
        at = count if name == "kv_groups" else count // BLOCK
        return row[min(at, len(row)) - 1]


def read_influence(directory: Path) -> Influence:
    """Of a stage's directory."""
    found = read_json(Path(directory) / FILE)
    return Influence(found["tokens"], found["blocks"], found["kept"], found["types"])


def write_influence(
    model_dir: Path, rows: Sequence[Sequence[int]], work: Path, progress: Progress, *, kinds: Sequence[str]
) -> dict[str, Any]:
    """Write `influence.json`.

    Args:
        model_dir: a decoder in Hugging Face's layout.
        rows: `Text`s of the calibration split.
        kinds: ggml types that are tried.

    Returns:
        {schema_version, tokens, fisher_tokens}.

    Raises:
        UserError: no calibration rows, or weights, activations or gradients that are not finite.
    """
    import torch

    from distill2edge.models.loading import load_model
    from distill2edge.quantize.calibration_texts import take

    chosen = take(rows, _TOKENS)
    model: Any = load_model(model_dir, dtype=torch.float32).eval()
    blocks = _blocks(model, take(chosen, _BLOCK_TOKENS))
    kept = _kept(model, chosen, progress)
    types = _types(model, chosen, model_dir, kinds, progress)
    facts = {"schema_version": SCHEMA_VERSION, "tokens": sum(map(len, chosen)),
             "fisher_tokens": min(FISHER_TOKENS, sum(map(len, chosen)))}  # fmt: skip
    write_json(Path(work) / FILE, {**facts, "blocks": blocks, "kept": kept, "types": types})
    return facts


def _blocks(model: Any, rows: Sequence[Sequence[int]]) -> list[float]:
    import torch

    from distill2edge.quantize.calibration_texts import batches, inputs_of
    from distill2edge.student.layers import distances

    read = [inputs_of(model, batch)[0] for batch in batches(rows)]
    with torch.no_grad():
        return distances(model, [{name: each[name] for name in ("input_ids", "attention_mask")} for each in read])


def _kept(model: Any, rows: Sequence[Sequence[int]], progress: Progress) -> dict[str, list[list[float]]]:
    from distill2edge.student.importance import measure
    from distill2edge.student.tensor_roles import roles_of, why_not

    config = model.config.to_dict()
    widths = widths_of(config)
    if widths is None or why_not(model.state_dict(), ("kv_groups", "feed_forward", "hidden"), config) is not None:
        return {}
    found: Importance = measure(model, roles_of(model), widths, rows, progress)
    hidden = sum(list(found.hidden.values())[1:], next(iter(found.hidden.values())))
    return {
        "kv_groups": [_shares(values, 1) for values in found.groups.values()],
        "feed_forward": [_shares(values, BLOCK) for values in found.channels.values()],
        "hidden": [_shares(hidden, BLOCK)],
    }


def _shares(values: torch.Tensor, step: int) -> list[float]:
    """Of the sum, what the largest `step`, 2 `step`, ... hold."""
    summed = values.double().sort(descending=True).values.cumsum(0)
    return [round(float(each), 6) for each in summed[step - 1 :: step] / summed[-1]]


def _types(
    model: Any, rows: Sequence[Sequence[int]], model_dir: Path, kinds: Sequence[str], progress: Progress
) -> dict[str, dict[str, list[float]]]:
    """As `Influence.types`: sampled layers by value, the others by the nearest two."""
    import numpy as np
    import torch

    from distill2edge.gguf.hf_layout import names_to_gguf
    from distill2edge.quantize.activations import matrices
    from distill2edge.quantize.fisher import collect_fisher

    parts, weights = matrices(model, names_to_gguf(model_dir))
    layers = max((layer for layer, _ in map(_place, parts) if layer is not None), default=-1) + 1
    sampled = sorted({round(each) for each in np.linspace(0, layers - 1, min(_LAYERS, layers))})
    looked = [name for name in parts if _place(name)[0] in (None, *sampled)]
    only = [source for name in looked for source in parts[name]]
    fisher = collect_fisher(model, rows, progress, max_tokens=FISHER_TOKENS, only=only).fisher
    losses: dict[str, dict[int, dict[str, float]]] = {}
    with progress.task("rounding for a try", len(looked)) as task:
        for name in looked:
            found = [fisher[source] for source in parts[name] if source in fisher]
            if not found or not all(bool(torch.isfinite(part).all()) for part in found):
                raise UserError(f"the gradients of {name} are missing or not finite", where=str(model_dir),
                                fix="check the weights for NaN or Inf")  # fmt: skip
            layer, part = _place(name)
            losses.setdefault(part, {})[layer or 0] = _tried(weights[parts[name][0]], sum(found[1:], found[0]), kinds)
            task.advance(note=name)
    return {part: _between(of, layers if max(of) or len(of) > 1 else 1) for part, of in losses.items()}


def _tried(weight: torch.Tensor, fisher: torch.Tensor, kinds: Sequence[str]) -> dict[str, float]:
    """Type -> nats per token of the whole matrix, by some of its rows.

    Columns are moved in a circle: the weights of a teacher that was dequantized from a file lie on that file's grid,
    and those of a student that was trained do not.
    """
    from distill2edge.quantize.sensitivity import option

    step = -(-len(weight) // _ROWS)
    tried = (each[::step].float().roll(_MOVED, dims=1).numpy() for each in (weight, fisher))
    fits = option(*tried, None, kinds)
    factor = float(fisher.double().sum() / fisher[::step].double().sum().clamp_min(1e-30))
    return {kind: loss * factor for kind, (_, loss) in fits.items()}


def _between(found: Mapping[int, Mapping[str, float]], layers: int) -> dict[str, list[float]]:
    """Type -> [layers], straight lines between the layers that are known."""
    import numpy as np

    known = sorted(found)
    return {
        kind: [float(each) for each in np.interp(range(layers), known, [found[layer][kind] for layer in known])]
        for kind in found[known[0]]
    }


def _place(name: str) -> tuple[int | None, str]:
    """Layer and part of a GGUF's tensor: 3 and `attn_q` of `blk.3.attn_q.weight`; None outside the layers."""
    parts = name.removesuffix(".weight").split(".")
    return (int(parts[1]), parts[2]) if parts[0] == "blk" else (None, parts[0])
