"""The stages of on-policy distillation: the student writes, the teacher scores each token, the student learns.

Every round is three stages like any other (`signal`, `distill`, `merge`), cached and resumed by the store.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.stages.learning import AnyTraining, round_seed
from distill2edge.stages.sharing import by_workers
from distill2edge.stages.stage import Facts, Inputs, Stage, drawn_key, loaded_key, plain, rows_key
from distill2edge.stages.teaching import AnySignal
from distill2edge.tasks import task_of
from distill2edge.util.files import write_text

if TYPE_CHECKING:
    from distill2edge.recipe.on_policy import OnPolicy
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress

_SHARD = 64  # prompts between two writes to the disk
WARM = "warm-start"
"""The arm before the first round."""


@plain
class OnPolicySignal(AnySignal):
    """What the student writes, and the teacher's distribution at each token of it; also on the rows of the data.

    Attributes:
        model: that writes.
        number: of the round, from 1.
    """

    data: Stage
    teacher: Stage
    model: Stage
    number: int

    by_workers = True

    @property
    def spec(self) -> OnPolicy:
        """The section of the recipe."""
        spec = self.recipe.distill.on_policy
        assert spec is not None
        return spec

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        key = {"on_policy": canonical(self.spec), "signal": canonical(self.recipe.signal)}
        return (
            {**key, "rows": rows_key(self.recipe), "round": self.number}
            | loaded_key(self.recipe)
            | drawn_key(self.recipe)
        )

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.full_tokens import in_full
        from distill2edge.data.model_inputs import encode_for
        from distill2edge.distill.on_policy_rounds import read_written, shared_rows
        from distill2edge.models.id_map import read_map
        from distill2edge.recipe.schema import LogitsSignal
        from distill2edge.teacher.logits import cache_logits

        recipe, rows = self.recipe, self.data.path(inputs)
        assert isinstance(recipe.signal, LogitsSignal)
        student, teacher = self.model.model_dir(inputs), self.teacher.model_dir(inputs)
        own, asked = shared_rows(self.spec, rows, self.number)
        prompts, seed = [row.prompt for row in asked], round_seed(recipe, self.number)
        ended = write_texts(recipe, self.spec, student, prompts, seed, work, progress)
        written, ids = read_written(work), read_map(student)
        if ids is not None:
            written = in_full(written, ids)
        given = [
            *encode_for(recipe.data, own, teacher),
            *task_of(recipe).work.encoded(recipe, rows, teacher, "validation"),
        ]
        with by_workers(recipe, teacher, progress):
            facts = cache_logits(
                teacher, [*written, *given], recipe.signal, work, progress,
                placement=recipe.teacher.placement, seed=recipe.seed,
            )  # fmt: skip
        tokens = sum(row.supervised for row in written)
        return {**facts, "written": len(written), "written_tokens": tokens, "ended": ended}


@plain
class TrainOnPolicy(AnyTraining):
    """The student, trained on what it wrote and on the data's rows of the round."""

    signal: OnPolicySignal

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        return self.key("logits", {"control", "quantization_aware"})

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.model_inputs import encode_for
        from distill2edge.distill.on_policy_rounds import read_written, shared_rows
        from distill2edge.distill.train import train

        recipe, rows = self.recipe, self.rows.path(inputs)
        model_dir, written, number = self.student.model_dir(inputs), self.signal.path(inputs), self.signal.number
        own, _ = shared_rows(self.signal.spec, rows, number)
        return train(
            model_dir,
            [*read_written(written), *encode_for(recipe.data, own, model_dir)],
            task_of(recipe).work.encoded(recipe, rows, model_dir, "validation"),
            written,
            self.training,
            self.training.loss,
            recipe.student.lora,
            self.training.chunk,
            round_seed(recipe, number),
            work,
            progress,
        )


def write_texts(
    recipe: Recipe, spec: OnPolicy, model_dir: Path, prompts: Sequence[str], seed: int, work: Path, progress: Progress
) -> int:
    """Shards `written-00000.json` of the student's samples; returns how many ended by themselves.

    Args:
        seed: of the round.
    """
    from distill2edge.data.model_inputs import encode_inputs, form_of
    from distill2edge.data.tokens import stop_token_ids
    from distill2edge.generation.writers import open_writer
    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.recipe.schema import TextSignal

    tokenizer: Any = load_tokenizer(model_dir)
    form, stop = form_of(recipe, model_dir), stop_token_ids(tokenizer, recipe.data.template)
    sampling = TextSignal(max_new_tokens=spec.max_new_tokens, temperature=spec.temperature)  # type: ignore[call-arg]
    writer, ended = None, 0
    with progress.task("student writes", len(prompts)) as task:
        for shard, begin in enumerate(range(0, len(prompts), _SHARD)):
            path = work / f"written-{shard:05d}.json"
            if not path.is_file():
                # The teacher reads every token of it, and its rows may be fewer than the student's.
                tokens = max(tokenizer.get_vocab().values()) + 1
                writer = writer or open_writer(model_dir, tokenizer, sampling, stop, "transformers", None, tokens)
                asked = encode_inputs(prompts[begin : begin + _SHARD], tokenizer, form)
                answers = writer(asked, (seed * 1_000_003 + shard) % (1 << 31))
                write_text(path, json.dumps(list(zip(asked, answers, strict=True))))
            ended += sum(bool(answer) and answer[-1] in stop for _, answer in json.loads(path.read_text()))
            task.advance(len(prompts[begin : begin + _SHARD]))
    return ended
