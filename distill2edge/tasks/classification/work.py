"""The work of `task: classification`."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.examples import Encoded
from distill2edge.data.model_inputs import encode_for
from distill2edge.errors import UserError
from distill2edge.models.kinds import CLASSIFIER, ENCODER, Kind, kind_of_directory
from distill2edge.models.loading import read_config
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.shape import shape_of
from distill2edge.recipe.schema import Distill, FromModel, FromTeacher, Loss, Recipe
from distill2edge.tasks.classification.asked.work import ASKED, as_asked
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.tasks.work import EncoderWork, Facts, OnGrid, beside_of, taught_by
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill2edge.distill.encoder_training import Make
    from distill2edge.distill.label_cache import LabelReader
    from distill2edge.models.placement import Placement
    from distill2edge.quantize.divergence import Row as Compared


def labels_of(recipe: Recipe) -> list[str]:
    """Names of the classes, in the order of the logits."""
    assert recipe.data.choices is not None
    return [choice.strip() for choice in recipe.data.choices]


class ClassifierWork(EncoderWork):
    """A student learns the logits of some classes for a whole text."""

    reads_as: Kind | None = ENCODER  # the whole text, whatever the model was before it got its head
    headed_as: Kind = CLASSIFIER
    """The kind whose head a model gets."""

    def labels(self, recipe: Recipe) -> list[str]:
        """Names of the head's outputs, in their order."""
        return labels_of(recipe)

    def known(self, rows: Sequence[Encoded]) -> Sequence[Encoded]:
        """The texts that have a label."""
        return [row for row in rows if row.label >= 0]

    def head(self, recipe: Recipe, source: Path, rows_dir: Path, target: Path, where: str) -> bool:
        """Write `target`: the model with the task's head, as `student.head.with_head`."""
        from distill2edge.student.head import with_head

        return with_head(source, self.labels(recipe), target, recipe.seed, where, kind=self.headed_as)

    def check(self, recipe: Recipe, teacher: Path) -> None:
        """Refuse a teacher whose head answers another question than the data asks."""
        from distill2edge.student.head import check_apart, check_head

        check_head(teacher, self.labels(recipe), "teacher.model", self.headed_as)
        check_apart(teacher, "teacher.model", self.headed_as)

    def fit_loss(self, recipe: Recipe) -> Loss:
        """By which the teacher is fitted."""
        return Loss(ce=1.0, class_weights=recipe.distill.loss.class_weights)  # type: ignore[call-arg]

    def train(self, model_dir: Path, *rest: Any) -> Facts:
        """Train a model, as `distill.encoder_training.train_encoder`."""
        from distill2edge.distill.encoder_training import train_encoder

        return train_encoder(self.make(), model_dir, *rest)

    def make(self) -> Make:
        """What makes the module that is trained."""
        from distill2edge.distill.classifier_model import make_classifier

        return make_classifier

    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """As `EncoderWork.cache`: class logits."""
        from distill2edge.teacher.labels import cache_labels

        return cache_labels(model_dir, rows, work, progress, placement=placement)

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """A head on the teacher, trained with it (or with adapters in it) on the data's own labels, then merged; a
        teacher that is asked learns to give its answers."""
        if recipe.teacher.ask is not None:
            return ASKED.fit(as_asked(recipe), base, rows_dir, work, progress)
        from distill2edge.student.merge import merge as merge_weights

        section = recipe.teacher.fit
        assert section is not None
        headed, trained = work / "headed", work / "trained"
        new = self.head(recipe, base, rows_dir, headed, "teacher.model")
        rows = self.known(self.encoded(recipe, rows_dir, headed, "train"))
        if section.max_rows is not None:
            rows = rows[: section.max_rows]
        validation = self.known(self.encoded(recipe, rows_dir, headed, "validation"))
        loss = self.fit_loss(recipe)
        facts = self.train(
            headed, rows, validation, None, None, section, loss, section.lora, recipe.seed, trained, progress
        )
        merged = merge_weights(headed, trained, rows[: self.merge_rows], SURVIVAL, work)
        for leftover in (headed, trained):
            shutil.rmtree(leftover)
        return {"train": facts, "merge": merged, "new_head": new}

    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """The teacher's class logits on train and validation rows."""
        if recipe.teacher.ask is not None:
            return ASKED.labels(as_asked(recipe), teacher, rows_dir, work, progress)
        self.check(recipe, teacher)
        return self.said(recipe, teacher, rows_dir, work, progress, recipe.teacher.placement)

    def pretrain(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Layers of the unfitted teacher, distilled on masked tokens of the train split."""
        from distill2edge.student.chosen import chosen
        from distill2edge.student.masked_pretraining import pretrain as pretrain_encoder

        spec, init = recipe.student.pretrain, recipe.student.init
        assert spec is not None
        assert isinstance(init, FromTeacher)
        total = shape_of(read_config(base)).layers
        assert total is not None
        kept = chosen(init.layers, total, init.select)
        texts = {
            split: [(row.ids, row.types) for row in self.encoded(recipe, rows_dir, base, split)]
            for split in ("train", "validation")
        }
        return pretrain_encoder(base, kept, texts["train"], texts["validation"], spec, recipe.seed, work, progress)

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
        """Some of the teacher's layers with its head, or a checkpoint with a head; with fewer tokens where asked."""
        from distill2edge.student.init import init_student

        if recipe.teacher.ask is None:
            self.check(recipe, teacher)
        section = recipe.student
        if checkpoint is not None:
            headed = work / "headed"
            self.head(recipe, checkpoint, rows_dir, headed, "student.init.model")
        if section.pretrain is not None:
            section = section.model_copy(update={"init": FromModel(model="pretrained")})  # type: ignore[call-arg]
        place = None if checkpoint is None else headed
        rows = self.compared_on(recipe, place or teacher, place is None, rows_dir)
        facts = init_student(section, teacher, rows, work, progress, place, same_vocabulary=False)
        shutil.rmtree(work / "headed", ignore_errors=True)
        if section.pretrain is not None and checkpoint is not None:
            facts["layers"] = read_json(checkpoint.parent / "pretrain.json")["layers"]
            write_json(work / "student.json", facts)
        self._tell_of_cuts(recipe, rows_dir, work / "model", progress)
        if recipe.student.trim is not None:
            from distill2edge.student.trim_to_rows import trim_encoder

            facts |= trim_encoder(recipe, rows_dir, work, progress)
            write_json(work / "student.json", facts)
        return facts

    def _tell_of_cuts(self, recipe: Recipe, rows_dir: Path, student: Path, progress: Progress) -> None:
        """Say how many pairs are longer than the student reads, before it is trained."""
        if recipe.data.pair is None:
            return
        counts = Counter[str]()
        encode_for(recipe.data, self.rows(recipe, rows_dir, "train"), student, counts, self.reads_as)
        if counts["cut"]:
            progress.warn(
                f"{counts['cut']:,} of {counts['rows']:,} training pairs are longer than data.max_length "
                f"({recipe.data.max_length} tokens): their longer text is cut at its end"
            )

    def distill(
        self,
        recipe: Recipe,
        training: Distill,
        kind: str,
        student: Path,
        teacher: Path | None,
        signal: Path | None,
        rows_dir: Path,
        work: Path,
        progress: Progress,
        on_grid: OnGrid | None = None,
    ) -> Facts:
        """On the teacher's class logits and intermediate layers (on a grid: or the student's own class logits), or on
        the data's own labels."""
        from distill2edge.distill.label_cache import LabelReader

        beside = beside_of(recipe, training.loss, student, teacher, on_grid)
        soft = taught_by(recipe, signal if kind in ("labels", "numbers") else None, on_grid)
        train, validation = (self.encoded(recipe, rows_dir, student, split) for split in ("train", "validation"))
        if soft is None:
            train, validation = self.known(train), self.known(validation)
        elif read_json(soft[0] / "signal.json").get("left_out"):
            lost = set(LabelReader(*soft).missing(row.id for row in (*train, *validation)))
            train, validation = ([row for row in rows if row.id not in lost] for rows in (train, validation))
        return self.train(
            student,
            train,
            validation,
            soft,
            beside,
            training,
            training.loss,
            recipe.student.lora if on_grid is None else on_grid.lora,
            recipe.seed,
            work,
            progress,
            None if on_grid is None else on_grid.grids,
        )

    def calibration(
        self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str = "calibration"
    ) -> Sequence[Encoded]:
        """As `Work.calibration`: an asked teacher reads them in its own words."""
        if recipe.teacher.ask is not None and kind_of_directory(model_dir).writes:
            return ASKED.calibration(as_asked(recipe), rows_dir, model_dir, split)
        return super().calibration(recipe, rows_dir, model_dir, split)

    def compared(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> list[Compared]:
        """As `Work.compared`: an asked teacher's are the tokens of its answers."""
        if recipe.teacher.ask is not None and kind_of_directory(model_dir).writes:
            return ASKED.compared(as_asked(recipe), rows_dir, model_dir, split)
        return super().compared(recipe, rows_dir, model_dir, split)

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows: those that have a label, where any has one; an asked teacher reads them in its own words."""
        if recipe.teacher.ask is not None and kind_of_directory(model_dir).writes:
            return ASKED.held_out(as_asked(recipe), model_dir, rows_dir)
        found = super().held_out(recipe, model_dir, rows_dir)
        return replace(found, rows=self.known(found.rows) or found.rows)

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """Accuracy, and distance of the class distributions."""
        from distill2edge.distill.label_cache import LabelReader
        from distill2edge.teacher.choice_correction import Correction
        from distill2edge.verify.classifiers import verify_classifiers

        corrected = taught = None
        if labels is not None:
            corrected = Correction.of(read_json(labels / "signal.json")["correction"])
        if labels is not None and recipe.teacher.url is not None:
            encodings, taught = taught_rows(LabelReader(labels, 1.0), encodings)
        return verify_classifiers(
            models,
            encodings,
            recipe.verify,
            labels_of(recipe),
            seed=recipe.seed,
            work=work,
            progress=progress,
            corrected=corrected,
            taught=taught,
            ordered=recipe.data.ordered,
        )


def taught_rows(
    reader: LabelReader, encodings: dict[str, Encodings]
) -> tuple[dict[str, Encodings], NDArray[np.float32]]:
    """The held-out rows that a teacher behind an endpoint has said something of, and its log-probabilities of them."""
    import numpy as np

    (side,) = encodings.values()
    lost = set(reader.missing(row.row for row in side.rows))
    rows = [row for row in side.rows if row.row not in lost]
    if not rows:
        raise UserError(
            "the teacher's answers to the test rows are none of the choices",
            where="teacher.ask",
            fix="name them in teacher.ask.answers as the teacher writes them",
        )
    return {"teacher": replace(side, rows=rows)}, np.stack([reader.get(row.row).numpy() for row in rows])


WORK = ClassifierWork()
