"""The `data` commands: the stage, and a look into what a teacher wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from distill2edge.cli.options import Commands, FilePath, StorePlace, stage_command
from distill2edge.stages.teaching import Data
from distill2edge.util.nearest import nearest


class DataCommands(Commands):
    """A group whose `prepare` can be left out: `data RECIPE` is the stage, as `teacher RECIPE` is."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        known = list(self.commands)
        if len(args) > 1 and args[0] not in known and not Path(args[0]).exists() and (near := nearest(args[0], known)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near!r}?")
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["prepare", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DataCommands)
def data() -> None:
    """Prepare the rows, or look into what a teacher wrote.

    `data RECIPE` prepares the rows of a recipe. The other commands read ledgers: which rows a teacher wrote, which were
    kept or dropped, and why.
    """


data.add_command(stage_command(Data, "prepare"))

_TARGET = click.argument("target", type=FilePath(), metavar="RUN|DIR")


@data.command("show")
@_TARGET
@click.option("--dropped/--kept", default=None, help="Only dropped rows, or only kept ones  [default: both]")
@click.option("--reason", help="Only rows dropped for this reason (truncated, near-duplicate, ...).")
@click.option("--method", help="Only rows of this method (text, self-instruct, evolve, reverse, ...).")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="The most rows to show.")
@click.option("--json", "as_json", is_flag=True, help="Print whole rows, one JSON object per line.")
def data_show(target: Path, limit: int, as_json: bool, **chosen: Any) -> None:
    """List the synthetic rows of a RUN.

    Takes a run directory, a recipe (whose run is in runs/NAME), an artifact's directory or a ledger file.

    \b
    Examples:
      distill2edge data show runs/alpaca --dropped
      distill2edge data show runs/alpaca --reason near-duplicate --limit 5
      distill2edge data show runs/alpaca --kept --limit 1000000 --json > rows.jsonl
    """
    from distill2edge.cli.browse import select, show

    click.echo(show(select(target, **chosen), limit, as_json=as_json), nl=False)


@data.command("stats")
@_TARGET
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def data_stats(target: Path, as_json: bool) -> None:
    """Count the synthetic rows of a RUN.

    Says how many were kept, how many were dropped for which reason, who wrote them under which terms, how near they
    come to the test rows, and what they cost in tokens and money.

    \b
    Example:
      distill2edge data stats runs/alpaca
    """
    from distill2edge.cli.browse import stats

    click.echo(stats(target, as_json=as_json), nl=False)


@data.command("why")
@click.argument("row", metavar="ROW")
@click.argument("target", type=FilePath(), metavar="[RUN|DIR]", required=False)
@click.option("--store", "root", type=StorePlace(), help="The store to search where no RUN is given.")
@click.option("--json", "as_json", is_flag=True, help="Print the row as JSON.")
def data_why(row: str, target: Path | None, root: Path | str | None, as_json: bool) -> None:
    """Show everything about one ROW.

    Says who wrote it, how, and why it was kept or dropped. ROW is its id, or the beginning of it.

    \b
    Examples:
      distill2edge data why 1f3a09c2 runs/alpaca
      distill2edge data why 1f3a09c2              (looks through the store)
    """
    from distill2edge.cli.browse import why

    click.echo(why(row, target, root, as_json=as_json), nl=False)
