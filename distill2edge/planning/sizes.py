"""The sizes of a recipe's work: weights of both models, rows and tokens; from artifacts, else from what lies here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from distill2edge.errors import UserError
from distill2edge.intake.facts import model_facts
from distill2edge.intake.glance import Glance, glance
from distill2edge.models.kinds import kind_of_gguf
from distill2edge.models.widths import narrowed, widths_of
from distill2edge.pipeline.artifact import Artifact
from distill2edge.preflight.data import sample
from distill2edge.recipe.assistant import of_assistant
from distill2edge.recipe.endpoint import PREFIX
from distill2edge.recipe.schema import FromTeacher, Recipe
from distill2edge.recipe.scratch import Scratch, ScratchTeacher
from distill2edge.recipe.student import counted, wanted_widths
from distill2edge.tasks import task_of

if TYPE_CHECKING:
    from distill2edge.data.examples import Row

_GUESS_TOKENS = 0.5  # of data.max_length, per row, where no row can be read
_GUESS_ROWS = 5000  # where neither the recipe nor the data says it
_CHARACTERS, _OF_OWN = 4.2, 1.6  # a token's, where no tokenizer is here; of a small one trained on the rows
_KEPT = 0.7  # of the rows that a synthesis asks for
_SAMPLED = 256
_TRIMMED = 12_000  # tokens that a trimmed vocabulary keeps, at most


UNLABELLED = "unlabelled"
SizesOf = Literal["data", "teacher", "student"]
"""What a stage's artifact can tell of: a stage names the one that its own does."""


@dataclass(frozen=True)
class Model:
    """A model's size.

    Attributes:
        body: weights of its layers.
        embedding: rows times width of embedding and head, where they are two both.
        stored: bytes of a weight in its files.
        config: its `config.json`, where there is one.
    """

    body: int
    embedding: int
    layers: int
    hidden: int
    vocabulary: int
    stored: float = 4.0
    config: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def parameters(self) -> int:
        """All weights."""
        return self.body + self.embedding


@dataclass(frozen=True)
class Sizes:
    """What a plan reckons with; None for what is not known yet.

    Attributes:
        rows: of train, validation, calibration and test; and how many of train have no response.
        tokens: of a row, prompt and response.
        answer: of its response.
        known: where the rows' figures are from: `data` (the artifact), `file` (its first rows), or `guess`.
        readings: of a prompt by a teacher that is asked: one for each beginning of its answers.
    """

    teacher: Model | None
    student: Model | None
    rows: Mapping[str, int]
    tokens: float
    answer: float
    known: str
    readings: int = 1
    assistant: Model | None = None

    @property
    def train(self) -> int:
        """Training rows."""
        return self.rows["train"]

    @property
    def labelled(self) -> int:
        """Those that have a response: the others are the teacher's to answer."""
        return self.rows["train"] - self.rows.get(UNLABELLED, 0)


def sizes_of(recipe: Recipe, found: Mapping[SizesOf, Artifact | None]) -> Sizes:
    """The sizes of a recipe, by its artifacts in the store and by what its files say.

    Args:
        found: the artifacts that tell of them, None for one that is to be made.
    """
    teacher = _teacher(recipe, found.get("teacher"))
    student = _from_artifact(found.get("student")) or _student(recipe, teacher)
    rows, tokens, answer, known = _rows(recipe, found.get("data"), found.get("teacher"))
    if recipe.synthesis is not None:
        asked = sum(getattr(each, "instructions", 0) or getattr(each, "texts", 0) for each in recipe.synthesis.methods)
        rows["train"] = max(round(_KEPT * asked), 1) + (rows["train"] if recipe.synthesis.keep_data else 0)
    assistant = None if recipe.student.assistant is None else _student(of_assistant(recipe), teacher)
    return Sizes(teacher, student, rows, tokens, answer, known, _readings(recipe, found.get("teacher")), assistant)


# --- models -----------------------------------------------------------------------


def _teacher(recipe: Recipe, artifact: Artifact | None) -> Model | None:
    if recipe.teacher.url is not None:
        return None
    if isinstance(recipe.teacher.model, ScratchTeacher):
        return _from_artifact(artifact) or scratch_model(recipe.teacher.model, recipe.teacher.model.vocabulary)
    return _from_artifact(artifact) or _at_a_glance(recipe.teacher.model, recipe.teacher.revision)


