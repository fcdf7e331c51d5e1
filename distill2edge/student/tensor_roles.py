"""Which axis of which weight is which width: by the names that transformers gives the parts of a layer.

A family that calls its parts otherwise, or joins some of them in one matrix, has no role for them and is refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of
from distill2edge.models.widths import Widths, narrowed, problems, widths_of

WHERE = "student.init.width"
HEADS, KV, CHANNELS, HIDDEN = "heads", "kv", "channels", "hidden"
Axes = tuple[str | None, ...]

# Name of a module's end -> what its rows and columns are. The first that fits counts.
_MATRICES: tuple[tuple[str, Axes], ...] = (
    (r"self_attn\.q_proj", (HEADS, HIDDEN)),
    (r"self_attn\.[kv]_proj", (KV, HIDDEN)),
    (r"self_attn\.(o_proj|dense)", (HIDDEN, HEADS)),
    (r"mlp\.(gate_proj|up_proj|fc1)", (CHANNELS, HIDDEN)),
    (r"mlp\.(down_proj|fc2)", (HIDDEN, CHANNELS)),
    (r"(model\.embed_tokens|lm_head)", (None, HIDDEN)),
    # Encoders: BERT, RoBERTa, ELECTRA. Their heads fill the hidden size, so these alone can be narrower.
    (r"layer\.\d+\.intermediate\.dense", (CHANNELS, HIDDEN)),
    (r"layer\.\d+\.output\.dense", (HIDDEN, CHANNELS)),
)
_OF_A_HEAD = re.compile(r"(^|\.)(q|k|query|key)_(layer)?norm$")
_NEEDED: Mapping[str, tuple[tuple[str, Axes], ...]] = {
    "kv_groups": (("query matrix", (HEADS, HIDDEN)), ("key and value matrices", (KV, HIDDEN)),
                  ("output matrix", (HIDDEN, HEADS))),
    "feed_forward": (("first feed-forward matrix", (CHANNELS, HIDDEN)),
                     ("second feed-forward matrix", (HIDDEN, CHANNELS))),
    "hidden": (("query matrix", (HEADS, HIDDEN)), ("first feed-forward matrix", (CHANNELS, HIDDEN)),
               ("embedding", (None, HIDDEN)), ("norm with weights", (HIDDEN,))),
}  # fmt: skip
"""The matrices that a model must have by a name that is known here, for each width."""


def axes_of(name: str) -> Axes | None:
    """The axes of a tensor of a model's state; None for one that has no role.

    Args:
        name: with `.weight` or `.bias` at its end.
    """
    module, _, part = name.rpartition(".")
    if part not in ("weight", "bias"):
        return None
    for pattern, axes in _MATRICES:
        if re.search(rf"(^|\.){pattern}$", module):
            return axes if part == "weight" else axes[:1]
    last = module.rpartition(".")[2].lower()
    if "norm" in last and not _OF_A_HEAD.search(module):
        return (HIDDEN,)
    return None


def why_not(names: Iterable[str], wanted: Iterable[str], config: Mapping[str, Any]) -> str | None:
    """Why a model cannot be made narrower, as far as the names of its tensors and its configuration say.

    Args:
        names: of its tensors; none where they are not known.
        wanted: names of widths.
        config: content of its `config.json`.
    """
    if config.get("is_encoder_decoder"):
        return "it has an encoder and a decoder, and widths are those of one stack of layers"
    known = {axes_of(name) for name in names}
    apart = kind_of(config).writes or "num_key_value_heads" in config
    for width in wanted:
        if width != "feed_forward" and not apart:
            return "the heads of this encoder fill its hidden size: neither can change alone, feed_forward can"
        for label, axes in _NEEDED[width] if known else ():
            if axes not in known:
                return f"no {label} by a name that is known here ({config.get('model_type')})"
    return None


def check(
    config: Mapping[str, Any], names: Iterable[str], wanted: Mapping[str, int | float], owner: str
) -> tuple[Widths, Widths]:
    """The widths of a model, and those asked for.

    Args:
        config: content of its `config.json`.
        names: of its tensors; none where they are not known.

    Raises:
        UserError: widths that it does not have, or a family that cannot be pruned.
    """
    for name, what, fix in refusals(config, names, wanted, owner):
        raise UserError(what, where=".".join(filter(None, (WHERE, name))), fix=fix)
    whole = widths_of(config)
    assert whole is not None
    return whole, narrowed(whole, wanted)


def refusals(
    config: Mapping[str, Any], names: Iterable[str], wanted: Mapping[str, int | float], owner: str
) -> Iterator[tuple[str, str, str]]:
    """Name of the width (empty: of all), what is wrong and the fix; arguments as of `check`."""
    whole = widths_of(config)
    why = "its layers have widths of their own" if whole is None else why_not(names, wanted, config)
    if why is not None or whole is None:
        named = config.get("model_type")
        yield "", f"a model of type {named} cannot be made narrower: {why}", "take student.init.width out"
        return
    yield from problems(whole, wanted, owner)


@dataclass(frozen=True)
class Roles:
    """The modules of one model whose activations are looked at, by name.

    Attributes:
        attention: matrices that read the heads.
        feed_forward: matrices that read the channels.
        norms: over the hidden size.
        axes: of every tensor of its state that has a role.
    """

    attention: tuple[str, ...]
    feed_forward: tuple[str, ...]
    norms: tuple[str, ...]
    axes: Mapping[str, Axes]


def roles_of(model: Any) -> Roles:
    """The roles of a model's tensors."""
    axes = {name: found for name in model.state_dict() if (found := axes_of(name)) is not None}

    def modules(wanted: Axes) -> tuple[str, ...]:
        return tuple(name.removesuffix(".weight") for name in axes if name.endswith("weight") and axes[name] == wanted)

    return Roles(modules((HIDDEN, HEADS)), modules((HIDDEN, CHANNELS)), modules((HIDDEN,)), axes)
