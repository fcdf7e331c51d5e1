"""The type in which llama.cpp stores each matrix of a stock scheme: `Q4_K_M` is several.

Source: llama_tensor_get_type and its neighbours in llama-quant.cpp (the pinned llama.cpp), for dense decoders whose
query, key and value matrices are apart. Tests hold it to files that the quantizer writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from distill2edge.gguf.ggml_types import GGML_TYPES, fitting

EMBEDDING, HEAD = "token_embd", "output"


class Place(NamedTuple):
    """Where a matrix stands.

    Attributes:
        layer: its number, 0 is the first; 0 too of one outside the layers.
        layers: of the model.
        shared: query heads of a key-value head.
        weighed: an importance matrix is given.
    """

    layer: int
    layers: int
    shared: int
    weighed: bool = False

    @property
    def early(self) -> bool:
        """In the first eighth."""
        return self.layer < self.layers // 8

    @property
    def more_bits(self) -> bool:
        """In the first or the last eighth, or a third one between (use_more_bits)."""
        eighth = self.layers // 8
        return self.early or self.layer >= 7 * self.layers // 8 or (self.layer - eighth) % 3 == 2


Rule = Callable[[Place], str | None]


def _always(kind: str) -> Rule:
    return lambda place: kind


def _q4(place: Place) -> str | None:
    return "Q6_K" if place.more_bits else None


_RULES: Mapping[tuple[str, str], Rule] = {
    ("Q2_K", "attn_v"): lambda at: "Q4_K" if at.shared >= 4 else "Q3_K",
    ("Q2_K", "ffn_down"): _always("Q3_K"),
    ("Q2_K", "attn_output"): _always("Q3_K"),
    ("Q3_K_M", "attn_v"): lambda at: "Q5_K" if at.layer < 2 else "Q4_K",
    ("Q3_K_M", "ffn_down"): lambda at: "Q5_K" if at.layer < at.layers // 16 else "Q4_K",
    ("Q3_K_M", "attn_output"): _always("Q4_K"),
    ("Q3_K_L", "attn_v"): _always("Q5_K"),
    ("Q3_K_L", "ffn_down"): _always("Q5_K"),
    ("Q3_K_L", "attn_output"): _always("Q5_K"),
    **{(name, "attn_v"): lambda at: "Q5_K" if at.shared >= 4 else None for name in ("IQ4_NL", "IQ4_XS")},
    **{(name, "ffn_down"): lambda at: "Q5_K" if at.early and not at.weighed else None for name in ("IQ4_NL", "IQ4_XS")},
    ("Q4_0", "ffn_down"): lambda at: "Q4_1" if at.early and at.weighed else None,
    ("Q5_0", "ffn_down"): lambda at: "Q5_1" if at.early and at.weighed else None,
    ("Q4_K_S", "attn_v"): lambda at: "Q5_K" if at.layer < 4 else None,
    ("Q4_K_S", "ffn_down"): lambda at: "Q5_K" if at.early else None,
    **{(name, part): _q4 for name in ("Q4_K_M", "Q5_K_M") for part in ("attn_v", "ffn_down")},
}  # fmt: skip
"""(scheme, part of a layer) -> its own type; None, or no rule: the scheme's."""


def stored_as(scheme: str, part: str, columns: int, place: Place, *, tied: bool = False) -> str:
    """The type of a matrix.

    Args:
        scheme: a stock scheme's name, such as `Q4_K_M`.
        part: of its name: `attn_q`, `ffn_down`, `token_embd`, `output`.
        columns: weights of a row.
        tied: the embedding is the head too.
    """
    kind = _main_type(scheme)
    if GGML_TYPES[kind].precision == "lossless":
        return kind
    if part == HEAD or (part == EMBEDDING and tied):
        if columns % GGML_TYPES[kind].block:
            return fitting("Q8_0", columns)
        return fitting("Q8_0" if kind == "Q8_0" else "Q6_K", columns)
    rule = _RULES.get((scheme, part))
    return fitting((rule and rule(place)) or kind, columns)


def _main_type(scheme: str) -> str:
    return next(name for name, row in reversed(GGML_TYPES.items()) if scheme in row.stock)
