"""The tokenizers of teacher and student, where the signal is over tokens: the same, or enough that can be matched."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.model_inputs import encode_for
from distill2edge.errors import Problem, UserError
from distill2edge.gguf.fields import items
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake.glance import glance
from distill2edge.intake.vocabularies import check_for_layers, check_same_tokens
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.preflight.data import sample
from distill2edge.preflight.passed import passed
from distill2edge.preflight.places import said
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.schema import FromModel, Recipe

_ROWS = 50  # that are laid beside each other


def problems(recipe: Recipe) -> Iterator[Problem]:
    """What the student or the signal stage would refuse. How a tokenizer inside a GGUF cuts texts is left to them."""
    signal, init = recipe.signal, recipe.student.init
    if not isinstance(init, FromModel) or not isinstance(init.model, str):
        return
    if signal.kind != "logits":
        yield from _of_layers(recipe, init)
        return
    if recipe.scored_elsewhere:
        return  # an endpoint's tokens are seen with its first answer
    teacher = _place(recipe.teacher.model, recipe.teacher.revision)
    student = _place(init.model, init.revision)
    if teacher is None or student is None:
        return
    if signal.align == "none":
        check = partial(passed, partial(_same, teacher, student), "same tokens", [teacher, student])
        yield from said(("signal", "kind"), check)
    elif teacher.is_dir() and student.is_dir():
        pairs, _ = sample(recipe, _ROWS)
        rows = [Row(row_id(*pair), *pair) for pair in pairs if pair[1].strip()]
        about = [canonical(recipe.data), [row.id for row in rows]]
        matched = partial(_matched, recipe, rows, teacher, student)
        check = partial(passed, matched, "matched tokens", [teacher, student], about)
        yield from said(("signal", "align"), check)


def _of_layers(recipe: Recipe, init: FromModel) -> Iterator[Problem]:
    """Layers are compared token by token; an assistant has its student's own tokens."""
    where = next((path for path, loss in recipe.losses if loss.needs_layers), None)
    if where is None or recipe.student.assistant is not None or recipe.teacher.url is not None:
        return
    if recipe.teacher.ask is not None:
        return  # the task says that such a teacher has no layers to compare with
    teacher, student = _place(recipe.teacher.model, recipe.teacher.revision), _place(init.model, init.revision)
    if teacher is not None and student is not None:
        check = partial(passed, partial(_same_for_layers, teacher, student), "tokens of layers", [teacher, student])
        yield from said(where, check)


def _same_for_layers(teacher: Path, student: Path) -> None:
    check_for_layers(_tokens(teacher), _tokens(student))


def _place(model: object, revision: str | None) -> Path | None:
    """The directory or GGUF of a model that is here, with a tokenizer."""
    found = glance(model, revision) if isinstance(model, str) else None
    return found.path if found is not None and found.facts.has_tokenizer else None


def _same(teacher: Path, student: Path) -> None:
    ours, theirs = _tokens(teacher), _tokens(student)
    if teacher.is_file():  # a GGUF has a token for each row of its embedding, also for those that pad it
        ours = {token: index for token, index in ours.items() if token in theirs}
    if student.is_file():
        theirs = {token: index for token, index in theirs.items() if token in ours}
    check_same_tokens(ours, theirs)


def _tokens(path: Path) -> dict[str, int]:
    """Token -> id."""
    if path.is_dir():
        return dict(load_tokenizer(path).get_vocab())
    return {token: index for index, token in enumerate(items(read_gguf(path), "tokenizer.ggml.tokens", str))}


def _matched(recipe: Recipe, rows: Sequence[Row], teacher: Path, student: Path) -> None:
    from distill2edge.teacher.aligned import Aligned

    encoded: list[Sequence[Encoded]] = []
    with suppress(UserError):  # the data stage says what is wrong with the rows
        encoded = [encode_for(recipe.data, rows, path) for path in (teacher, student)] if rows else []
    if encoded:
        Aligned(teacher, student, recipe.data.template, *encoded)
