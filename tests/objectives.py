"""Objectives of tests: weights as a recipe gives them, and their functions."""

from __future__ import annotations

from distill2edge.distill.losses import Objective
from distill2edge.distill.objective import objective_of
from distill2edge.recipe.schema import Loss


def objective(**weights: float) -> Objective:
    """The objective of `distill.loss: {...}`."""
    return objective_of(Loss(**weights))  # type: ignore[arg-type]
