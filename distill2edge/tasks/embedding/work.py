"""The work of `task: embedding`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.examples import Encoded, Row
from distill2edge.data.gold_pairs import read_pairs
from distill2edge.data.model_inputs import encode_for
from distill2edge.errors import UserError
from distill2edge.models.embedders import make_embedder
from distill2edge.models.kinds import EMBEDDER
from distill2edge.models.loading import read_config
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.models.pooling import Pooling, pooling_of, sentence_transformers_pooling, width_of
from distill2edge.recipe.schema import Distill, FromTeacher, Recipe
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.tasks.work import EncoderWork, Facts, OnGrid, beside_of, taught_by
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from distill2edge.models.placement import Placement
    from distill2edge.quantize.schemes import Scheme


class EmbedderWork(EncoderWork):
    """A student learns its teacher's vectors of whole texts."""

    reads_as = EMBEDDER

    def teacher(self, recipe: Recipe, model_dir: Path, progress: Progress) -> Facts:
        """A body that says how it pools: as the recipe has it, as sentence-transformers' files do, or the mean."""
        stated = sentence_transformers_pooling(model_dir) if recipe.teacher.pooling is None else None
        if stated is None:
            stated = Pooling(recipe.teacher.pooling or "mean")
            if recipe.teacher.pooling is None:
                progress.say("  no modules.json says how the teacher pools: the mean of its tokens, of unit length")
        return {"parameters": make_embedder(model_dir, stated)}

    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """The teacher's vectors of train and validation rows."""
        return self.said(recipe, teacher, rows_dir, work, progress, recipe.teacher.placement)

    def cache(
        self, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress, placement: Placement
    ) -> Facts:
        """As `EncoderWork.cache`: vectors."""
        from distill2edge.teacher.vectors import cache_vectors

        return cache_vectors(model_dir, rows, work, progress, placement=placement)

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
        """Some of the teacher's layers, or a checkpoint; it pools as the teacher does."""
        from distill2edge.student.init import init_student

        pooling, sizes = pooling_of(read_config(teacher)), recipe.student.dimensions or ()
        assert pooling is not None, "the teacher's directory says nothing of its pooling"
        if isinstance(recipe.student.init, FromTeacher) and recipe.student.init.is_table:
            facts = self._table(recipe, teacher, sizes[0] if sizes else None, rows_dir, work, progress)
        else:
            rows = self.compared_on(recipe, checkpoint or teacher, checkpoint is None, rows_dir)
            facts = init_student(recipe.student, teacher, rows, work, progress, checkpoint, same_vocabulary=False)
        pooling.write(work / "model")
        if recipe.student.trim is not None:
            from distill2edge.student.trim_to_rows import trim_encoder

            facts |= trim_encoder(recipe, rows_dir, work, progress)
            write_json(work / "student.json", facts)
        width = width_of(read_config(work / "model"))
        if sizes and sizes[0] != width:
            raise UserError(
                f"the student's vector has {width} dimensions, and the list begins with {sizes[0]}",
                where="student.dimensions",
                fix=f"write [{', '.join(map(str, (width, *(size for size in sizes if size < width))))}]",
            )
        replace(pooling, dimensions=sizes).write(work / "model")
        return facts

    def _table(
        self, recipe: Recipe, teacher: Path, width: int | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """A table of token vectors; its own numbers can be compared with the teacher's where it is as wide."""
        from distill2edge.student.token_table import init_table

        whole = width_of(read_config(teacher))
        for term, _ in recipe.distill.loss.weighed("embeddings") if width is not None and width < whole else ():
            raise UserError(
                f"{term.label}: a table of {width} dimensions has axes of its own, the teacher has {whole}",
                where=f"distill.loss.{term.name}",
                fix="set it to 0 and give similarity a weight, or let student.dimensions begin with the teacher's",
            )
        return init_table(teacher, self.encoded(recipe, rows_dir, teacher, "train"), width, work, progress)

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
        """On the teacher's vectors and intermediate layers; on a grid: or the student's own vectors."""
        from distill2edge.distill.embedder_model import make_embedder
        from distill2edge.distill.encoder_training import train_encoder

        return train_encoder(
            make_embedder,
            student,
            self.encoded(recipe, rows_dir, student, "train"),
            self.encoded(recipe, rows_dir, student, "validation"),
            taught_by(recipe, signal, on_grid),
            beside_of(recipe, training.loss, student, teacher, on_grid),
            training,
            training.loss,
            recipe.student.lora if on_grid is None else on_grid.lora,
            recipe.seed,
            work,
            progress,
            None if on_grid is None else on_grid.grids,
        )

    def merge(
        self,
        recipe: Recipe,
        student: Path,
        trained: Path,
        rows_dir: Path,
        work: Path,
        schemes: Sequence[Scheme] = SURVIVAL,
    ) -> Facts:
        """As `Work.merge`; the directory is one of sentence-transformers too."""
        facts = super().merge(recipe, student, trained, rows_dir, work, schemes)
        pooling = pooling_of(read_config(work / "model"))
        assert pooling is not None
        pooling.write(work / "model")
        return facts

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """The test rows, and the pairs that people scored."""
        found, spec = super().held_out(recipe, model_dir, rows_dir), recipe.verify.pairs
        if spec is None:
            return found
        texts, scores = [], []
        for number, pair in enumerate(read_pairs(spec, SilentProgress())):
            texts += [Row(f"pair {number} {side}", text, "") for side, text in enumerate(pair[:2])]
            scores += [pair.score, pair.score]
        rows = encode_for(recipe.data, texts, model_dir, kind=self.reads_as)
        pairs = [replace(row, number=score) for row, score in zip(rows, scores, strict=True)]
        return replace(found, pairs=pairs)

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """The teacher's neighbours that are kept, and distance of the vectors."""
        from distill2edge.verify.embedders import verify_embedders

        return verify_embedders(models, encodings, recipe.verify, seed=recipe.seed, work=work, progress=progress)


WORK = EmbedderWork()
