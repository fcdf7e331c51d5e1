"""A recipe's weights to the functions that training sums."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor

from distill2edge.distill.losses import Objective, Weighted
from distill2edge.errors import UserError
from distill2edge.recipe.loss_terms import DISTRIBUTIONS, LAYERS, Term, WeightedTerms
from distill2edge.util.plugins import failure

GOLD = Objective(ce=1.0)
"""Cross-entropy on the data's own tokens, and nothing else."""

_P, _C, _B, _L, _D, _H = 3, 7, 2, 5, 8, 4  # sizes of the trial of a function of the user's own


def objective_of(section: WeightedTerms) -> Objective:
    """The terms that weigh something, each with its function.

    Raises:
        UserError: a function of the user's own that does not do what `Needs` says of it.
    """
    places = ("ce", "gold", "distribution", "layers", "embeddings", "similarities", "numbers", "teacher_numbers")
    terms: dict[str, list[Weighted]] = {place: [] for place in places}
    for term, weight in section.weighed():
        function = function_of(term)
        if options := section.options(term):
            function = partial(function, **options)
        on_layers, compared = term.needs in LAYERS, term.needs in DISTRIBUTIONS
        place = "ce" if term.name == "ce" else "layers" if on_layers else "distribution" if compared else term.needs
        terms[place].append(Weighted(weight, function, term.needs if on_layers else ""))
    ce = sum(term.weight for term in terms["ce"])
    return Objective(ce, *(tuple(terms[place]) for place in places[1:]))


def function_of(term: Term) -> Callable[..., Tensor]:
    """What computes a term; the user's own is tried first, and what it returns is checked at each call.

    Raises:
        UserError: see `objective_of`.
    """
    if isinstance(term.function, str):
        function: Callable[..., Tensor] = resolve_name(f"distill2edge.distill.{term.function}")
        return function
    checked = partial(_checked, term)
    _try(term, checked)
    return checked


def try_own(section: WeightedTerms) -> None:
    """Try the functions of the user's own among the terms, before hours are spent on what they need.

    Raises:
        UserError: see `objective_of`.
    """
    for term, _ in section.weighed():
        if term.source is not None:
            function_of(term)


def _checked(term: Term, *given: Any) -> Tensor:
    """The user's function, which gives one number for each position or text, or the user learns what it returns."""
    assert callable(term.function)
    try:
        value = term.function(*given)
    except Exception as error:  # whatever the user's own code raises is for the user to correct
        raise failure(error, _where(term), f"correct it: needs={term.needs!r} says how it is called") from error
    count = len(given[2] if term.needs in LAYERS else given[0])
    if not isinstance(value, Tensor) or value.shape != (count,):
        found = f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        one = "position" if term.needs in ("gold", *DISTRIBUTIONS) else "text"
        raise UserError(f"it returns {found}", where=_where(term), fix=f"return one number for each {one}: [{count}]")
    return value


def _try(term: Term, function: Callable[..., Tensor]) -> None:
    """Call it on random numbers: the value must be finite, and have a gradient for the student.

    Raises:
        UserError: it does not, or the call fails.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    with torch.enable_grad():
        if term.needs in LAYERS:
            shape = (_B, _L, _D) if term.needs == "hidden_states" else (_B, _H, _L, _L)
            ours = [draw(*shape).softmax(-1).requires_grad_() for _ in range(2)]
            value = function(ours, [draw(*shape).softmax(-1) for _ in range(2)], torch.ones(_B, _L, dtype=torch.int64))
        elif term.needs in ("embeddings", "similarities"):
            theirs, mine = (torch.nn.functional.normalize(draw(_P, _D), dim=-1) for _ in range(2))
            ours = [mine.requires_grad_()]
            value = function(theirs, *ours)
        elif term.needs in ("numbers", "teacher_numbers"):
            ours = [draw(_P).requires_grad_()]
            value = function(draw(_P), *ours)
        elif term.needs in DISTRIBUTIONS:
            ours = [draw(_P, _C).log_softmax(-1).requires_grad_()]
            value = function(draw(_P, _C).log_softmax(-1), *ours)
        else:
            ours = [draw(_P, _C).requires_grad_()]
            value = function(*ours, torch.arange(_P))
        slopes = torch.autograd.grad(value.sum(), ours, allow_unused=True) if value.requires_grad else [None]
    if slopes[0] is None:
        raise UserError("it gives the student no gradient", where=_where(term), fix="compute it from its arguments")
    if not value.isfinite().all() or not all(slope.isfinite().all() for slope in slopes if slope is not None):
        raise UserError("its value or gradient is not finite", where=_where(term), fix="avoid log(0) and 0 / 0")


def _where(term: Term) -> str:
    assert term.source is not None
    return f"loss {term.name} of {term.source.path.name}"
