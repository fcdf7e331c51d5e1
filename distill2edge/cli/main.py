"""The command line: parse, call, render errors. Heavy imports happen inside the commands."""

from __future__ import annotations

import json as jsonlib
import os
import sys
from pathlib import Path
from typing import Any

import click

from distill2edge import errors
from distill2edge.cli.data_commands import data as data_commands
from distill2edge.cli.options import Commands, FilePath, Finite, OneOf, accept_weak_sandbox, recipe_options
from distill2edge.distill.tracking import TRACKERS
from distill2edge.stages import KINDS
from distill2edge.stages.teaching import Data
from distill2edge.util.terminal import echo


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="distill2edge")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def main(debug: bool) -> None:
    """Distil a language model into one that fits your device, and show what it costs.

    \b
    Start here:
      distill2edge doctor                        is everything here?
      distill2edge recipe new > my.yaml          a commented recipe
      distill2edge plan my.yaml                  what will run, time, memory, disk
      distill2edge run my.yaml                   the whole path, to a report
      distill2edge chat runs/my                  talk to the student
    """
    # Libraries must neither phone home nor print bars of their own between ours.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


@main.command()
@recipe_options
@click.option(
    "--force",
    multiple=True,
    type=OneOf(list(KINDS)),
    help="Make this stage again, and what reads it; repeatable.",
)
@click.option("--seeds", metavar="0,1,2", help="Train once for each seed, on one split; one report over all.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--track",
    multiple=True,
    type=OneOf(TRACKERS),
    help="Also send the losses of every training there; repeatable. runs/NAME/train.jsonl has them in any case.",
)
def run(as_json: bool, force: tuple[str, ...], **options: Any) -> None:
    """Run a RECIPE to its report. Finished stages are reused.

    \b
    Examples:
      distill2edge run recipes/quickstart.yaml
      distill2edge run recipes/quickstart.yaml --set student.init.layers=8 --set name=smaller
      distill2edge run recipes/quickstart.yaml --force bench
      distill2edge run recipes/quickstart.yaml --seeds 0,1,2
      distill2edge run recipes/quickstart.yaml --track tensorboard

    Exit code 3: the run is complete, but a gate of the recipe failed.
    """
    from distill2edge.running.run_recipe import run_recipe

    result = run_recipe(force=frozenset(force), **options)
    echo(jsonlib.dumps(result.summary(), indent=2) if as_json else result.text())
    sys.exit(errors.EXIT_DONE if result.passed else errors.EXIT_VERDICT)


@main.command()
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(as_json: bool, **options: Any) -> None:
    """Show the stages of a RECIPE: what is cached, and the estimated time, memory and disk.

    \b
    Example:
      distill2edge plan recipes/quickstart.yaml
    """
    from distill2edge.running.plan import plan_recipe, render_plan

    found = plan_recipe(**options)
    echo(jsonlib.dumps(found, indent=2) if as_json else render_plan(found))


@main.group(cls=Commands)
def recipe() -> None:
    """Write, check and show recipes."""


@recipe.command()
@click.argument("path", type=FilePath(), metavar="RECIPE")
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a value; repeatable.")
def show(path: Path, overrides: tuple[str, ...]) -> None:
    """Print a RECIPE with every default visible."""
    from distill2edge.recipe.load import dump_recipe, load_recipe

    echo(dump_recipe(load_recipe(path, overrides)), nl=False)


