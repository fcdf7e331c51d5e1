"""The work of classification into sets: as that of a classifier, with a question of its own for each label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.choice_sets import set_of
from distill2edge.data.examples import Encoded
from distill2edge.errors import UserError
from distill2edge.models.kinds import MULTI_LABEL
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.two_events import FIELD, probabilities
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks.classification.work import ClassifierWork, taught_rows
from distill2edge.tasks.multi_label.asked.work import labels_by_answers
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.tasks.work import Facts
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Make
    from distill2edge.models.placement import Placement
    from distill2edge.quantize.schemes import Scheme


class MultiLabelWork(ClassifierWork):
    """A student learns the logit of each label, whose sigmoid is the probability that a text has it."""

    headed_as = MULTI_LABEL

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> Sequence[Encoded]:
        """As `Work.encoded`, with the set of labels that each row has."""
        names = self.labels(recipe)
        known = {row.id: set_of(row.response, names) for row in self.rows(recipe, rows_dir, split)}
        return [replace(row, labels=known[row.row]) for row in super().encoded(recipe, rows_dir, model_dir, split)]

    def known(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """As `ClassifierWork.known`: an empty set is one."""
        return [row for row in rows if row.labels is not None]

    def make(self) -> Make:
        """As `ClassifierWork.make`."""
        from distill2edge.distill.multi_label_model import make_multi_label

        return make_multi_label

    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """As `ClassifierWork.cache`."""
        from distill2edge.teacher.label_sets import cache_sets

        return cache_sets(model_dir, rows, work, progress, placement=placement)

    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """As `ClassifierWork.signal`; an endpoint's answers are read as sets."""
        if recipe.teacher.ask is not None:
            return labels_by_answers(recipe, teacher, rows_dir, work, progress)
        return super().signal(recipe, teacher, origin, rows_dir, work, progress)

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """As `ClassifierWork.fit`."""
        return super().fit(recipe, base, rows_dir, work, progress) | self._thresholds(recipe, rows_dir, work / "model")

    def merge(
        self,
        recipe: Recipe,
        student: Path,
        trained: Path,
        rows_dir: Path,
        work: Path,
        schemes: Sequence[Scheme] = SURVIVAL,
    ) -> Facts:
        """As `Work.merge`."""
        merged = super().merge(recipe, student, trained, rows_dir, work, schemes)
        return merged | self._thresholds(recipe, rows_dir, work / "model")

    def _thresholds(self, recipe: Recipe, rows_dir: Path, model_dir: Path) -> Facts:
        """Choose the threshold of each label, and write them into the model's `config.json`, where they are wanted."""
        if recipe.student.thresholds == "half":
            return {}
        import numpy as np

        from distill2edge.tasks.multi_label.thresholds import choose_thresholds
        from distill2edge.teacher.labels import by_head

        rows = self.known(self.encoded(recipe, rows_dir, model_dir, "validation"))
        if not rows:
            raise UserError("no validation row has a response to choose thresholds on", where="student.thresholds",
                            fix="give some a response, or leave it out")  # fmt: skip
        names = self.labels(recipe)
        truth = np.zeros((len(rows), len(names)), dtype=bool)
        for at, row in enumerate(rows):
            truth[at, list(row.labels or ())] = True
        chosen = choose_thresholds(probabilities(by_head(model_dir)(rows, lambda steps: None).numpy()), truth)
        path = model_dir / "config.json"
        write_json(path, read_json(path) | {FIELD: chosen})
        return {"thresholds": dict(zip(names, chosen, strict=True))}

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """F1 of the labels, and distance of their probabilities."""
        from distill2edge.distill.label_cache import SetReader
        from distill2edge.verify.multi_label import verify_multi_label

        taught = None
        if labels is not None:
            encodings, taught = taught_rows(SetReader(labels, 1.0), encodings)
        return verify_multi_label(
            models,
            encodings,
            recipe.verify,
            self.labels(recipe),
            seed=recipe.seed,
            work=work,
            progress=progress,
            taught=taught,
        )


WORK = MultiLabelWork()
