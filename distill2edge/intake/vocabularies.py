"""Vocabularies compared token by token: equal sizes say nothing, and foreign ids give silent nonsense."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 over the pairs of token and id, in the order of the ids."""
    pairs = sorted((index, token) for token, index in tokenizer.get_vocab().items())
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def same_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Whether every token has the same id in both."""
    return dict(a.get_vocab()) == dict(b.get_vocab())


def check_same_vocabulary(teacher: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Refuse a logits signal between models that speak different tokens.

    Raises:
        UserError: with how many tokens differ, an example, and the fix.
    """
    check_same_tokens(teacher.get_vocab(), student.get_vocab())


def check_same_tokens(ours: Mapping[str, int], theirs: Mapping[str, int]) -> None:
    """As `check_same_vocabulary`, of token -> id of teacher and student."""
    if ours == theirs:
        return
    differing = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    first = differing[0]
    raise UserError(
        f"teacher and student have different vocabularies: {len(differing):,} of {len(ours.keys() | theirs.keys()):,} "
        f"tokens have another id; {first!r} is {ours.get(first, 'missing')} in the teacher and "
        f"{theirs.get(first, 'missing')} in the student",
        where="signal.kind",
        fix="set signal.align: vocabulary (task causal-lm), use signal: {kind: text} with distill.loss: {ce: 1}, or "
        "make the student of the teacher (student.init: {from: teacher, layers: N})",
    )


def check_for_layers(ours: Mapping[str, int], theirs: Mapping[str, int]) -> None:
    """As `check_same_tokens`, where what layers say is compared token by token."""
    try:
        check_same_tokens(ours, theirs)
    except UserError as error:
        fix = "take hidden and attention out of the loss, or set student.init: {from: teacher, layers: N}"
        raise UserError(f"{error.what}; layers are compared token by token", where="distill.loss", fix=fix) from error