@recipe.command()
@click.argument("paths", type=FilePath(), metavar="RECIPE...", nargs=-1, required=True)
@click.option("--set", "overrides", multiple=True, metavar="A.B=C", help="Override a value; repeatable.")
@accept_weak_sandbox
def check(paths: tuple[Path, ...], overrides: tuple[str, ...]) -> None:
    """Check recipes and what they name: data, models, prices, formats. Every mistake is shown at once.

    \b
    Examples:
      distill2edge recipe check tickets.yaml
      distill2edge recipe check recipes/*.yaml
    """
    from distill2edge.preflight import checked_recipe, unseen
    from distill2edge.util.progress import for_stream
    from distill2edge.verifiers.registry import require_walls

    wrong: list[errors.UserError] = []
    for path in paths:
        try:
            loaded = checked_recipe(path, overrides, for_stream())
        except errors.UserError as error:
            wrong += error.errors if isinstance(error, errors.RecipeErrors) else [error]
            continue
        require_walls(loaded)
        left = unseen(loaded)
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
@click.option("--name", default="my-student", show_default=True, help="Name of the run.")
@click.option(
    "--task",
    type=OneOf(["classification", "chat", "causal-lm", "seq2seq"]),
    help="What the student does  [default: what the file's columns say, else causal-lm]",
)
@click.option("--data", type=FilePath(), metavar="FILE", help="Fill the recipe in from this file.")
@click.option("--text", metavar="COLUMN", help="The file's column of texts, questions or instructions.")
@click.option("--label", metavar="COLUMN", help="The file's column of labels or answers.")
@click.option("--teacher", metavar="MODEL", help="hub id | local directory | file.gguf | bundled:NAME")
def new(**options: Any) -> None:
    """Print a commented recipe to start from; with --data one that runs as it is on your own file.

    \b
    Examples:
      distill2edge recipe new --name support-bot > support-bot.yaml
      distill2edge recipe new --data tickets.csv --name tickets > tickets.yaml
      distill2edge recipe new --data faq.jsonl --task chat --text question --label answer > faq.yaml
    """
    from distill2edge.running.starter import Asked, starter

    echo(starter(Asked(**options)), nl=False)


