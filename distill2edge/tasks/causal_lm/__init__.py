"""`task: causal-lm`: decoders that continue a prompt."""

from __future__ import annotations

from distill2edge.models.kinds import DECODER
from distill2edge.tasks.features import (
    ALIGNED,
    ALL_POSITIONS,
    CALIBRATION,
    FIT,
    FORCED_LENGTHS,
    JUDGE,
    KL_MIXES,
    KV_CACHE,
    LLAMA_CPP_TEACHER,
    MIXES,
    ON_POLICY,
    PACKING,
    QUANTIZATION_AWARE,
    RANDOM_MODELS,
    SERVED_LOGITS,
    SYNTHESIS,
    SYSTEM_MESSAGE,
    TRIMMED_VOCABULARY,
)
from distill2edge.tasks.task import Task


class CausalLM(Task):
    """A decoder learns to go on from a prompt."""

    name = "causal-lm"
    wanted = "task: causal-lm"
    example = "a decoder, such as bundled:smollm2-135m-instruct"
    signals = ("logits", "text", "gold")
    templates = ("chat", "plain", "text")
    supports = frozenset({
        ALIGNED, ALL_POSITIONS, CALIBRATION, FIT, FORCED_LENGTHS, JUDGE, KL_MIXES, KV_CACHE, LLAMA_CPP_TEACHER, MIXES,
        ON_POLICY, PACKING, QUANTIZATION_AWARE, RANDOM_MODELS, SERVED_LOGITS, SYNTHESIS, SYSTEM_MESSAGE,
        TRIMMED_VOCABULARY,
    })  # fmt: skip
    kinds = (DECODER,)
    predicts_tokens = True

    @property
    def key(self) -> dict[str, str]:
        """As `Task.key`."""
        return {}
