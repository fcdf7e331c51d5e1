"""What a task does: the stages whose work depends on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.cost.serving_places import watts_of
from distill2edge.data.encode import Encoded, Row, read_rows
from distill2edge.data.model_inputs import encode_for
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.kinds import Kind
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Distill, FromTeacher, Loss, Recipe
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.util.files import read_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Beside
    from distill2edge.quantize.divergence import Row as Compared

Facts = dict[str, Any]


class Work(ABC):
    """The stages whose work depends on the task.

    Paths: `rows_dir` has the splits as Parquet (the data stage's, or those of a synthesis); `teacher`, `student` are
    Hugging Face directories; `work` is the directory to write, which may hold leftovers of a killed try of the same
    inputs. Every method returns a small JSON-able dict of facts, and raises UserError for what the user can correct.

    Attributes:
        reads_as: the kind as which every model of the task reads a row; None: each as its own.
    """

    reads_as: Kind | None = None

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> list[Encoded]:
        """A split of the data in the tokens of a model."""
        return encode_for(recipe.data, self.rows(recipe, rows_dir, split), model_dir, kind=self.reads_as)

    def rows(self, recipe: Recipe, rows_dir: Path, split: str) -> list[Row]:
        """A split of the data, as far as the task reads it."""
        return read_rows(rows_dir, split)

    def calibration(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str = "calibration") -> list[Encoded]:
        """The rows that a model's files are rounded by, in its tokens."""
        return encode_for(recipe.data, read_rows(rows_dir, split), model_dir, kind=self.reads_as)

    def compared(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> list[Compared]:
        """What the KL of a mix is measured on: rows of a split, up to `verify.max_tokens` positions."""
        from distill2edge.quantize.divergence import Row as Compared
        from distill2edge.verify.fidelity import choose_positions

        encoded = self.calibration(recipe, rows_dir, model_dir, split)
        spans = choose_positions(encoded, recipe.verify.max_tokens, recipe.verify.positions)
        return [Compared(row.ids, span.positions, row.prompt_length) for span in spans for row in (encoded[span.row],)]

    def teacher(self, recipe: Recipe, model_dir: Path, progress: Progress) -> Facts:
        """Complete the teacher's directory, where the task needs another than its files make.

        Returns:
            those of the teacher's facts that are others then.
        """
        return {}

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Fit the teacher to the data's own responses; writes a dense `model/`. For tasks that support it."""
        raise AssertionError(f"task {recipe.task} fits no teacher, and its recipes may not ask for it")

    @abstractmethod
    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Cache the teacher's signal on train and validation rows.

        Args:
            origin: facts of the teacher stage: name, revision, licence; empty for signals that keep no text.
        """

    @abstractmethod
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
        """Write the untrained student as `model/` and `student.json`.

        Args:
            checkpoint: what it starts from, if any.
            written: the signal's directory, where the rows that it will read are what the teacher wrote, and its
                vocabulary is trimmed to them.
        """

    @abstractmethod
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
    ) -> Facts:
        """Train one arm; writes `adapter/` or `model/`, and `train.json`.

        Args:
            training: the arm's section; the control's has other weights than the recipe's.
            kind: the signal's kind; `gold` for the control.
            teacher: given where the loss runs the teacher beside the student.
            signal: directory of the cached signal; None for `gold`.
        """

    @abstractmethod
    def merge(self, recipe: Recipe, student: Path, trained: Path, rows_dir: Path, work: Path) -> Facts:
        """Turn what was trained into one dense `model/`, checked, and `merge.json`."""

    @abstractmethod
    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows in the tokens of a model."""

    @abstractmethod
    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """Score and compare every model; writes `verify.json`.

        Args:
            labels: the signal of a teacher that is asked, where the task has such teachers.
        """

    def bench(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
    ) -> Facts:
        """Measure the speed of every model; writes `bench.json`."""
        from distill2edge.bench.measure import bench_models

        watts = watts_of(recipe.bench, recipe.cost)
        return bench_models(
            models, encodings, recipe.bench, seed=recipe.seed, work=work, progress=progress, watts=watts
        )

    def compared_on(self, recipe: Recipe, model_dir: Path, own: bool, rows_dir: Path) -> Sequence[Encoded]:
        """Calibration rows, for the parts of a student's model to be compared on.

        Args:
            model_dir: what the student is made of.
            own: whether that is the teacher.
        """
        if recipe.student.init.width is not None:
            return self.encoded(recipe, rows_dir, model_dir, "calibration")
        return self.encoded(recipe, rows_dir, model_dir, "calibration")[:32] if own else ()


class EncoderWork(Work):
    """What the tasks of encoders have in common: they read whole texts, and say something of each."""

    def compared(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> list[Compared]:
        """As `Work.compared`: a text is one position."""
        from distill2edge.quantize.divergence import Row as Compared

        encoded = self.calibration(recipe, rows_dir, model_dir, split)[: recipe.verify.max_tokens]
        return [Compared(row.ids, [0], len(row.ids), row.types) for row in encoded]

    def merge(self, recipe: Recipe, student: Path, trained: Path, rows_dir: Path, work: Path) -> Facts:
        """The adapter's product added to the weights, the trained head put in its place."""
        from distill2edge.student.merge import merge as merge_weights

        rows = self.encoded(recipe, rows_dir, student, "validation") or self.encoded(recipe, rows_dir, student, "train")
        return merge_weights(student, trained, rows[:ROWS], SURVIVAL, work)

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows."""
        from distill2edge.intake.vocabularies import vocabulary_hash

        tokenizer = load_tokenizer(model_dir)
        return Encodings(self.encoded(recipe, rows_dir, model_dir, "test"), None, vocabulary_hash(tokenizer))


ROWS = 16
"""On which a merge is compared."""


def beside_of(recipe: Recipe, loss: Loss, student: Path, teacher: Path | None) -> Beside | None:
    """The teacher that runs beside a student; None where no term compares layers."""
    from distill2edge.distill.encoder_training import Beside
    from distill2edge.models.id_map import read_map

    if not loss.needs_layers:
        return None
    assert teacher is not None
    ids = read_map(student)
    to_teacher = None if ids is None else [int(old) for old in ids.new_to_old]
    return Beside(teacher, _layer_map(recipe, loss, student, teacher), to_teacher)


def _layer_map(recipe: Recipe, loss: Loss, student: Path, teacher: Path) -> Sequence[int]:
    """The teacher's layer for each of the student's: as the recipe says, or those that the student was made of."""
    own = isinstance(recipe.student.init, FromTeacher)
    if not own:
        from distill2edge.intake.vocabularies import check_same_vocabulary

        # Hidden states are compared token by token.
        check_same_vocabulary(load_tokenizer(teacher), load_tokenizer(student))
    if loss.layer_map is not None:
        return loss.layer_map
    if not own:
        raise UserError(
            "a student from a checkpoint has no layers of the teacher to be compared with",
            where="distill.loss.layer_map",
            fix="name the teacher's layer for each of the student's",
        )
    kept: list[int] = read_json(student.parent / "student.json")["layers"]
    return kept
