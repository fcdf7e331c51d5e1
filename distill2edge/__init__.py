"""distill2edge: distil a language model into one that fits the device, and the evidence for it.

    import distill2edge as d2e

    recipe = d2e.load("tickets.yaml", {"distill.epochs": 2})
    print(d2e.plan(recipe))
    run = d2e.run(recipe)
    run.report.verdict, run.report.headline
    with run.open_model() as model:
        model.answer("My parcel is late.")

The command line is a client of these functions. Each mistake that a user can correct is a `UserError`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, RecipeErrors, UserError

if TYPE_CHECKING:
    from distill2edge.pipeline.artifact import Artifact
    from distill2edge.preflight import check
    from distill2edge.recipe.load import edit_recipe as edit
    from distill2edge.recipe.load import load_recipe as load
    from distill2edge.recipe.loss_terms import register_loss
    from distill2edge.recipe.schema import Recipe
    from distill2edge.recipe.verifiers import register_verifier
    from distill2edge.running.answering import OpenModel
    from distill2edge.running.comparison import Comparison, compare
    from distill2edge.running.findings import Report
    from distill2edge.running.finished import Run, open_run
    from distill2edge.running.opening import open_model
    from distill2edge.running.plan import Plan, plan
    from distill2edge.running.run_recipe import run
    from distill2edge.running.starter import new
    from distill2edge.util.plugins import load_plugin

__all__ = [
    "Artifact", "Comparison", "EnvironmentFault", "OpenModel", "Plan", "Recipe", "RecipeErrors", "Report", "Run",
    "UserError", "check", "compare", "edit", "load", "load_plugin", "new", "open_model", "open_run",
    "plan", "register_loss", "register_verifier", "run",
]  # fmt: skip

# Where each is, so that importing the package is light: the module is imported when the name is first used.
_HOMES = {
    "Artifact": "pipeline.artifact",
    "Comparison": "running.comparison",
    "OpenModel": "running.answering",
    "Plan": "running.plan",
    "Recipe": "recipe.schema",
    "Report": "running.findings",
    "Run": "running.finished",
    "check": "preflight",
    "compare": "running.comparison",
    "edit": "recipe.load:edit_recipe",
    "load": "recipe.load:load_recipe",
    "load_plugin": "util.plugins",
    "new": "running.starter",
    "open_model": "running.opening",
    "open_run": "running.finished",
    "plan": "running.plan",
    "register_loss": "recipe.loss_terms",
    "register_verifier": "recipe.verifiers",
    "run": "running.run_recipe",
}


if not TYPE_CHECKING:  # who checks types shall see the names alone

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        from distill2edge.util.libraries import settle_libraries

        settle_libraries()
        module, _, there = _HOMES[name].partition(":")
        found = globals()[name] = getattr(import_module(f"{__name__}.{module}"), there or name)
        return found


def __dir__() -> list[str]:
    return sorted(__all__)
