"""`task: seq2seq`: students with an encoder and a decoder, taught by a model of their kind or by a decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.models.kinds import DECODER, ENCODER_DECODER, Kind
from distill2edge.tasks.features import (
    CALIBRATION,
    FIT,
    FORCED_LENGTHS,
    JUDGE,
    KL_MIXES,
    LLAMA_CPP_TEACHER,
    MIXES,
    ON_POLICY,
    QUANTIZATION_AWARE,
    RANDOM_MODELS,
    SYSTEM_MESSAGE,
    TRIMMED_VOCABULARY,
)
from distill2edge.tasks.task import Task

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


class Seq2Seq(Task):
    """An encoder-decoder learns to write a target for a source."""

    name = "seq2seq"
    wanted = "task: seq2seq, and data.template: plain"
    example = "a model with an encoder and a decoder, such as a T5"
    signals = ("logits", "text", "gold")
    templates = ("chat", "plain")
    supports = frozenset({
        CALIBRATION, FIT, FORCED_LENGTHS, JUDGE, KL_MIXES, LLAMA_CPP_TEACHER, MIXES, ON_POLICY,
        QUANTIZATION_AWARE, RANDOM_MODELS, SYSTEM_MESSAGE, TRIMMED_VOCABULARY,
    })  # fmt: skip
    kinds = (ENCODER_DECODER,)
    predicts_tokens = True

    def teaches(self, kind: Kind, recipe: Recipe) -> bool:
        """As `Task.teaches`: a decoder too, by what it writes; its distributions are not over a target's tokens."""
        layers = hasattr(recipe.student.init, "layers")  # which are the teacher's
        return kind in self.kinds or (kind is DECODER and recipe.signal.kind != "logits" and not layers)

    def exported(self, kind: Kind, *, asked: bool = False) -> Kind:
        """As `Task.exported`."""
        return ENCODER_DECODER
