"""The commands that look after the machine: environment, bundled files, artifact store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from distill2edge import errors
from distill2edge.cli.options import Commands, FilePath, quiet_option, store_option
from distill2edge.util.terminal import echo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(as_json: bool) -> None:
    """Check the environment, with a fix for what is missing.

    \b
    Example:
      distill2edge doctor
    """
    from distill2edge.cli.doctor import check_environment, render_checks

    checks = check_environment()
    echo(json.dumps(checks, indent=2) if as_json else render_checks(checks))
    sys.exit(errors.EXIT_DONE if all(item["state"] != "missing" for item in checks) else errors.EXIT_ENVIRONMENT)


@click.command()
@click.argument("names", nargs=-1)
@quiet_option
def fetch(names: tuple[str, ...], quiet: bool) -> None:
    """Download bundled models and data, to work offline.

    A recipe names them as `bundled:NAME`. Without NAMES they are listed.

    \b
    Example:
      distill2edge fetch smollm2-135m-instruct movie-sentiment
    """
    from distill2edge.intake.bundled import describe
    from distill2edge.intake.bundled import fetch as fetch_one
    from distill2edge.util.progress import for_stream

    if not names:
        echo(describe())
    for name in names:
        echo(str(fetch_one(name.removeprefix("bundled:"), for_stream(quiet))))


@click.group(cls=Commands)
def store() -> None:
    """Look into the artifact store, and free space in it."""


_store_option = store_option("root")


@store.command("ls")
@_store_option
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def store_ls(root: Path | str | None, as_json: bool) -> None:
    """List artifacts: stage, key, size, date.

    \b
    Examples:
      distill2edge store ls
      distill2edge store ls --store s3://models/distill2edge
    """
    from distill2edge.running.housekeeping import list_store, render_store
    from distill2edge.util.progress import SilentProgress

    rows = list_store(root, SilentProgress().warn)
    echo(json.dumps(rows, indent=2) if as_json else render_store(rows))


@store.command("gc")
@_store_option
@click.option("--keep", "kept", multiple=True, type=FilePath(), help="Keep the artifacts of this run; repeatable.")
@click.option(
    "--days", type=click.IntRange(min=0), default=30, show_default=True, help="Keep what was used in the last N days."
)
@click.option("--yes", is_flag=True, help="Delete. Without it, only say what would be deleted.")
def store_gc(root: Path | str | None, kept: tuple[Path, ...], days: int, yes: bool) -> None:
    """Delete unfinished work, and artifacts that no kept run uses.

    Of a store that machines share, nothing goes while one of them is at work.

    \b
    Examples:
      distill2edge store gc                                     (says what would be deleted)
      distill2edge store gc --keep runs/quickstart --days 7 --yes
    """
    from distill2edge.running.housekeeping import collect_garbage
    from distill2edge.util.progress import for_stream

    echo(collect_garbage(root, kept, days, delete=yes, progress=for_stream()))