def _student(recipe: Recipe, teacher: Model | None) -> Model | None:
    init = recipe.student.init
    if isinstance(init, FromTeacher):
        if teacher is None:
            return None
        kept = counted(init.layers)
        deep = counted(init.decoder_layers if init.decoder_layers is not None else init.layers)
        student = _shallower(teacher, kept, (kept + deep) / 2)
    elif isinstance(init.model, Scratch):
        vocabulary = teacher.vocabulary if teacher is not None else 2048
        student = scratch_model(init.model, vocabulary)
    else:
        looked = _at_a_glance(init.model, init.revision)
        if looked is None:
            return None
        student = looked if init.layers is None else _shallower(looked, kept := counted(init.layers), kept)
    student = _narrower(student, wanted_widths(init))
    if recipe.student.trim is not None and student.vocabulary > _TRIMMED:
        share = _TRIMMED / student.vocabulary
        student = replace(student, embedding=round(student.embedding * share), vocabulary=_TRIMMED)
    return student


def _shallower(model: Model, layers: int, deep: float) -> Model:
    """A model of fewer layers; `deep`: the mean of an encoder's and a decoder's."""
    share = min(deep / model.layers, 1.0) if model.layers else 1.0
    return replace(model, body=round(model.body * share), layers=layers)


def _narrower(model: Model, wanted: Mapping[str, int | float]) -> Model:
    """A model of narrower layers."""
    whole = widths_of(model.config)
    if not wanted or whole is None or not model.layers:
        return model
    narrow = narrowed(whole, wanted)
    matrices = (model.body / model.layers - whole.body(0)) / (whole.hidden * whole.feed_forward)
    body = model.body * narrow.body(matrices) / whole.body(matrices)
    embedding = model.embedding * narrow.hidden // whole.hidden
    return replace(model, body=round(body), embedding=embedding, hidden=narrow.hidden)


def _from_artifact(artifact: Artifact | None) -> Model | None:
    if artifact is None or not (artifact.path / "model" / "config.json").is_file():
        return None
    return _sized(Glance(artifact.path / "model", model_facts(artifact.path / "model")))


def _at_a_glance(model: str, revision: str | None) -> Model | None:
    try:
        looked = glance(model, revision)
    except UserError:  # said where the model is taken
        return None
    return None if looked is None else _sized(looked)


def _sized(looked: Glance) -> Model | None:
    facts = looked.facts
    if not facts.parameters or facts.layers is None or facts.hidden is None or facts.vocabulary is None:
        return None
    sides = 1 if facts.tied or not facts.kind.writes else 2
    embedding = min(facts.vocabulary * facts.hidden * sides, facts.parameters)
    # A GGUF is taken in float32; a directory keeps its own type.
    stored = 4.0 if facts.format == "gguf" else max(facts.size_bytes / facts.parameters, 1.0)
    return Model(
        facts.parameters - embedding,
        embedding,
        facts.layers,
        facts.hidden,
        facts.vocabulary,
        round(stored, 1),
        looked.text,
    )


def scratch_model(model: Scratch, vocabulary: int) -> Model:
    """The size of a randomly initialised model."""
    attention, gated = 4 * model.hidden**2, 3 * model.hidden * model.width
    block = attention + gated
    if kind_of_gguf(model.architecture).pairs:
        block = 2 * block + attention  # an encoder's and a decoder's, which also attends to the encoder
    return Model(model.layers * block, vocabulary * model.hidden, model.layers, model.hidden, vocabulary)


# --- rows -------------------------------------------------------------------------


def _rows(recipe: Recipe, data: Artifact | None, teacher: Artifact | None) -> tuple[dict[str, int], float, float, str]:
    splits = recipe.data.splits
    rows = {name: int(getattr(splits, name)) for name in ("validation", "calibration", "test")}
    rows["train"] = splits.train or _GUESS_ROWS
    if data is not None:
        from distill2edge.data.conversation import plain_answer
        from distill2edge.data.split_files import read_rows

        facts = data.facts["splits"]
        rows = {name: int((facts.get(name) or {}).get("rows", 0)) for name in ("train", *rows)}
        rows[UNLABELLED] = int((facts.get("train") or {}).get("without_response", 0))
        rows_read = read_rows(data.path, "train")[:_SAMPLED]
        pairs = [("\n".join(_read(row)), plain_answer(row.response)) for row in rows_read]
        known = "data"
    else:
        pairs, total = sample(recipe, _SAMPLED)
        held = sum(rows[name] for name in ("validation", "calibration", "test"))
        if total is not None:
            rows["train"] = min(rows["train"] if splits.train else total, max(total - held, 1))
        rows[UNLABELLED] = _unlabelled(recipe)
        rows["train"] += rows[UNLABELLED]
        known = "file" if pairs else "guess"
    if not pairs:
        limit = recipe.data.max_length
        return rows, limit * _GUESS_TOKENS, limit * _GUESS_TOKENS / 2, known
    tokens, answer = _tokens(recipe, pairs, teacher)
    return rows, tokens, answer, known