@recipe.command()
@click.argument("name", required=False)
@click.option("--into", type=FilePath(), metavar="FOLDER", help="Copy it there, with the files that it needs.")
def examples(name: str | None, into: Path | None) -> None:
    """List the recipes that come with the package, or print or copy one by its NAME.

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


def _stage_command(kind: str, text: str) -> None:
    @main.command(name=kind, help=f"{text}\n\nRuns what it needs first; finished stages are reused.")
    @recipe_options
    def stage(**options: Any) -> None:
        from distill2edge.running.run_recipe import run_until

        done = run_until(kind, **options)
        for item in done:
            echo(f"{item.stage.name}: {item.artifact.path}")


for _stage in KINDS.values():
    if _stage.command and _stage is not Data:  # which has sub-commands
        _stage_command(_stage.kind, _stage.help)


main.add_command(data_commands)


@main.command()
@click.argument("target", type=FilePath(), metavar="RUN|RECIPE")
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
def report(target: Path, open_it: bool, as_json: bool) -> None:
    """Print the report of a RUN directory (or of a RECIPE's default run directory).

    \b
    Examples:
      distill2edge report runs/quickstart --open
      distill2edge report runs/quickstart --json | jq .verdict
    """
    from distill2edge.running.directory import read_page
    from distill2edge.running.run_recipe import find_run

    directory = find_run(target)
    echo(read_page(directory / ("report.json" if as_json else "report.md")), nl=False)
    if open_it:
        click.launch((directory / "report.html").resolve().as_uri())


@main.command()
@click.argument("runs", type=FilePath(), metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--allow-different", is_flag=True, help="Warn instead of refusing when runs are not comparable.")
@click.option("--html", type=FilePath(), help="Also write a page.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(runs: tuple[Path, ...], allow_different: bool, html: Path | None, as_json: bool) -> None:
    """Put runs side by side. Refuses when machine, workload or price date differ.

    \b
    Example:
      distill2edge compare runs/quickstart runs/smaller
    """
    from distill2edge.running.run_recipe import compare_runs

    echo(compare_runs(runs, allow=allow_different, html=html, as_json=as_json), nl=False)


@main.command()
@click.argument("target", type=FilePath(), metavar="ARTIFACT|RUN")
@click.option("--scheme", help="Which export of a run  [default: the smallest that passed]")
@click.option("--prompt", help="Answer this and stop.")
@click.option("--template", type=OneOf(["auto", "chat", "plain"]), default="auto", show_default=True)
@click.option("--max-tokens", type=click.IntRange(1, 2**20), default=256, show_default=True, help="Tokens per answer.")
@click.option("--temperature", type=Finite(0, 100), default=0.0, show_default=True, help="0 is greedy.")
def chat(target: Path, **options: Any) -> None:
    """Talk to any exported ARTIFACT (a .gguf file, an ONNX or Hugging Face directory) or to a RUN's student.

    \b
    Examples:
      distill2edge chat runs/quickstart
      distill2edge chat runs/quickstart --scheme gguf:Q4_K_M --prompt "Review: a joy.\\nSentiment:" --template plain
    """
    from distill2edge.cli.chat import chat_with

    chat_with(target, **options)


@main.command()
@click.argument("run_dir", type=FilePath(), metavar="RUN")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--scheme", "schemes", multiple=True, help="Only this export; repeatable  [default: all]")
@click.option("--private", is_flag=True, help="Make the repository private where it is made.")
@click.option("--allow-failed", is_flag=True, help="Also where the verdict is fail.")
@click.option("--quiet", "-q", is_flag=True)
def push(run_dir: Path, repo: str, schemes: tuple[str, ...], private: bool, allow_failed: bool, quiet: bool) -> None:
    """Upload a RUN's exports, card, report and recipe to a model hub, in one commit.

    The token is read from HF_TOKEN or the hub's own login; HF_ENDPOINT names another hub.

    \b
    Examples:
      distill2edge push runs/quickstart me/movie-sentiment --private
      distill2edge push runs/quickstart me/movie-sentiment --scheme gguf:Q8_0
    """
    from distill2edge.running.push import push_run
    from distill2edge.util.progress import for_stream

    click.echo(
        push_run(run_dir, repo, schemes=schemes, private=private, allow_failed=allow_failed, progress=for_stream(quiet))
    )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(as_json: bool) -> None:
    """Check the environment, and say the fix for what is missing."""
    from distill2edge.cli.doctor import check_environment, render_checks

    checks = check_environment()
    echo(jsonlib.dumps(checks, indent=2) if as_json else render_checks(checks))
    sys.exit(errors.EXIT_DONE if all(item["state"] != "missing" for item in checks) else errors.EXIT_ENVIRONMENT)


@main.command()
@click.argument("names", nargs=-1)
@click.option("--quiet", "-q", is_flag=True)
def fetch(names: tuple[str, ...], quiet: bool) -> None:
    """Bring bundled models and data (`bundled:NAME`) here before going offline. Without NAMES: list them."""
    from distill2edge.intake.bundled import describe
    from distill2edge.intake.bundled import fetch as fetch_one
    from distill2edge.util.progress import for_stream

    if not names:
        echo(describe())
    for name in names:
        echo(str(fetch_one(name.removeprefix("bundled:"), for_stream(quiet))))


@main.group(cls=Commands)
def store() -> None:
    """Look into the artifact store, and free room in it."""


@store.command("ls")
@click.option("--store", "root", type=FilePath())
@click.option("--json", "as_json", is_flag=True)
def store_ls(root: Path | None, as_json: bool) -> None:
    """List artifacts: stage, key, size, date."""
    from distill2edge.running.housekeeping import list_store, render_store
    from distill2edge.util.progress import SilentProgress

    rows = list_store(root, SilentProgress().warn)
    echo(jsonlib.dumps(rows, indent=2) if as_json else render_store(rows))


@store.command("gc")
@click.option("--store", "root", type=FilePath())
@click.option("--keep", "kept", multiple=True, type=FilePath(), help="Run directory whose artifacts stay.")
@click.option(
    "--days", type=click.IntRange(min=0), default=30, show_default=True, help="Artifacts used within so many days stay."
)
@click.option("--yes", is_flag=True, help="Delete; without it, only say what would go.")
def store_gc(root: Path | None, kept: tuple[Path, ...], days: int, yes: bool) -> None:
    """Delete unfinished work and artifacts that no kept run uses."""
    from distill2edge.running.housekeeping import collect_garbage
    from distill2edge.util.progress import SilentProgress

    echo(collect_garbage(root, kept, days, delete=yes, warn=SilentProgress().warn))


if __name__ == "__main__":
    main()
