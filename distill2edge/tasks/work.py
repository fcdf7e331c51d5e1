"""What a task does: the stages whose work depends on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.cost.serving_places import watts_of
from distill2edge.data.encoded_rows import Joined
from distill2edge.data.examples import Encoded, Row
from distill2edge.data.model_inputs import encode_for
from distill2edge.data.split_files import read_rows
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.kinds import Kind
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.recipe.schema import Distill, FromTeacher, Loss, Recipe
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.util.files import read_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.distill.encoder_training import Beside
    from distill2edge.quantize.divergence import Row as Compared
    from distill2edge.quantize.scales import TensorGrid
    from distill2edge.quantize.schemes import Scheme
    from distill2edge.recipe.schema import Lora

Facts = dict[str, Any]


@dataclass(frozen=True)
class OnGrid:
    """What the training on the grid of a file has beside any other.

    Attributes:
        grids: weight's name -> its grid.
        lora: of this training; None trains every weight.
        own: what the student itself says of the rows, in the place of what the teacher says; None: the teacher's.
        made_of: the student before any training, where the loss compares layers.
    """

    grids: Mapping[str, TensorGrid]
    lora: Lora | None
    own: Path | None = None
    made_of: Path | None = None


class Work(ABC):
    """The stages whose work depends on the task.

    Paths: `rows_dir` has the splits as Parquet (the data stage's, or those of a synthesis); `teacher`, `student` are
    Hugging Face directories; `work` is the directory to write, which may hold leftovers of a killed try of the same
    inputs. Every method returns a small JSON-able dict of facts, and raises UserError for what the user can correct.

    Attributes:
        reads_as: the kind as which every model of the task reads a row; None: each as its own.
        merge_rows: on which a merge is compared.
    """

    reads_as: Kind | None = None
    merge_rows = 16

    def encoded(self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str) -> Sequence[Encoded]:
        """A split of the data in the tokens of a model."""
        return encode_for(recipe.data, self.rows(recipe, rows_dir, split), model_dir, kind=self.reads_as)

    def rows(self, recipe: Recipe, rows_dir: Path, split: str) -> Sequence[Row]:
        """A split of the data, as far as the task reads it."""
        return read_rows(rows_dir, split)

    def calibration(
        self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str = "calibration"
    ) -> Sequence[Encoded]:
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
        on_grid: OnGrid | None = None,
    ) -> Facts:
        """Train one arm; writes `adapter/` or `model/`, and `train.json`.

        Args:
            training: the arm's section; the control's has other weights than the recipe's.
            kind: the signal's kind; `gold` for the control.
            teacher: given where the loss runs the teacher beside the student.
            signal: directory of the cached signal; None for `gold`.
            on_grid: of a merged student that is trained on the grid of a file.
        """

    @abstractmethod
    def student_signal(
        self, recipe: Recipe, student: Path, signal: Path | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """Cache what the merged student says of the rows that it was trained on, and of the validation rows.

        Args:
            signal: the `signal` stage, whose responses are the rows where the teacher wrote them.
        """

    def merge(
        self,
        recipe: Recipe,
        student: Path,
        trained: Path,
        rows_dir: Path,
        work: Path,
        schemes: Sequence[Scheme] = SURVIVAL,
    ) -> Facts:
        """Turn what was trained into one dense `model/`, checked on some rows, and `merge.json`.

        An adapter's product is added to the weights, a trained head is put in its place.

        Args:
            schemes: whose rounding steps the updates are compared with.
        """
        from distill2edge.student.merge import merge as merge_weights

        rows = self.encoded(recipe, rows_dir, student, "validation") or self.encoded(recipe, rows_dir, student, "train")
        return merge_weights(student, trained, rows[: self.merge_rows], schemes, work)

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

    @abstractmethod
    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """Keep what a model of the task, whose weights lie there, says of the texts."""

    def said(
        self,
        recipe: Recipe,
        model_dir: Path,
        rows_dir: Path,
        work: Path,
        progress: Progress,
        placement: Placement = WHOLE,
    ) -> Facts:
        """Keep what a model of the task says of train and validation rows."""
        rows = Joined(self.encoded(recipe, rows_dir, model_dir, split) for split in ("train", "validation"))
        return self.cache(model_dir, rows, work, progress, placement)

    def student_signal(
        self, recipe: Recipe, student: Path, signal: Path | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """As `Work.student_signal`."""
        return self.said(recipe, student, rows_dir, work, progress)

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows."""
        from distill2edge.intake.vocabularies import vocabulary_hash

        tokenizer = load_tokenizer(model_dir)
        return Encodings(self.encoded(recipe, rows_dir, model_dir, "test"), None, vocabulary_hash(tokenizer))


def taught_by(recipe: Recipe, signal: Path | None, on_grid: OnGrid | None) -> tuple[Path, float] | None:
    """What is kept of what was said of whole texts, and the temperature at which it is compared; None: nothing."""
    if on_grid is not None and on_grid.own is not None:
        return on_grid.own, getattr(recipe.student_signal, "temperature", 1.0)
    return None if signal is None else (signal, getattr(recipe.signal, "temperature", 1.0))


def beside_of(
    recipe: Recipe, loss: Loss, student: Path, teacher: Path | None, on_grid: OnGrid | None = None
) -> Beside | None:
    """The teacher that runs beside a student, or the assistant in its place; None where no term compares layers."""
    from distill2edge.distill.encoder_training import Beside
    from distill2edge.models.id_map import read_map

    if not loss.needs_layers:
        return None
    assert teacher is not None
    student = student if on_grid is None or on_grid.made_of is None else on_grid.made_of
    ids = read_map(student)
    to_teacher = None if ids is None else [int(old) for old in ids.new_to_old]
    return Beside(teacher, _layer_map(recipe, loss, student, teacher, to_teacher), to_teacher)


def _layer_map(
    recipe: Recipe, loss: Loss, student: Path, teacher: Path, to_teacher: Sequence[int] | None
) -> Sequence[int]:
    """The teacher's layer for each of the student's: as the recipe says, or those that the student was made of."""
    facts = read_json(student.parent / "student.json")
    of_assistant = facts.get("assistant")
    own = of_assistant is not None or isinstance(recipe.student.init, FromTeacher)
    if not own:
        _check_tokens(teacher, student, to_teacher)
    if loss.layer_map is not None:
        return loss.layer_map
    if not own:
        raise UserError(
            "a student from a checkpoint has no layers of the teacher to be compared with",
            where="distill.loss.layer_map",
            fix="name the teacher's layer for each of the student's",
        )
    kept: Sequence[int] | None = facts["layers"] if of_assistant is None else of_assistant["taken"]
    if kept is None:  # all of the assistant's
        from distill2edge.models.loading import read_config
        from distill2edge.models.shape import shape_of

        kept = range(shape_of(read_config(student)).layers or 0)
    return kept


def _check_tokens(teacher: Path, student: Path, to_teacher: Sequence[int] | None) -> None:
    """Refuse a student whose tokens are not the teacher's: what layers say is compared token by token.

    Args:
        to_teacher: of a trimmed student, as `Beside`; it need not have all of the teacher's tokens.
    """
    from distill2edge.intake.vocabularies import check_for_layers

    whole, own = load_tokenizer(teacher).get_vocab(), load_tokenizer(student).get_vocab()
    if to_teacher is not None:
        own = {token: to_teacher[index] for token, index in own.items()}
        whole = {token: index for token, index in whole.items() if token in own}
    check_for_layers(whole, own)
