"""A language model that teaches a classifier: asked in its own words, each answer's likelihood is a class's logit."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.examples import Row
from distill2edge.data.split_files import labelled, read_rows
from distill2edge.data.templates import Template
from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks.causal_lm.work import TokenWork
from distill2edge.tasks.work import Facts
from distill2edge.teacher.likelihoods import Question, likelihoods
from distill2edge.util.progress import Progress
from distill2edge.util.terminal import one_line
from distill2edge.verify.scores import trim_stop
from distill2edge.workers.mapping import map_shards

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill2edge.data.examples import Encoded
    from distill2edge.teacher.choice_correction import Correction


_OF_DATA = re.compile(r"\bdata\.(template|system|max_length)\b")
_NAMED = 5  # classes that a warning names at most
_SHARD = 256  # texts that a kill loses at most: a language model takes seconds for them


@dataclass(frozen=True)
class _Heard:
    """What a teacher said.

    Attributes:
        scores: [C] by the id of each text.
        empty: [m, C] after texts without content.
        lengths: [C] tokens of each answer.
        facts: of how it was asked.
    """

    scores: dict[str, NDArray[np.float32]]
    empty: NDArray[np.float32]
    lengths: list[int]
    facts: dict[str, Any]


def as_asked(recipe: Recipe) -> Recipe:
    """The recipe by which the teacher works: a language model whose answers are a closed set."""
    ask, data = recipe.teacher.ask, recipe.data
    assert ask is not None
    assert data.choices is not None
    changed = {
        "template": ask.template,
        "system": ask.system,
        "choices": ask.answers or data.choices,
        "max_length": ask.max_length,
    }
    return recipe.model_copy(update={"task": "causal-lm", "data": data.model_copy(update=changed)})


@contextmanager
def said_of_ask() -> Iterator[None]:
    """Errors about the recipe of `as_asked`, in the keys that its user wrote."""
    try:
        yield
    except UserError as error:
        where, fix = (_OF_DATA.sub(r"teacher.ask.\1", text) for text in (error.where, error.fix))
        raise type(error)(error.what, where=where, fix=fix) from error


class AskedTeacher(TokenWork):
    """The teacher's part of the work. Its recipes are those of `as_asked`."""

    def rows(self, recipe: Recipe, rows_dir: Path, split: str) -> list[Row]:
        """As `Work.rows`: in the teacher's words."""
        return self._rows(recipe, rows_dir, split, any_answer=split == "test")

    def _rows(self, recipe: Recipe, rows_dir: Path, split: str, *, any_answer: bool) -> list[Row]:
        found = read_rows(rows_dir, split)
        if (known := labelled(found)) or not any_answer:
            return asked_rows(recipe, known, rows_dir)
        # No row has a response: any answer may stand there, since each choice is scored.
        assert recipe.data.choices is not None
        return [replace(row, response=recipe.data.choices[0]) for row in asked_rows(recipe, found, rows_dir)]

    def fit(self, recipe: Recipe, base: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """As `Work.fit`."""
        with said_of_ask():
            return super().fit(recipe, base, rows_dir, work, progress)

    def calibration(
        self, recipe: Recipe, rows_dir: Path, model_dir: Path, split: str = "calibration"
    ) -> Sequence[Encoded]:
        """As `Work.calibration`."""
        from distill2edge.data.model_inputs import encode_for

        with said_of_ask():
            return encode_for(recipe.data, self._rows(recipe, rows_dir, split, any_answer=True), model_dir)

    def held_out(self, recipe: Recipe, model_dir: Path, rows_dir: Path) -> Encodings:
        """As `Work.held_out`: an answer is one of the choices and ends there."""
        with said_of_ask():
            found = super().held_out(recipe, model_dir, rows_dir)
        assert found.choices is not None
        return replace(found, output=max(len(each) for row in found.choices for each in trim_stop(row, found.stop)))

    def labels(self, recipe: Recipe, teacher: Path, rows_dir: Path, work: Path, progress: Progress) -> Facts:
        """Cache the class logits of the training and validation texts, corrected; of an endpoint those of the test
        texts too, which cannot be asked again.

        Raises:
            UserError: every text is too long, nothing of what the teacher says is a choice, or its numbers are none.
        """
        from distill2edge.teacher.choice_correction import CONTENT_FREE

        remote = recipe.teacher.url is not None
        splits = ("train", "validation", "test") if remote else ("train", "validation")
        rows = {split: read_rows(rows_dir, split) for split in splits}
        every = [row for split in rows.values() for row in split]
        asked = asked_rows(recipe, every, rows_dir)
        second = recipe.data.pair is not None
        nothing = [Row(text, text, "", pair=text if second else None) for text in CONTENT_FREE]
        empty = asked_rows(recipe, nothing, rows_dir)
        ask = self._remote if remote else self._local
        heard = ask(recipe, asked, empty, teacher, work, progress)
        correction, table = _corrected(recipe, heard, rows)
        return _write(recipe, every, heard, correction, table, work, progress)

    def _local(
        self, recipe: Recipe, rows: Sequence[Row], empty: Sequence[Row], teacher: Path, work: Path, progress: Progress
    ) -> _Heard:
        """What a model that runs here says; each shard of texts is kept for a later try."""
        from distill2edge.teacher.labels import scores_of

        limit = recipe.data.max_length
        kept = [each for each in self._questions(recipe, rows, teacher) if each.longest <= limit]
        if not kept:
            what = f"the prompt of each of {len(rows)} texts is longer than {limit} tokens"
            raise UserError(what, where="teacher.ask.max_length", fix="raise it, or shorten teacher.ask.prompt")
        score = likelihoods(recipe, teacher, limit, progress)
        raw = scores_of(kept, score, work, progress, stem="shard", shard_rows=_SHARD, reads=score.reads, again=True)
        if lost := len(rows) - len(kept):
            progress.warn(
                f"{lost:,} of {len(rows):,} texts are left out: their prompts are longer than teacher.ask.max_length "
                f"({limit} tokens)"
            )
        with progress.task("teacher labels of no text", len(empty)) as task:
            asked = [(0, self._questions(recipe, empty, teacher))]
            nothing: dict[int, Any] = dict(map_shards(score, asked, 1, task, reads=score.reads))
        by_id = dict(zip(raw.ids, raw.scores.numpy(), strict=True))
        return _Heard(
            by_id, nothing[0].numpy(), [len(each) for each in kept[0].choices], {"asked_by": "likelihood", **raw.facts}
        )

    def _remote(
        self, recipe: Recipe, rows: Sequence[Row], empty: Sequence[Row], teacher: Path, work: Path, progress: Progress
    ) -> _Heard:
        """What an endpoint says; every answer is kept for a later try."""
        import numpy as np

        from distill2edge.teacher.endpoint_labels import ask_endpoint
        from distill2edge.teacher.open_teacher import open_generator

        ask, answers = recipe.teacher.ask, recipe.data.choices
        assert ask is not None
        assert answers is not None
        generator = open_generator(recipe, teacher, work, progress, "teacher.ask")
        try:
            heard = ask_endpoint(generator, [*rows, *empty], answers, ask, recipe.seed, progress)
            facts = {**heard.facts, **generator.facts}
        finally:
            generator.close()
        if unread := heard.facts["unreadable"]:
            progress.warn(
                f"{unread:,} of {heard.facts['answers']:,} answers ({unread / heard.facts['answers']:.1%}) are none of "
                f"the choices, or several: for instance {', '.join(heard.facts['unreadable_examples'])}"
            )
        found = {name: np.asarray(each, dtype=np.float32) for name, each in heard.scores.items()}
        nothing = [found[row.id] for row in empty if row.id in found] or [np.zeros(len(answers), dtype=np.float32)]
        by_id = {row.id: found[row.id] for row in rows if row.id in found}
        return _Heard(by_id, np.stack(nothing), [1] * len(answers), facts)

    def _questions(self, recipe: Recipe, rows: Sequence[Row], teacher: Path) -> list[Question]:
        from distill2edge.data.model_inputs import encode_inputs, form_of
        from distill2edge.data.tokens import stop_token_ids
        from distill2edge.models.checkpoint import load_tokenizer

        form, tokenizer = form_of(recipe, teacher), load_tokenizer(teacher)
        prompts = [row.prompt for row in rows]
        stop = stop_token_ids(tokenizer, recipe.data.template)
        with said_of_ask():
            encoded = encode_inputs(prompts, tokenizer, form)
        choices = form.reading.choices(prompts, recipe.data.choices or (), tokenizer, form)
        return [
            Question(row.id, ids, [list(choice) for choice in trim_stop(own, stop)])
            for row, ids, own in zip(rows, encoded, choices, strict=True)
        ]


def asked_rows(recipe: Recipe, rows: Sequence[Row], rows_dir: Path) -> list[Row]:
    """Rows in the teacher's words: its prompt, and its answer for the class of those that have one.

    Raises:
        UserError: a template that a text's prompt fails, or makes an empty text of; fewer rows with a response than
            shots.
    """
    ask, answers = recipe.teacher.ask, recipe.data.choices
    assert ask is not None
    assert answers is not None
    template = Template(ask.prompt, "teacher.ask.prompt")
    choices = [answer.strip() for answer in answers]

    def rendered(row: Row, number: int) -> str:
        second = {} if row.pair is None else {"pair": row.pair}
        text = template.render({"prompt": row.prompt, "choices": choices, **second}, number)
        if not text.strip():
            raise UserError(
                f"what the teacher is asked is empty for row {number:,} ({one_line(row.prompt, 60)!r})",
                where="teacher.ask.prompt",
                fix="write text around {{ prompt }}, or leave such rows out with data.filter",
            )
        return text

    examples = ""
    if ask.shots:
        shown = choose_shots(labelled(read_rows(rows_dir, "train")), ask.shots, recipe.seed)
        between = "" if ask.template == "plain" else "\n"
        parts = [f"{rendered(row, 0)}{between}{answers[row.label]}\n\n" for row in shown]
        examples = "".join(parts)
    return [
        replace(row, prompt=examples + rendered(row, number), response=answers[row.label] if row.label >= 0 else "")
        for number, row in enumerate(rows, 1)
    ]


def choose_shots(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Examples for a prompt: of each class in turn, classes and rows in an order that the seed chooses.

    Raises:
        UserError: fewer rows than that.
    """
    if len(rows) < count:
        raise UserError(
            f"{count} examples are asked for, and {len(rows)} training rows have a response",
            where="teacher.ask.shots",
            fix="lower it, or raise data.splits.train",
        )
    draw = random.Random(seed)
    groups: dict[int, list[Row]] = {}
    for row in draw.sample(list(rows), len(rows)):
        groups.setdefault(row.label, []).append(row)
    turns = draw.sample([groups[label] for label in sorted(groups)], len(groups))
    chosen = [row for turn in range(max(map(len, turns))) for group in turns for row in group[turn : turn + 1]][:count]
    draw.shuffle(chosen)
    return chosen


def _corrected(
    recipe: Recipe, heard: _Heard, rows: Mapping[str, Sequence[Row]]
) -> tuple[Correction, list[dict[str, Any]]]:
    """The correction that a recipe asks for, and how each did on the validation rows that have a response."""
    import numpy as np

    from distill2edge.teacher.choice_correction import best, candidates

    ask = recipe.teacher.ask
    assert ask is not None
    known = [row for row in rows["validation"] if row.label >= 0 and row.id in heard.scores]
    texts = [heard.scores[row.id] for row in rows["train"] if row.id in heard.scores]
    if not texts:
        what = "the teacher says nothing that can be used of any training text"
        raise UserError(what, where="teacher.ask", fix="look at its prompt, answers and max_length")
    auto = ask.correction == "auto"
    names = [ask.correction]
    if auto:
        names = ["none", "contextual", "batch"] if known else ["contextual"]
    found = candidates(np.stack(texts), heard.empty, heard.lengths, names)
    if not auto or not known:
        return found[0], []
    return best(found, np.stack([heard.scores[row.id] for row in known]), np.array([row.label for row in known]))


def _write(
    recipe: Recipe,
    rows: Sequence[Row],
    heard: _Heard,
    correction: Correction,
    table: list[dict[str, Any]],
    work: Path,
    progress: Progress,
) -> Facts:
    """The signal of the corrected scores; warns of a class that the teacher never names."""
    import numpy as np
    import torch

    from distill2edge.teacher.labels import Scored, write_facts, write_shard

    ids = list(heard.scores)
    logits = torch.from_numpy(correction(np.stack([heard.scores[name] for name in ids]))).float()
    write_shard(work / "labels-00000.safetensors", logits, ids)
    named = [choice.strip() for choice in recipe.data.choices or ()]
    said = dict(zip(named, torch.bincount(logits.argmax(-1), minlength=len(named)).tolist(), strict=True))
    warn_of_silent(said, len(ids), progress)
    if table:
        (own,) = (each for each in table if each["correction"] == correction.label)
        progress.say(f"teacher labels: {own['accuracy']:.3f} right on validation rows; correction: {correction.label}")
    facts = {
        "correction": correction.as_dict(),
        "corrections": table,
        "said": said,
        "left_out": sum(row.id not in heard.scores for row in rows),
    }
    truth = {row.id: row.label for row in rows if row.label >= 0 and row.id in heard.scores}
    return write_facts(Scored(ids, logits, heard.facts), truth, work, **facts)


def warn_of_silent(said: dict[str, int], texts: int, progress: Progress) -> None:
    """Warn of classes that the teacher never names; `said`: texts of each."""
    if silent := [repr(name) for name, count in said.items() if not count]:
        more = f" and {len(silent) - _NAMED:,} more" if len(silent) > _NAMED else ""
        progress.warn(
            f"the teacher never says {', '.join(silent[:_NAMED])}{more} of {texts:,} texts: a student cannot learn "
            "that from such a teacher. Look at teacher.ask (prompt, answers, correction), or give it examples (shots)"
        )


ASKED = AskedTeacher()
