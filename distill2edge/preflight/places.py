"""Prices, devices, addresses, workloads and files beside a recipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from distill2edge.bench.workloads import check_names
from distill2edge.cost.serving_places import catalogue_of, look_up
from distill2edge.errors import Problem, RecipeErrors, UserError
from distill2edge.generation.endpoint.client import address
from distill2edge.recipe.schema import Recipe
from distill2edge.teacher.endpoint_record import prices_of
from distill2edge.verifiers.registry import check_spec


def problems(recipe: Recipe) -> Iterator[Problem]:
    """Names that no catalogue, table or folder has."""
    yield from _prices(recipe)
    yield from said(("bench", "workloads"), lambda: check_names(recipe.bench.workloads))
    if (url := recipe.teacher.url) is not None:
        yield from said(("teacher", "model"), lambda: address(url))
    for index, spec in enumerate(recipe.signal.verify if recipe.signal.kind == "text" else ()):
        yield from said(("signal", "verify", index), partial(check_spec, spec))


def said(path: tuple[str | int, ...], check: Callable[[], object]) -> Iterator[Problem]:
    """What a check raises, as problems of one key."""
    try:
        check()
    except RecipeErrors as errors:
        yield from (Problem(path, _placed(error, path), error.fix) for error in errors.errors)
    except UserError as error:
        yield Problem(path, _placed(error, path), error.fix)


def _placed(error: UserError, path: tuple[str | int, ...]) -> str:
    """What is wrong, with the place where it is another than the key's (a line of a file)."""
    keys = ".".join(str(part) for part in path if isinstance(part, str))
    where = error.where.split(" ")[0]
    here = not where or where in keys or keys in where or keys.rpartition(".")[0] == where.rpartition(".")[0]
    return error.what if here else f"{error.where}: {error.what}"


def _prices(recipe: Recipe) -> Iterator[Problem]:
    cost = recipe.cost
    if unread := [*said(("cost", "prices"), partial(catalogue_of, cost))]:
        yield from unread
        return
    catalogue = catalogue_of(cost)
    for name, place in (("teacher", cost.teacher), ("student", cost.student)):
        kind = next((kind for kind in ("rented", "device", "api") if getattr(place, kind) is not None), None)
        if kind is not None:
            look = partial(look_up, place, catalogue, f"cost.{name}")
            yield from said(("cost", name, kind), look)
    if cost.student.api is not None:
        fix = "name a machine (`rented:`) or a device (`device:`)"
        yield Problem(("cost", "student", "api"), "the student has no API price: it is your own model", fix)
    if (machine := recipe.bench.machine) is not None:
        yield from said(("bench", "machine"), lambda: catalogue.device(machine, "bench.machine"))
    if (endpoint := recipe.teacher.endpoint) is not None:
        yield from said(("teacher", "endpoint", "price"), lambda: prices_of(endpoint))
