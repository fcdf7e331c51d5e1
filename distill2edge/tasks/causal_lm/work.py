"""The work of tasks whose students predict tokens. How a row is read follows from the kind of each model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.encode import LOST
from distill2edge.data.encoded_rows import Joined
from distill2edge.data.model_inputs import encode_for, form_of
from distill2edge.data.split_files import labelled, read_rows
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.id_map import read_map
from distill2edge.models.model_file import Encodings, ModelFile
from distill2edge.recipe.schema import Distill, FromModel, LogitsSignal, Loss, Recipe
from distill2edge.tasks.survival import SURVIVAL
from distill2edge.tasks.work import Facts, OnGrid, Work
from distill2edge.util.files import read_object, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded, Row
    from distill2edge.teacher.token_views import Tokens


class TokenWork(Work):
    """A student learns a distribution over the vocabulary at each position."""

    merge_rows = 8  # each has many positions

    def rows(self, recipe: Recipe, rows_dir: Path, split: str) -> Sequence[Row]:
        """As `Work.rows`: a row without a response has no position to learn from; a teacher may write one."""
        return labelled(super().rows(recipe, rows_dir, split))

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Trained on the data's own responses, then merged."""
        from distill2edge.distill.train import train
        from distill2edge.student.merge import merge

        section = recipe.teacher.fit
        assert section is not None
        rows = self.encoded(recipe, rows_dir, base, "train")
        if section.max_rows is not None:
            rows = rows[: section.max_rows]
        trained = work / "trained"
        facts = train(
            base,
            rows,
            self.encoded(recipe, rows_dir, base, "validation"),
            None,
            section,
            Loss(ce=1.0),  # type: ignore[call-arg]
            section.lora,
            Distill().chunk,  # type: ignore[call-arg]
            recipe.seed,
            trained,
            progress,
        )
        merged = merge(base, trained, rows[: self.merge_rows], SURVIVAL, work)
        shutil.rmtree(trained)
        return {"train": facts, "merge": merged}

    def signal(
        self, recipe: Recipe, teacher: Path, origin: Facts, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """The teacher's logits on train and validation rows, or the responses it writes."""
        if recipe.signal.kind == "logits":
            from distill2edge.teacher.logits import cache_logits
            from distill2edge.teacher.open_teacher import teacher_gguf

            gguf = teacher_gguf(recipe, progress) if recipe.teacher.backend == "llama.cpp" else None
            asked = (_scored_rows(recipe, rows_dir), self.rows(recipe, rows_dir, "validation"))
            rows, tokens = self._asked(recipe, asked, teacher, work, progress)
            if recipe.teacher.url is not None:
                from distill2edge.teacher.served import cache_served

                return cache_served(recipe, teacher, rows, work, progress)
            return cache_logits(
                teacher, rows, recipe.signal, work, progress, backend=recipe.teacher.backend, gguf_path=gguf,
                tokens=tokens, placement=recipe.teacher.placement, seed=recipe.seed,
            )  # fmt: skip
        from distill2edge.data.ledger import Origin
        from distill2edge.teacher.open_teacher import open_generator
        from distill2edge.teacher.text import write_responses
        from distill2edge.verifiers.registry import Tools, opened
        from distill2edge.verifiers.verdicts import check_of

        assert recipe.signal.kind == "text"
        tools = Tools(teacher, recipe.data.template, recipe.data.system, work, progress, recipe.teacher.placement)
        with opened(recipe.signal.verify, tools) as verifiers:
            facts = write_responses(
                open_generator(recipe, teacher, work, progress),
                read_rows(rows_dir, "train"),
                recipe.signal,
                work,
                progress,
                template=recipe.data.template,
                system=recipe.data.system,
                seed=recipe.seed,
                origin=Origin.of(origin),
                test=read_rows(rows_dir, "test"),
                check=check_of(verifiers),
            )
        shutil.rmtree(work / "judge", ignore_errors=True)
        return facts

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
        """The teacher's own layers, or a checkpoint; with fewer tokens where asked."""
        from distill2edge.student.init import init_student

        rows = self.compared_on(recipe, checkpoint or teacher, checkpoint is None, rows_dir)
        facts = init_student(
            recipe.student,
            teacher,
            rows,
            work,
            progress,
            checkpoint,
            same_vocabulary=recipe.signal.kind == "logits" and recipe.signal.align == "none",
        )
        if recipe.student.trim is not None:
            from distill2edge.student.trim_to_rows import trim_writer
            from distill2edge.teacher.text import read_responses

            responses = () if written is None else read_responses(written)
            facts |= trim_writer(recipe, rows_dir, responses, work, progress)
            write_json(work / "student.json", facts)
        return facts

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
        """On the teacher's logits (on a grid: or the student's own), on its text, or on the data's own responses."""
        from distill2edge.distill.train import train

        compared = signal if kind == "logits" else None
        return train(
            student,
            self._training_rows(recipe, kind, student, signal, rows_dir, progress),
            _cached(self.encoded(recipe, rows_dir, student, "validation"), kind, signal),
            compared if on_grid is None else on_grid.own or compared,
            training,
            training.loss,
            recipe.student.lora if on_grid is None else on_grid.lora,
            training.chunk,
            recipe.seed,
            work,
            progress,
            None if on_grid is None else on_grid.grids,
        )

    def student_signal(
        self, recipe: Recipe, student: Path, signal: Path | None, rows_dir: Path, work: Path, progress: Progress
    ) -> Facts:
        """As `Work.student_signal`: its distributions."""
        from distill2edge.teacher.logits import cache_logits

        train = self._training_rows(recipe, recipe.signal.kind, student, signal, rows_dir, progress)
        rows = Joined([train, self.encoded(recipe, rows_dir, student, "validation")])
        kept = recipe.student_signal
        assert isinstance(kept, LogitsSignal)
        return cache_logits(student, rows, kept, work, progress, seed=recipe.seed)

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """Test rows, and where the responses are a closed set, every choice after each prompt."""
        from distill2edge.data.tokens import stop_token_ids
        from distill2edge.intake.vocabularies import vocabulary_hash

        data, tokenizer = recipe.data, load_tokenizer(model_dir)
        encoded, choices = self.encoded(recipe, rows_dir, model_dir, "test"), None
        if data.choices is not None:
            form = form_of(recipe, model_dir)
            prompts = {row.id: row.prompt for row in self.rows(recipe, rows_dir, "test")}
            choices = form.reading.choices([prompts[item.row] for item in encoded], data.choices, tokenizer, form)
        stop, ids = stop_token_ids(tokenizer, data.template), read_map(model_dir)
        return Encodings(encoded, choices, vocabulary_hash(tokenizer), stop, full=ids)

    def verify(
        self,
        recipe: Recipe,
        models: Sequence[ModelFile],
        encodings: dict[str, Encodings],
        work: Path,
        progress: Progress,
        labels: Path | None = None,
    ) -> Facts:
        """By likelihood of the choices, exact match, or likelihood of the responses."""
        from distill2edge.verify.token_models import verify_token_models

        return verify_token_models(
            models,
            encodings,
            recipe.verify,
            template=recipe.data.template,
            seed=recipe.seed,
            work=work,
            progress=progress,
            labels=[choice.strip() for choice in recipe.data.choices or ()],
        )

    def _asked(
        self, recipe: Recipe, splits: Sequence[Sequence[Row]], teacher: Path, work: Path, progress: Progress
    ) -> tuple[Sequence[Encoded], Tokens | None]:
        """Rows in the tokens that the student learns, and how the teacher reads them where its own are others."""
        theirs = Joined(encode_for(recipe.data, rows, teacher) for rows in splits)
        if recipe.signal.kind != "logits" or recipe.signal.align == "none":
            return theirs, None
        from distill2edge.intake.obtain import fetch_model
        from distill2edge.teacher.aligned import Aligned

        init, fetched = recipe.student.init, work / "student"
        assert isinstance(init, FromModel)
        assert isinstance(init.model, str)
        fetch_model(init.model, init.revision, fetched, progress, where="student.init.model")
        ours = Joined(encode_for(recipe.data, rows, fetched / "model") for rows in splits)
        tokens = Aligned(teacher, fetched / "model", recipe.data.template, theirs, ours)
        shutil.rmtree(fetched)
        progress.say(f"  {tokens.share:.0%} of the student's supervised tokens are matched with the teacher's")
        return ours, tokens

    def _training_rows(
        self, recipe: Recipe, kind: str, student: Path, signal: Path | None, rows_dir: Path, progress: Progress
    ) -> Sequence[Encoded]:
        """The train split, or the teacher's responses to it; says how many the student's tokenizer cannot encode."""
        from distill2edge.teacher.text import read_responses

        counts: Counter[str] = Counter()
        supervise = None
        if kind == "text":
            assert signal is not None
            rows: Sequence[Row] = read_responses(signal)
            if getattr(recipe.signal, "turns", "all") == "last":
                supervise = "answer"  # the earlier turns are the data's, not the teacher's
        else:
            rows = _scored_rows(recipe, rows_dir)
        encoded = encode_for(recipe.data, rows, student, counts, supervise=supervise)
        for reason, meaning in LOST.items():
            if counts[reason]:
                progress.say(f"  {counts[reason]:,} of {len(rows):,} training rows are {meaning}")
        if lost := counts["unencodable"]:
            progress.warn(
                f"{lost} of {len(rows)} training rows are left out: the student's tokenizer cannot encode them"
            )
        return _cached(encoded, kind, signal)


def _cached(rows: Sequence[Encoded], kind: str, signal: Path | None) -> Sequence[Encoded]:
    """The rows that a signal has: a served teacher may have left some out, and its cache says so."""
    if kind != "logits" or signal is None or not read_object(signal / "signal.json").get("dropped"):
        return rows
    from distill2edge.distill.logit_cache import SignalReader

    found = SignalReader(signal)
    return [row for row in rows if row.id in found]


def _scored_rows(recipe: Recipe, rows_dir: Path) -> Sequence[Row]:
    """The train split, less the rows that only give on-policy rounds their prompts."""
    spec = recipe.distill.on_policy
    return labelled(read_rows(rows_dir, "train"))[: None if spec is None else spec.warm_rows]


WORK = TokenWork()
