"""What can be known of a run before hours are spent on it: data, models, prices and files that a recipe names.

For `recipe check`, `plan` and the start of a run. Nothing is fetched and no weights are loaded; what is not here yet
(a hub's data, a model that was never downloaded) is left to the stage that brings it.
"""

from __future__ import annotations

from pathlib import Path

from distill2edge.errors import Problem, RecipeErrors
from distill2edge.preflight import data, models, places, tokenizers
from distill2edge.recipe.changes import Changes
from distill2edge.recipe.load import Read, read_edited, read_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.util.progress import Progress, for_stream
from distill2edge.verifiers.registry import require_walls

__all__ = ["RecipeLike", "check", "checked_recipe", "problems_of_world", "unseen"]

RecipeLike = Recipe | Path | str
"""A recipe, or its file."""


def check(
    recipe: RecipeLike, changes: Changes = (), *, converter: Path | str | None = None, quiet: bool = False
) -> list[str]:
    """Check a recipe and what it names: data, models, prices, formats. Nothing is fetched.

        d2e.check("tickets.yaml", {"student.init.layers": 8})

    Args:
        changes: applied first.
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, where GGUF files will be written by it.
        quiet: don't print what the user should know.

    Returns:
        what is not on this machine yet, so that it was not looked at.

    Raises:
        RecipeErrors: all mistakes that can be known.
        EnvironmentFault: `python` checks that cannot be isolated here.
    """
    checked = checked_recipe(recipe, changes, for_stream(quiet), converter=converter is not None)
    require_walls(checked)
    return unseen(checked)


def checked_recipe(recipe: RecipeLike, changes: Changes, progress: Progress, *, converter: bool = False) -> Recipe:
    """A recipe that holds together and fits what it names, as far as that is here.

    Args:
        converter: whether GGUF files will be written by a llama.cpp checkout's converter, which knows more families.

    Raises:
        UserError: no such file, or not YAML.
        RecipeErrors: all mistakes that can be known, in the order of their lines.
    """
    read = read_edited(recipe, changes) if isinstance(recipe, Recipe) else read_recipe(Path(recipe), changes)
    problems, notes = problems_of_world(read, converter=converter)
    if errors := read.errors(problems):
        raise RecipeErrors(errors)
    for note in notes:
        progress.warn(note)
    assert read.recipe is not None
    return read.recipe


def problems_of_world(read: Read, *, converter: bool = False) -> tuple[list[Problem], list[str]]:
    """What a recipe asks of the world and the world does not have, and what its user should know."""
    recipe = read.recipe
    if recipe is None:
        return [], []
    notes: list[str] = []
    problems = [*places.problems(recipe), *data.problems(recipe, notes)]
    # A key that is wrong has a stand-in, from which nothing follows for the others.
    if not read.wrong:
        problems += models.problems(recipe, notes, converter=converter)
        if not problems:
            problems += tokenizers.problems(recipe)
    else:
        problems += models.names(recipe, notes)
    return problems, notes


def unseen(recipe: Recipe) -> list[str]:
    """What a recipe names and this machine does not have yet: a run fetches it, and looks at it then."""
    return [*models.unseen(recipe), *data.unseen(recipe)]
