"""`distill2edge ui`: the local page over runs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from distill2edge.cli.options import FilePath
from distill2edge.ui import PORT
from distill2edge.util.terminal import echo


def page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of what serves a page."""
    port = click.option(
        "--port",
        type=click.IntRange(0, 65535),
        default=PORT,
        show_default=True,
        help="The port of the page; 0 takes any free one.",
    )
    return port(command)


def serve_page(place: Path, port: int, open_it: bool, *, run: bool = False) -> None:
    """Serve the page of a folder until Ctrl-C."""
    from distill2edge.ui.serve import serve

    debug = bool(click.get_current_context().find_root().params.get("debug"))
    serve(place, port, lambda line: echo(line, err=True), click.launch if open_it else None, run=run, debug=debug)


@click.command()
@click.argument("runs", type=FilePath(), metavar="[RUNS_DIR]", default="runs")
@page_options
@click.option("--open/--no-open", "open_it", default=None, help="Open it in a browser  [default: on a terminal]")
def ui(runs: Path, port: int, open_it: bool | None) -> None:
    """Show all runs on a local page.

    Filter and compare the runs of RUNS_DIR (runs, where none is named), follow one that is at work, and try files side
    by side in a chat box with their tokens/s. The page is for this machine alone and needs no network. It needs the
    extra `ui`: pip install 'distill2edge[ui]'.

    \b
    Examples:
      distill2edge ui
      distill2edge ui runs --port 0 --no-open
      distill2edge report runs/quickstart --serve
    """
    serve_page(runs, port, sys.stderr.isatty() if open_it is None else open_it)
