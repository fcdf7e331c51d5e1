"""The layers that a recipe names: whether teacher, checkpoint and assistant have them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial

from distill2edge.errors import Problem, UserError
from distill2edge.intake.glance import Glance
from distill2edge.models.some_layers import fields_of_some, ties_between
from distill2edge.preflight.places import said
from distill2edge.recipe.assistant import of_assistant
from distill2edge.recipe.schema import FromModel, FromTeacher, Recipe
from distill2edge.recipe.student import counted
from distill2edge.student.chosen import chosen

_INIT = ("student", "init")


def problems(recipe: Recipe, teacher: Glance | None, student: Glance | None) -> Iterator[Problem]:
    """Layers that are not there; of an assistant too, whose layers the student's then are.

    Args:
        teacher: None where it is not here, or has no weights here.
        student: what the student is made of: the teacher, or a checkpoint; None as above.
    """
    if student is not None:
        yield from _taken(recipe, student)
    yield from _compared(recipe, teacher, student)


def kept(recipe: Recipe, model: Glance) -> list[int] | None:
    """The layers that a student takes of a model; None where that is measured, or is wrong and said so."""
    init = recipe.student.init
    if recipe.student.assistant is not None and recipe.student.assistant.layers is not None:
        if (larger := kept(of_assistant(recipe), model)) is None:
            return None
        own = _numbers(init, len(larger))
        return own if own is None else [larger[layer] for layer in own]
    return _numbers(init, model.facts.layers)


def _numbers(init: FromTeacher | FromModel, total: int | None) -> list[int] | None:
    """The layers that are taken of so many, as `kept`."""
    select = init.select if isinstance(init, FromTeacher) else "even"
    if total is None or init.layers is None or (isinstance(init.layers, int) and select == "similarity"):
        return None
    with suppress(UserError):
        return chosen(init.layers, total, select)
    return None


def _taken(recipe: Recipe, model: Glance) -> Iterator[Problem]:
    """What the student is made of has the layers that are taken of it."""
    init, total, assistant = recipe.student.init, model.facts.layers, recipe.student.assistant
    owner = "the teacher" if isinstance(init, FromTeacher) else "the checkpoint"
    if assistant is not None and assistant.layers is not None:
        for problem in _taken(of_assistant(recipe), model):
            if problem.path[:3] == (*_INIT, "layers"):
                yield replace(problem, path=("student", "assistant", "layers"))
    elif assistant is not None and init.layers is not None and init.width is None and counted(init.layers) == total:
        what = f"the student has all {total} layers of its assistant, which is to be larger"
        yield Problem((*_INIT, "layers"), what, "give fewer layers, or leave student.assistant out")
    for name, layers, count, of in _named(recipe, model, owner):
        if isinstance(layers, int) and layers > count:
            yield Problem((*_INIT, name), f"{layers} layers: {of} has {count}", f"give 1 to {count}")
        beyond = [] if isinstance(layers, int) else [layer for layer in layers if layer >= count]
        if beyond:
            what = f"layer {beyond[0]} is out of range: {of} has {count} layers"
            yield Problem((*_INIT, name), what, f"use 0 to {count - 1}")
    measured = isinstance(init, FromTeacher) and isinstance(init.layers, int) and init.select == "similarity"
    if measured and (tie := ties_between(model.text)):
        what = f"layers cannot be compared one by one: they depend on one another ({tie})"
        yield Problem((*_INIT, "select"), what, "set select: even, or list the layers")
    if total is not None and (own := kept(recipe, model)) is not None:
        yield from said((*_INIT, "layers"), partial(fields_of_some, model.text, own, total))


def _named(recipe: Recipe, model: Glance, owner: str) -> Iterator[tuple[str, int | tuple[int, ...], int, str]]:
    """Key, layers that are taken, of how many, and whose those are; an encoder-decoder's decoder has its own."""
    init, total, below = recipe.student.init, model.facts.layers, model.decoder_layers
    assistant = recipe.student.assistant
    if assistant is not None and assistant.layers is not None:  # as many in its decoder
        total = below = counted(assistant.layers)
        owner = "the assistant"
        narrower = init.width is not None and isinstance(init.layers, int)
        if not narrower:
            total = None  # its section says so
    if init.layers is not None and total is not None:
        yield "layers", init.layers, total, owner
    if isinstance(init, FromTeacher) and below is not None:
        if init.decoder_layers is not None:
            yield "decoder_layers", init.decoder_layers, below, owner
        elif total is not None and below < total:
            yield "layers", init.layers, below, f"{owner}'s decoder"


def _compared(recipe: Recipe, teacher: Glance | None, student: Glance | None) -> Iterator[Problem]:
    """A loss of intermediate layers names one of the teacher, or of the assistant, for each of the student's."""
    init, assistant = recipe.student.init, recipe.student.assistant
    total, owner = None if teacher is None else teacher.facts.layers, "the teacher"
    whole = None if student is None else student.facts.layers
    if assistant is not None:
        total, owner = whole if assistant.layers is None else counted(assistant.layers), "the assistant"
    if recipe.teacher.ask is not None and assistant is None:
        return  # the task says that such a teacher has no layers to compare with
    taken = whole if init.layers is None else counted(init.layers)
    for path, loss in recipe.losses:
        mapped, where = loss.layer_map, (*path, "layer_map")
        if mapped is None:
            if loss.needs_layers and assistant is None and isinstance(init, FromModel):
                what = "a student from a checkpoint has no layers of the teacher to be compared with"
                yield Problem(where, what, "name the teacher's layer for each of the student's")
            continue
        if total is not None and (wrong := [layer for layer in mapped if not 0 <= layer < total]):
            what = f"layer {wrong[0]} is out of range: {owner} has {total} layers"
            yield Problem(where, what, f"use 0 to {total - 1}")
        if taken is not None and len(mapped) != taken:
            what = f"{len(mapped)} layers, and the student has {taken}"
            yield Problem(where, what, f"name a layer of {owner} for each student layer")
