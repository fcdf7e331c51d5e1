"""The work of `task: token-classification`: as that of a classifier, with a tag of each word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.examples import Encoded
from distill2edge.data.words import words_of
from distill2edge.models.kinds import TAGGER
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.tags import TagSet, in_words, parsed
from distill2edge.recipe.schema import Loss, Recipe
from distill2edge.tasks.classification.work import ClassifierWork
from distill2edge.tasks.work import Facts
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Make
    from distill2edge.models.placement import Placement


class TaggerWork(ClassifierWork):
    """A student learns the logits of the tags of each word."""

    reads_as = TAGGER
    headed_as = TAGGER

    def labels(self, recipe: Recipe) -> list[str]:
        """As `ClassifierWork.labels`: the tags."""
        return list(TagSet(recipe.data.choices or ()).names)

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> Sequence[Encoded]:
        """As `Work.encoded`, with the tags of the words of each row that has some."""
        tagset, tags = TagSet(recipe.data.choices or ()), dict[str, list[int] | None]()
        for row in self.rows(recipe, rows_dir, split):
            words = words_of(row.prompt)
            entities = in_words(parsed(row.response), words) if row.response else None
            tags[row.id] = None if entities is None else tagset.tags(entities, len(words))
        return [replace(row, tags=tags[row.row]) for row in super().encoded(recipe, rows_dir, model_dir, split)]

    def known(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """As `ClassifierWork.known`."""
        return [row for row in rows if row.tags is not None]

    def fit_loss(self, recipe: Recipe) -> Loss:
        """As `ClassifierWork.fit_loss`."""
        return Loss(ce=1.0)  # type: ignore[call-arg]

    def make(self) -> Make:
        """As `ClassifierWork.make`."""
        from distill2edge.distill.tagger_model import make_tagger

        return make_tagger

    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """As `ClassifierWork.cache`."""
        from distill2edge.teacher.tags import cache_tags

        cut = sum(len(row.places) < row.words for row in rows)
        if cut:
            progress.say(f"  {cut:,} of {len(rows):,} texts are longer than data.max_length: cut after a whole word")
        if lost := sum(place < 0 for row in rows for place in row.places):
            progress.say(f"  {lost:,} words have no token of their own: each continues the word before it")
        return cache_tags(model_dir, rows, work, progress, placement=placement)

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """F1 of the entities, and distance of the distributions over tags."""
        from distill2edge.verify.taggers import verify_taggers

        return verify_taggers(
            models,
            encodings,
            recipe.verify,
            TagSet(recipe.data.choices or ()),
            seed=recipe.seed,
            work=work,
            progress=progress,
        )


WORK = TaggerWork()