def _read(row: Row) -> list[str]:
    """The texts that a model reads of a row."""
    from distill2edge.data.conversation import plain_prompt

    return [plain_prompt(row.prompt), *([] if row.pair is None else [row.pair])]


def _unlabelled(recipe: Recipe) -> int:
    """Rows of a pool that join the training rows, as far as they can be counted."""
    spec = recipe.data.unlabelled
    if spec is None or spec.source is None:
        return 0 if spec is None or spec.rows is None else spec.rows
    view = recipe.model_copy(update={"data": recipe.data.without_responses()})
    total = sample(view, 1)[1]
    if total is None:
        return spec.rows or _GUESS_ROWS
    return total if spec.rows is None else min(spec.rows, total)


def _tokens(recipe: Recipe, pairs: list[tuple[str, str]], teacher: Artifact | None) -> tuple[float, float]:
    """Mean tokens of a row and of its response: counted by the tokenizer where it is here, else by characters."""
    per = _OF_OWN if isinstance(recipe.teacher.model, Scratch) else _CHARACTERS
    prompts, answers = ([len(text) / per for text in side] for side in zip(*pairs, strict=True))
    if (tokenizer := _tokenizer(recipe, teacher)) is not None:
        encoded = [tokenizer.encode_batch(list(texts), add_special_tokens=False) for texts in zip(*pairs, strict=True)]
        prompts, answers = [[float(len(each.ids)) for each in side] for side in encoded]
    if recipe.signal.kind == "text" and not all(answers):
        # The teacher writes them: at their longest, until one is seen.
        seen = [answer for answer in answers if answer]
        likely = sum(seen) / len(seen) if seen else float(recipe.signal.max_new_tokens)
        answers = [answer or likely for answer in answers]
    frame = {"chat": 35.0, "plain": 1.0, "text": 1.0}[recipe.data.template]
    limit = recipe.data.max_length
    if not task_of(recipe).predicts_tokens:
        answers = [0.0] * len(prompts)
        frame = 2.0
    whole = [prompt + answer + frame for prompt, answer in zip(prompts, answers, strict=True)]
    kept = [(total, answer) for total, answer in zip(whole, answers, strict=True) if total <= limit]
    kept = kept or [(float(limit), limit / 2)]
    return sum(total for total, _ in kept) / len(kept), max(sum(answer for _, answer in kept) / len(kept), 1.0)


def _readings(recipe: Recipe, teacher: Artifact | None) -> int:
    """How often a prompt is read for the likelihood of every answer; without a tokenizer by pieces of the answers."""
    ask = recipe.teacher.ask
    if ask is None or recipe.teacher.url is not None:
        return 1
    from distill2edge.teacher.choice_scores import beginnings

    answers, tokenizer = ask.answers or recipe.data.choices or (), _tokenizer(recipe, teacher)
    size = round(_CHARACTERS)
    pieces: list[Sequence[Any]] = (
        [[answer[at : at + size] for at in range(0, len(answer), size)] for answer in answers]
        if tokenizer is None
        else [tokenizer.encode(answer, add_special_tokens=False).ids for answer in answers]
    )
    return max(len(beginnings(pieces)), 1)


def _tokenizer(recipe: Recipe, teacher: Artifact | None) -> Any:
    """What counts tokens as the teacher does; None where it is not here."""
    places = [teacher.path / "model"] if teacher is not None else []
    named = recipe.student.init if recipe.scored_elsewhere else recipe.teacher
    if isinstance(model := getattr(named, "model", None), str) and not model.startswith(PREFIX):
        from distill2edge.intake.glance import place_of

        here = place_of(model, getattr(named, "revision", None))
        places += [here] if here is not None else []
    for place in places:
        path = place / "tokenizer.json"
        if path.is_file():
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError, RecursionError):
                continue
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(path))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return tokenizer
    return None


def as_json(sizes: Sizes) -> dict[str, Any]:
    """For the plan's `basis`."""
    return {
        "teacher_parameters": sizes.teacher.parameters if sizes.teacher else None,
        "student_parameters": sizes.student.parameters if sizes.student else None,
        "train_rows": sizes.train,
        "tokens_per_row": round(sizes.tokens),
        "tokens_per_response": round(sizes.answer),
        "rows_known": sizes.known == "data",
        "rows_from": sizes.known,
    }
