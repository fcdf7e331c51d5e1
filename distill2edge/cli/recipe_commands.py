"""The `recipe` commands: write, check and show recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import distill2edge as d2e
from distill2edge import errors
from distill2edge.cli.options import Commands, FilePath, OneOf, accept_weak_sandbox, set_option
from distill2edge.util.terminal import echo


@click.group(cls=Commands)
def recipe() -> None:
    """Write, check and show recipes."""


@recipe.command()
@click.argument("path", type=FilePath(), metavar="RECIPE")
@set_option
def show(path: Path, changes: tuple[str, ...]) -> None:
    """Print a RECIPE with every default visible.

    \b
    Example:
      distill2edge recipe show recipes/quickstart.yaml
    """
    from distill2edge.recipe.load import dump_recipe

    echo(dump_recipe(d2e.load(path, changes)), nl=False)


@recipe.command()
@click.argument("paths", type=FilePath(), metavar="RECIPE...", nargs=-1, required=True)
@set_option
@accept_weak_sandbox
def check(paths: tuple[Path, ...], changes: tuple[str, ...]) -> None:
    """Check recipes, and what they name.

    Looks at data, models, prices and formats. Every mistake is shown at once.

    \b
    Examples:
      distill2edge recipe check tickets.yaml
      distill2edge recipe check recipes/*.yaml
    """
    wrong: list[errors.UserError] = []
    for path in paths:
        try:
            left = d2e.check(path, changes)
        except errors.RecipeErrors as error:
            wrong += error.errors
        except errors.EnvironmentFault:
            raise
        except errors.UserError as error:
            wrong.append(error)
        else:
            echo(f"{path}: fine" + (f" (not here yet, so not looked at: {', '.join(left)})" if left else ""))
    if wrong:
        raise errors.RecipeErrors(wrong)


@recipe.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, for editors.

    \b
    Example, for editors with a YAML language server:
      distill2edge recipe schema > recipe.schema.json
      and as the first line of a recipe:  # yaml-language-server: $schema=recipe.schema.json
    """
    from distill2edge.recipe.load import recipe_schema

    echo(recipe_schema())


@recipe.command()
@click.option("--name", default="my-student", show_default=True, help="The name of the run.")
@click.option(
    "--task",
    type=OneOf(["classification", "embedding", "chat", "causal-lm", "seq2seq"]),
    help="What the student does  [default: what the file's columns say, else causal-lm]",
)
@click.option("--data", type=FilePath(), metavar="FILE", help="Fill the recipe in from this file.")
@click.option("--text", metavar="COLUMN", help="The file's column of texts, questions or instructions.")
@click.option("--label", metavar="COLUMN", help="The file's column of labels or answers.")
@click.option("--teacher", metavar="MODEL", help="hub id | local directory | file.gguf | bundled:NAME")
def new(**options: Any) -> None:
    """Print a commented recipe to start from.

    With --data it is filled in from your own file, and runs as it is.

    \b
    Examples:
      distill2edge recipe new --name support-bot > support-bot.yaml
      distill2edge recipe new --data tickets.csv --name tickets > tickets.yaml
      distill2edge recipe new --data faq.jsonl --task chat --text question --label answer > faq.yaml
    """
    echo(d2e.new(**options), nl=False)


@recipe.command()
@click.argument("name", required=False)
@click.option("--into", type=FilePath(), metavar="FOLDER", help="Copy the recipe there, with the files that it needs.")
def examples(name: str | None, into: Path | None) -> None:
    """List, print or copy the recipes of this package.

    \b
    Examples:
      distill2edge recipe examples quickstart > quickstart.yaml
      distill2edge recipe examples alpaca/alpaca --into recipes
    """
    from distill2edge.recipe.examples import copy_example, files_of, list_examples, read_example

    if name is None:
        if into is not None:
            raise click.UsageError("--into copies one recipe: name it")
        click.echo(list_examples())
    elif into is not None:
        for path in copy_example(name, into):
            click.echo(str(path))
    else:
        click.echo(read_example(name), nl=False)
        if more := list(files_of(name))[1:]:
            echo(
                f"it needs {', '.join(more)} beside it: `distill2edge recipe examples {name} --into FOLDER` copies all",
                err=True,
            )
