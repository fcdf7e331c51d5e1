"""The work of `task: seq2seq`.

What a row looks like follows from each model: a pair of source and target for an encoder-decoder, a prompt and its
continuation for a decoder. So the steps are those of every task that predicts tokens, and the student is checked.
"""

from __future__ import annotations

from pathlib import Path

from distill2edge.errors import UserError
from distill2edge.models.kinds import ENCODER_DECODER, kind_of_directory
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks.causal_lm.work import TokenWork
from distill2edge.tasks.work import Facts
from distill2edge.util.progress import Progress


class Seq2SeqWork(TokenWork):
    """That of token tasks, with a student that is checked to have an encoder."""

    def student(
        self,
        recipe: Recipe,
        teacher: Path,
        checkpoint: Path | None,
        rows_dir: Path,
        work: Path,
        progress: Progress,
        written: Path | None = None,
    ) -> Facts:
        """Layers of the teacher's encoder and of its decoder, or a checkpoint.

        Raises:
            UserError: the student would be a decoder; or the signal is logits and the teacher is one.
        """
        source = teacher if checkpoint is None else checkpoint
        if (kind := kind_of_directory(source)) is not ENCODER_DECODER:
            raise UserError(
                f"the student is a model of the kind {kind}, and task: seq2seq trains encoder-decoders",
                where="student.init",
                fix="start from a T5 (student.init: {model: ...}), or set task: causal-lm",
            )
        if recipe.signal.kind == "logits" and kind_of_directory(teacher) is not ENCODER_DECODER:
            raise UserError(
                "a decoder's distributions are not over the student's target tokens",
                where="signal.kind",
                fix="use signal: {kind: text} with distill.loss: {ce: 1}",
            )
        return super().student(recipe, teacher, checkpoint, rows_dir, work, progress, written)


WORK = Seq2SeqWork()
