"""The work of `task: regression`: as that of a classifier, with a number in place of a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.examples import Encoded
from distill2edge.data.numbers import number_of, spread_of
from distill2edge.models.kinds import REGRESSOR
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Loss, Recipe
from distill2edge.tasks.classification.work import ClassifierWork
from distill2edge.tasks.work import Facts
from distill2edge.util.progress import Progress

NAME = "number"
"""Of a head's one output."""

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Make
    from distill2edge.models.placement import Placement


class RegressorWork(ClassifierWork):
    """A student learns its teacher's number of a whole text."""

    reads_as = REGRESSOR
    headed_as = REGRESSOR

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> Sequence[Encoded]:
        """As `Work.encoded`, with the number that each row has."""
        known = {row.id: number_of(row.response) for row in self.rows(recipe, rows_dir, split)}
        return [replace(row, number=known[row.row]) for row in super().encoded(recipe, rows_dir, model_dir, split)]

    def labels(self, recipe: Recipe) -> list[str]:
        """As `ClassifierWork.labels`: one output."""
        return [NAME]

    def known(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """As `ClassifierWork.known`."""
        return [row for row in rows if row.number is not None]

    def head(self, recipe: Recipe, source: Path, rows_dir: Path, target: Path, where: str) -> bool:
        """As `ClassifierWork.head`; a new one begins at mean and spread of the training rows' numbers."""
        from distill2edge.student.head import with_head

        rows = self.rows(recipe, rows_dir, "train")
        numbers = [value for row in rows if (value := number_of(row.response)) is not None]
        return with_head(
            source, self.labels(recipe), target, recipe.seed, where, spread_of(numbers), kind=self.headed_as
        )

    def fit_loss(self, recipe: Recipe) -> Loss:
        """As `ClassifierWork.fit_loss`."""
        return Loss(mse=1.0)  # type: ignore[call-arg]

    def make(self) -> Make:
        """As `ClassifierWork.make`."""
        from distill2edge.distill.regressor_model import make_regressor

        return make_regressor

    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """As `ClassifierWork.cache`."""
        from distill2edge.teacher.numbers import cache_numbers

        return cache_numbers(model_dir, rows, work, progress, placement=placement)

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """Correlation with the data's numbers, and distance of the numbers."""
        from distill2edge.verify.regressors import verify_regressors

        return verify_regressors(
            models, encodings, recipe.verify, self.labels(recipe), seed=recipe.seed, work=work, progress=progress
        )


WORK = RegressorWork()
