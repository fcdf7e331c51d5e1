"""The stages that look at finished models: verify, judge, bench."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.exporting import Export
from distill2edge.stages.learning import Merge
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Rows, Stage, asked_key, loaded_key, plain, rows_key
from distill2edge.tasks import task_of

if TYPE_CHECKING:
    from distill2edge.models.model_file import Encodings, ModelFile
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.util.progress import Progress


@plain
class Measuring(ModelStage):
    """What every stage has in common that looks at models.

    Attributes:
        base, teacher: the teacher as fetched, and as fitted.
        student: before its training: it gives the tokens.
        merged: the trained student, and the arms to compare with.
    """

    rows: Rows
    base: Stage
    teacher: Stage
    student: Stage
    merged: tuple[Merge, ...]
    exports: tuple[Export, ...]

    bucket = "evaluation"

    def models(self, inputs: Inputs) -> list[ModelFile]:
        """Every model that is looked at: the teacher's first, where it is here."""
        from distill2edge.models.model_file import dense

        student, teacher, found = int(self.student.artifact(inputs).facts["parameters"]), 0, []
        if self.recipe.has_dense_teacher:
            teacher = int(self.base.artifact(inputs).facts["parameters"])
            found.append(dense("teacher", self.teacher.model_dir(inputs), teacher, self.recipe.teacher.placement))
        found += [model.measured(inputs, student) for model in self.merged]
        found += [each.measured(inputs, teacher if each.role == "teacher" else student) for each in self.exports]
        return found

    def with_caches(self, models: Sequence[ModelFile]) -> list[ModelFile]:
        """The models, and each file that ships for llama.cpp also with keys and values in the types that are asked."""
        shipped = {each.id for each in self.exports if each.ships and each.scheme.format == "gguf"}
        found = list(models)
        for model in models:
            if model.id in shipped:
                found += [model.with_cache(cache) for cache in self.recipe.verify.caches]
        return found

    def encodings(self, inputs: Inputs) -> dict[str, Encodings]:
        """The held-out rows in the teacher's tokens; in the student's too, where those are others."""

        task, rows = task_of(self.recipe).work, self.rows.path(inputs)
        if not self.recipe.has_dense_teacher:  # it is not measured: everything is counted in the student's tokens
            return {"teacher": task.held_out(self.recipe, self.student.model_dir(inputs), rows)}
        tokenizers = {"teacher": self.teacher.model_dir(inputs), "student": self.student.model_dir(inputs)}
        found = {role: task.held_out(self.recipe, directory, rows) for role, directory in tokenizers.items()}
        # A teacher that is asked reads the rows in its own words, whatever the vocabulary.
        if self.recipe.teacher.ask is not None or found["student"].vocabulary != found["teacher"].vocabulary:
            return _paired(found)
        del found["student"]
        return found


@plain
class Verify(Measuring):
    """Every file, in its own runtime, against student and teacher.

    Attributes:
        labels: the signal of a teacher that is asked, which says how its answers become classes.
    """

    labels: Stage | None = None

    kind = "verify"
    version = 4
    files = Files(("verify.json", "models/*"), ("models/*",))
    help = "Compare each file with student and teacher. Each is run by its own runtime."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"verify": canonical(recipe.verify, {"judge"}), "choices": recipe.data.choices}
        if recipe.verify.pairs is not None:
            key["pairs"] = self.sources.pairs
        return {**key, "rows": rows_key(recipe)} | asked_key(recipe) | loaded_key(recipe)

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.stages.shipped import check_tokenizers

        recipe, models, encodings = self.recipe, self.models(inputs), self.encodings(inputs)
        trained = {"student": self.student.model_dir(inputs)}
        if recipe.has_dense_teacher:
            trained["teacher"] = self.teacher.model_dir(inputs)
        unlike = check_tokenizers(recipe, models, trained, self.rows.path(inputs), progress)
        labels = None if self.labels is None else self.labels.path(inputs)
        facts = task_of(recipe).work.verify(recipe, self.with_caches(models), encodings, work, progress, labels)
        return facts | ({"other_tokens": unlike} if unlike else {})

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.verified()


@plain
class Judge(Measuring):
    """What the merged student and its files write, compared by a judge with what the teacher writes."""

    kind = "judge"
    version = 2
    files = Files(("judge.json", "answers.jsonl", "answers/*"), ("answers.jsonl", "answers/*"))
    help = "Let a judge compare answers, if the recipe names one. It reads the student's beside the teacher's."
    published = ("judge.json",)

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        sources = self.sources
        return {
            "judge": canonical(self.recipe.verify.judge),
            "content": sources.judge,
            "backends": [sources.backend, sources.judge_backend],
            "rows": rows_key(self.recipe),
        } | loaded_key(self.recipe)

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.split_files import read_rows
        from distill2edge.judge.judge_model import open_judge
        from distill2edge.judge.pairwise import judge_students
        from distill2edge.models.checkpoint import load_tokenizer
        from distill2edge.models.model_file import encoding_of
        from distill2edge.recipe.judge import WHERE
        from distill2edge.teacher.open_teacher import cpu_gguf, open_generator

        recipe, spec = self.recipe, self.recipe.verify.judge
        assert spec is not None
        facts = judge_students(
            [model for model in self.models(inputs) if model.role == "student"],
            encoding_of("student", self.encodings(inputs)),
            {row.id: row for row in read_rows(self.rows.path(inputs), "test")},
            load_tokenizer(self.student.model_dir(inputs)),
            open_generator(recipe, self.teacher.model_dir(inputs), work, progress, f"{WHERE}.answer_tokens"),
            open_judge(spec, work, progress, WHERE, gguf=cpu_gguf(spec.model, progress)),
            spec,
            system=recipe.data.system if recipe.data.template == "chat" else None,
            akin=self.sources.judges_of_its_own,
            seed=recipe.seed,
            work=work,
            progress=progress,
        )
        shutil.rmtree(work / "judge", ignore_errors=True)  # the fetched model
        return facts

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.judged()


@plain
class Bench(Measuring):
    """Latency, throughput and memory of every model."""

    kind = "bench"
    version = 2
    files = Files(("bench.json", "rounds/*"), ("rounds/*",))
    help = "Measure the speed and memory of each file."

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        recipe = self.recipe
        key = {"bench": canonical(recipe.bench), "cost": canonical(recipe.cost), "rows": rows_key(recipe)}
        key |= asked_key(recipe) | loaded_key(recipe)
        return key | ({"kv_cache": list(recipe.verify.caches)} if recipe.verify.caches else {})

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        models = self.with_caches(self.models(inputs))
        return task_of(self.recipe).work.bench(self.recipe, models, self.encodings(inputs), work, progress)

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.benched()


def _paired(encodings: dict[str, Encodings]) -> dict[str, Encodings]:
    """Only the rows that fit the length limit in both vocabularies."""
    common = set.intersection(*({row.row for row in side.rows} for side in encodings.values()))
    paired = {}
    for role, side in encodings.items():
        kept = [index for index, row in enumerate(side.rows) if row.row in common]
        choices = None if side.choices is None else [side.choices[index] for index in kept]
        paired[role] = replace(side, rows=[side.rows[index] for index in kept], choices=choices)
    return paired
