"""What a recipe names outside itself, looked up once: so the graph of a recipe is a pure function of both."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress


class Sources:
    """Contents of models, data and files, for the keys of stages.

    Args:
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, for GGUF in place of the built-in writers. It is an
            argument and no part of the recipe: a recipe from elsewhere must not name code to run.
    """

    def __init__(self, recipe: Recipe, progress: Progress, converter: Path | None = None) -> None:
        self.recipe, self.progress, self.converter = recipe, progress, converter

    @cached_property
    def data(self) -> Any:
        """What identifies the rows: the source, and that of rows without a response where it is another.

        Raises:
            UserError, EnvironmentFault: a source that does not exist, or can't be reached.
        """
        from distill2edge.data.row_sources import fingerprint

        data = self.recipe.data
        own = fingerprint(data.source, data.revision)
        if data.unlabelled is None or data.unlabelled.source is None:
            return own
        return [own, fingerprint(data.unlabelled.source, data.unlabelled.revision)]

    @cached_property
    def teacher(self) -> Any:
        """What identifies the teacher; of an endpoint, what its answers depend on.

        An endpoint's budget may be raised between two tries: it is no part of any key.
        """
        endpoint = self.recipe.teacher.endpoint
        if endpoint is not None:
            return endpoint.asked
        return self._model(self.recipe.teacher.model, self.recipe.teacher.revision)

    @cached_property
    def student(self) -> Any:
        """What identifies the checkpoint that the student starts from; None where that is the teacher."""
        from distill2edge.recipe.schema import FromTeacher

        init = self.recipe.student.init
        return None if isinstance(init, FromTeacher) else self._model(init.model, init.revision)

    @cached_property
    def judge(self) -> Any:
        """What identifies the judge of a recipe that has one."""
        from distill2edge.recipe.judge import WHERE

        spec = self.recipe.verify.judge
        assert spec is not None
        return self._model(spec.model, spec.revision, f"{WHERE}.model")

    @cached_property
    def pairs(self) -> Any:
        """What identifies the pairs of a recipe that has some."""
        from distill2edge.data.row_sources import fingerprint

        spec = self.recipe.verify.pairs
        assert spec is not None
        return fingerprint(spec.source, spec.revision)

    @cached_property
    def backend(self) -> str:
        """What runs the teacher when it writes."""
        from distill2edge.teacher.open_teacher import text_backend

        return text_backend(self.recipe, self.progress)

    @cached_property
    def judge_backend(self) -> str:
        """What runs the judge."""
        from distill2edge.teacher.open_teacher import cpu_gguf

        spec = self.recipe.verify.judge
        assert spec is not None
        return "transformers" if cpu_gguf(spec.model, self.progress) is None else "llama.cpp"

    @cached_property
    def verifiers(self) -> list[Any]:
        """What the verdicts on the teacher's text depend on beside the recipe."""
        from distill2edge.verifiers.registry import contents

        return contents(getattr(self.recipe.signal, "verify", ()), self.progress)

    @cached_property
    def converter_content(self) -> str:
        """Hash of the converter.

        Raises:
            UserError: there is no such file.
        """
        from distill2edge.pipeline.artifact import sha256_of

        assert self.converter is not None
        if not self.converter.is_file():
            where, fix = f"--converter {self.converter}", "convert_hf_to_gguf.py of a llama.cpp checkout"
            raise UserError("no such file", where=where, fix=fix)
        return sha256_of(self.converter)

    def check(self) -> None:
        """What must not wait for hours of training: the sandbox, losses of the user's own, the cost report's places,
        pairs to score by, a judge that is a party.

        Raises:
            UserError: a place that nobody knows, a loss that fails, a pair without a score, a family that nobody can
                write as GGUF.
            EnvironmentFault: `python` checks that cannot be isolated here, a converter that cannot be fetched.
        """
        from distill2edge.cost.serving_places import check_places, watts_of
        from distill2edge.preflight.models import fetch_converter
        from distill2edge.verifiers.registry import require_walls

        recipe = self.recipe
        require_walls(recipe)
        aware = recipe.distill.quantization_aware
        for section in (recipe.distill.loss, recipe.distill.on_policy, None if aware is None else aware.loss):
            if section is not None and section.own_code():
                from distill2edge.distill.objective import try_own

                try_own(section)
        check_places(recipe.cost)
        watts_of(recipe.bench, recipe.cost)
        if recipe.verify.pairs is not None:
            from distill2edge.data.gold_pairs import read_pairs

            read_pairs(recipe.verify.pairs, self.progress)
        if self.converter is not None:
            self.converter_content  # noqa: B018 (it must be there)
        else:
            fetch_converter(recipe, self.progress)
        for who in self.judges_of_its_own:
            what = f"the judge is the {who}'s own model, and models favour answers of their own: name another"
            self.progress.warn(what)

    @property
    def judges_of_its_own(self) -> list[str]:
        """Which of teacher and student has the weights of the judge."""
        if self.recipe.verify.judge is None:
            return []
        return [who for who, own in (("teacher", self.teacher), ("student", self.student)) if own == self.judge]

    def _model(self, model: Any, revision: str | None, *where: str) -> Any:
        from distill2edge.intake.obtain import fingerprint

        return fingerprint(model, revision, self.progress, *where)
