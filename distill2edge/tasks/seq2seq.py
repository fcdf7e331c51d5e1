"""`task: seq2seq`: students with an encoder and a decoder, taught by a model of their kind or by a decoder.

What a row looks like follows from each model: a pair of source and target for an encoder-decoder, a prompt and its
continuation for a decoder. So the steps are those of `causal_lm`; here is what a sequence-to-sequence recipe must not
do, and a student that is checked to be one.
"""

from __future__ import annotations

from pathlib import Path

from distill2edge.errors import UserError
from distill2edge.models.architectures import is_encoder_decoder
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks import causal_lm
from distill2edge.tasks.causal_lm import bench, distill, fit, held_out, merge, signal, verify
from distill2edge.tasks.task import Facts
from distill2edge.util.progress import Progress

__all__ = ["bench", "distill", "fit", "held_out", "merge", "signal", "student", "verify"]


def student(
    recipe: Recipe, teacher: Path, checkpoint: Path | None, rows_dir: Path, work: Path, progress: Progress
) -> Facts:
    """Layers of the teacher's encoder and of its decoder, or a checkpoint.

    Raises:
        UserError: the student would be a decoder; or the signal is logits and the teacher is one.
    """
    source = teacher if checkpoint is None else checkpoint
    if not is_encoder_decoder(source):
        raise UserError(
            "the student is a decoder, and task: seq2seq trains encoder-decoders",
            where="student.init",
            fix="start from a T5 (student.init: {model: ...}), or set task: causal-lm",
        )
    if recipe.signal.kind == "logits" and not is_encoder_decoder(teacher):
        raise UserError(
            "a decoder's distributions are not over the student's target tokens",
            where="signal.kind",
            fix="use signal: {kind: text} with distill.loss: {ce: 1}",
        )
    return causal_lm.student(recipe, teacher, checkpoint, rows_dir, work, progress)
