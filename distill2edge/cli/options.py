"""What the command modules share: the options of a recipe, and how errors are rendered."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, NoReturn

import click

import distill2edge as d2e
from distill2edge import errors
from distill2edge.pipeline.object_storage import is_address
from distill2edge.stages import Stage
from distill2edge.util import interrupts
from distill2edge.util.files import check_path, disk_full, disk_is_full
from distill2edge.util.nearest import nearest
from distill2edge.util.terminal import coloured, echo, printable, quiet_libraries, tolerant


class Commands(click.Group):
    """Keeps the order of definition in `--help`, and renders errors."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        root = ctx.find_root()
        if ctx is not root:  # the outermost group renders
            return super().invoke(ctx)
        tolerant()
        debug = bool(root.params.get("debug"))
        try:
            with interrupts.caught(), nullcontext() if debug else quiet_libraries():
                return super().invoke(ctx)
        except errors.UserError as error:
            if debug:
                raise
            _stop(str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort) as stop:
            code = stop.exit_code if isinstance(stop, interrupts.Stopped) else 130
            _stop("stopped: what was finished is kept; the same command continues from there", code)
        except (click.ClickException, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if debug:
                raise
            if disk_full(error):
                fault = disk_is_full(getattr(error, "filename", None))
                _stop(str(fault), fault.exit_code)
            _stop(f"internal error: {type(error).__name__}: {error}\n  fix: run again with --debug and report it", 1)


class OneOf(click.Choice[str]):
    """A choice that names the word which was meant."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as error:
            if near := nearest(str(value), list(self.choices)):
                raise click.BadParameter(f"{error.message} Did you mean {near!r}?", error.ctx, error.param) from None
            raise


class Finite(click.FloatRange):
    """A number within a range; NaN, which every comparison lets pass, is none."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if number != number:
            self.fail(f"{value!r} is not a number", param, ctx)
        return number


def _stop(message: str, code: int) -> NoReturn:
    head = click.style("error", fg="red", bold=True) if coloured(sys.stderr) else "error"
    with suppress(OSError):  # a terminal that was closed takes no message
        click.echo(f"{head}: {printable(message)}", err=True)
    sys.exit(code)


class FilePath(click.Path):
    """A path of the command line, checked (`files.check_path`) before anything asks for what is there."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        check_path(os.fspath(value))
        return super().convert(value, param, ctx)


class StorePlace(FilePath):
    """The place of a store: a path, or an address (`s3://BUCKET/PREFIX`), which stays as it was written."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if is_address(value) else super().convert(value, param, ctx)


def store_option(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option that names the store.

    Args:
        name: of the command's argument.
    """
    return click.option(
        "--store", name, type=StorePlace(), metavar="PATH|ADDRESS",
        help="Artifact store: a directory, or s3://BUCKET/PREFIX  [default: $DISTILL2EDGE_STORE]",
    )  # fmt: skip


def accept_weak_sandbox(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option with which the user's own command line accepts less than the whole sandbox; no recipe can."""
    from distill2edge.verifiers.sandbox import ACCEPT_OPTION, weak_sandbox_accepted

    def remember(context: click.Context, option: click.Parameter, accepted: bool) -> None:
        token = weak_sandbox_accepted.set(accepted)
        context.call_on_close(lambda: weak_sandbox_accepted.reset(token))

    return click.option(
        ACCEPT_OPTION,
        is_flag=True,
        expose_value=False,
        callback=remember,
        help="Run a recipe's `python` checks even where the kernel offers no namespaces: a filter of system calls is "
        "then the only sandbox. Without this option such a recipe is refused. Read the code of its checks first.",
    )(command)


def set_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that changes a recipe."""
    return click.option(
        "--set", "changes", multiple=True, metavar="A.B=C", help="Change a value of the recipe; repeatable."
    )(command)


def quiet_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that silences progress."""
    return click.option("--quiet", "-q", is_flag=True, help="Print only warnings and the result.")(command)


def out_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says where a run goes."""
    return click.option("--out", type=FilePath(), help="Run directory  [default: runs/NAME]")(command)


def processes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that says how many processes train."""
    return click.option(
        "--processes",
        type=click.IntRange(1, 4096),
        metavar="N",
        help="Train with N processes on this machine, one for each GPU; with none, they share the cores. "
        "For several machines: torchrun -m distill2edge ... (docs/scale.md).",
    )(command)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The argument and options of every command that takes a recipe."""
    for decorate in (
        accept_weak_sandbox,
        quiet_option,
        store_option("store"),
        click.option(
            "--converter",
            type=FilePath(),
            help="convert_hf_to_gguf.py of a llama.cpp checkout, to write every GGUF with. By default the pinned "
            "llama.cpp's own writes families that have no writer here.",
        ),
        set_option,
        click.argument("recipe", type=FilePath()),
    ):
        command = decorate(command)
    return command


def stage_command(stage: type[Stage], name: str | None = None) -> click.Command:
    """The command that runs a recipe up to a kind of stage."""

    @recipe_options
    @out_option
    @processes_option
    def command(**options: Any) -> None:
        echo(str(d2e.run(upto=stage.kind, **options)))

    text = (
        f"{stage.help}\n\nWhat it needs is run first; finished stages are reused.\n\n"
        f"\b\nExample:\n  distill2edge {stage.kind} recipes/quickstart.yaml"
    )
    return click.command(name=name or stage.kind, help=text)(command)
