"""The commands that go from a device's budget to a recipe: `fit`, and `profile-device`, which measures a device."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from distill2edge import errors
from distill2edge.cli.options import FilePath, Finite, OneOf, quiet_option, store_option
from distill2edge.quantize.schemes import parse_bytes
from distill2edge.util.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distill2edge.fit.fitting import Fit
    from distill2edge.fit.halving import Trial
    from distill2edge.pipeline.store import Store
    from distill2edge.util.progress import Progress

_COLUMNS = (" ", "layers", "groups/channels/hidden", "tokens", "type", "KV", "file", "RAM", "tokens/s", "TTFT", "",
            "training")  # fmt: skip
_LEFT = (" ", "type", "KV")
_MOST = 16
_TIMES = {"ms": 1e-3, "s": 1.0, "min": 60.0}


class Bytes(click.ParamType[int]):
    """`150MB`, `60MiB`, `1GB`, bytes."""

    name = "SIZE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return parse_bytes(value)
        except ValueError as error:
            self.fail(str(error).replace("is not a file size", "is not a size"), param, ctx)


class Seconds(click.ParamType[float]):
    """`300ms`, `0.3s`: a time needs its unit."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min)\s*", str(value))
        if found is None or not 0 < float(found[1]) < 1e9:
            self.fail(f"{str(value)[:40]!r} is not a time with its unit: write 300ms or 0.3s", param, ctx)
        return float(found[1]) * _TIMES[found[2]]


@click.command()
@click.option("--teacher", required=True, metavar="MODEL", help="Local directory | file.gguf | bundled:NAME")
@click.option("--data", type=FilePath(), metavar="FILE", help="Your rows: the recipe is filled in from them.")
@click.option("--task", type=OneOf(["chat", "causal-lm"]), help="Of the student  [default: what the columns say]")
@click.option("--text", metavar="COLUMN", help="The file's column of texts, questions or instructions.")
@click.option("--label", metavar="COLUMN", help="The file's column of labels or answers.")
@click.option("--name", default="fitted", show_default=True, help="The name of the run.")
@click.option("--ram", type=Bytes(), help="Memory of the process at the highest, such as 150MB.")
@click.option("--disk", type=Bytes(), help="Bytes of the file, such as 60MB.")
@click.option("--tokens-per-second", type=Finite(0, min_open=True), metavar="N", help="Of writing, at least.")
@click.option("--ttft", type=Seconds(), help="From a prompt of 128 tokens to the first token, such as 300ms.")
@click.option("--context", type=click.IntRange(2, 2**20), default=1024, show_default=True, help="Tokens held at most.")
@click.option(
    "--device",
    default="this",
    show_default=True,
    metavar="this|PROFILE.json|NAME",
    help="Where it is to run: this machine, a profile of profile-device, or a name such as raspberry-pi-5, whose "
    "figures are predicted.",
)
@click.option("--write", "target", type=FilePath(), metavar="RECIPE", help="Write the recipe of the first point.")
@click.option(
    "--train",
    type=click.IntRange(2, _MOST),
    metavar="N",
    help="Train the N best for a short time, drop the worse half, double the time, and so on; the winner's recipe is "
    "written.",
)
@click.option("--yes", is_flag=True, help="Train without being asked, however long it takes.")
@store_option("root")
@click.option("--json", "as_json", is_flag=True, help="Print the points as JSON.")
@quiet_option
def fit(target: Path | None, as_json: bool, train: int | None, yes: bool, **options: Any) -> None:
    """Find the students of a decoder that fit a device, and write a recipe.

    For every depth, width, vocabulary and type of a GGUF: the file's bytes, the memory, the speed, and the loss that is
    expected. Sizes follow from shapes; memory and speed are predicted by a profile of the device; the loss is estimated
    by what each part of the teacher does on your rows, which is measured once. Only --train trains.

    \b
    Examples:
      distill2edge fit --teacher bundled:smollm2-135m-instruct --ram 150MB --disk 60MB --tokens-per-second 40
      distill2edge fit --teacher models/teacher --data rows.jsonl --disk 60MB --device raspberry-pi-5 --write pi.yaml
      distill2edge fit --teacher models/teacher --data rows.jsonl --disk 60MB --train 4 --write best.yaml

    Exit code 3: nothing meets the budget; the nearest student is shown, with what it lacks.
    """
    from distill2edge.fit import fitting, search
    from distill2edge.fit.profiles import profile_of
    from distill2edge.planning.speed import machine_speed
    from distill2edge.running.columns import Asked
    from distill2edge.running.housekeeping import open_store
    from distill2edge.util.files import write_text
    from distill2edge.util.progress import for_stream

    if target is not None and target.exists():
        raise errors.UserError(
            "there is a file already", where=str(target), fix="name another with --write, or move it"
        )
    if train is not None and target is None:
        raise errors.UserError("the winner's recipe has no place", where="--train", fix="name a file with --write")
    if yes and train is None:
        raise errors.UserError("nothing is trained", where="--yes", fix="give it with --train N")
    asked = Asked(**{name: options[name] for name in ("name", "task", "data", "text", "label", "teacher")})
    budget = search.Budget(options["ram"], options["disk"], options["tokens_per_second"], options["ttft"])
    store, progress = open_store(options["root"]), for_stream(options["quiet"])
    profile = profile_of(options["device"], store.root.parent / "device.json", progress.say)
    speed = machine_speed()
    found = fitting.fit(asked, budget, profile, options["context"], speed, store, progress, train=train or 0)
    if not as_json:
        echo(table(found), nl=False)
    trials, recipe = [], found.recipe
    if train is not None and found.rows:
        trials = _trained(found, store, speed, progress, yes=yes)
        recipe = fitting.noted(trials[-1].candidate.text, trials)
        if not as_json:
            echo(trials_table(trials), nl=False)
    if as_json:
        echo(json.dumps(fitting.as_json(found, trials), indent=2))
    if target is not None and recipe is not None:
        write_text(target, recipe)
        echo(f"wrote {target}: distill2edge recipe check {target}", err=as_json)
    sys.exit(errors.EXIT_DONE if found.rows else errors.EXIT_VERDICT)


@click.command("profile-device")
@click.option("--out", type=FilePath(), metavar="PROFILE.json", help="Write it there  [default: print it]")
@click.option("--threads", type=click.IntRange(1, 4096), help="Threads  [default: all that may be used]")
@click.option("--script", is_flag=True, help="Print a script that does the same with numpy and llama-cpp-python alone.")
@quiet_option
def profile_device(out: Path | None, threads: int | None, script: bool, quiet: bool) -> None:
    """Measure how fast this device computes with each type of weight.

    It takes a minute or two on a quiet machine. For another device, print the script and run it there.

    \b
    Examples:
      distill2edge profile-device --out here.json
      distill2edge profile-device --script > profile_device.py
      python profile_device.py > pi.json                       (on the device)
    """
    from distill2edge.fit import measure
    from distill2edge.util.files import write_json

    if script:
        echo(measure.script(), nl=False)
        return
    found = measure.measured_here(lambda line: None if quiet else echo(line, err=True), threads)
    if out is None:
        echo(json.dumps(found, indent=1))
        return
    write_json(out, found)
    echo(f"wrote {out}: distill2edge fit --device {out}")


def _trained(found: Fit, store: Store, speed: float, progress: Progress, *, yes: bool) -> list[Trial]:
    """The trials of the candidates, once what they cost was said and agreed to."""
    from distill2edge.fit.halving import ASKED_S, Search, check_count, rounds
    from distill2edge.planning.speed import free_share
    from distill2edge.util.quantities import readable_seconds

    candidates = found.candidates
    check_count(len(candidates))
    search = Search(candidates, store, speed * max(free_share(), 0.25), progress)
    seconds = search.cost()
    takes = "a time that is not known yet" if seconds is None else f"about {readable_seconds(seconds)} at most"
    plan = ", ".join(f"{count} for {share} of the steps" for count, share in rounds(len(candidates)))
    echo(f"short trainings: {plan} ({candidates[0].steps} are a whole training); {takes}", err=True)
    if not yes and (seconds is None or seconds > ASKED_S):
        if not sys.stdin.isatty():
            raise errors.UserError(f"this takes {takes}", where="--train", fix="say --yes, or give fewer candidates")
        click.confirm("train them?", abort=True, err=True)
    return search.run()


def trials_table(trials: Sequence[Trial]) -> str:
    """What was measured, round by round, best first."""
    from distill2edge.fit.fitting import told

    lines = ["  round  steps  measured KL  expected KL  student"]
    for trial in sorted(trials, key=lambda trial: (trial.round, trial.kl)):
        mark = "*" if trial is trials[-1] else "+" if trial.kept else " "
        point = trial.candidate.point
        lines.append(
            f"{mark} {trial.round:>5}  {trial.steps:>5}  {trial.kl:>11.3f}  {point.loss:>11.2f}  {told(point)}"
        )
    said = "+ goes on, * is the winner. Measured: KL(teacher || file) in nats per token on the validation rows, after"
    return "\n".join([*lines, f"{said} a short training; expected: before any."]) + "\n"


def table(found: Fit) -> str:
    """The points, the chosen one first; or the nearest, and what it lacks."""
    from io import StringIO

    from rich.console import Console
    from rich.table import Table

    from distill2edge.fit.loss import LABEL
    from distill2edge.util.quantities import readable_bytes, readable_seconds

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for name in _COLUMNS:
        name = name or LABEL
        shown.add_column(name.strip(), justify="left" if name in _LEFT else "right", no_wrap=True)
    points = [(each.point, each.seconds) for each in found.rows]
    for point, seconds in points or ([] if found.nearest is None else [(found.nearest, None)]):
        figures = point.figures
        shown.add_row(
            "*" if found.rows and point is found.rows[0].point else "", str(point.shape.layers), point.width,
            f"{point.shape.vocabulary:,}", point.scheme, point.cache, readable_bytes(point.file.bytes),
            readable_bytes(figures.memory), f"{figures.decode:.1f}", f"{1000 * figures.first:.0f} ms",
            f"{point.loss:.2f}", "" if seconds is None else readable_seconds(seconds),
        )  # fmt: skip
    console = Console(file=StringIO(), width=140)
    console.print(shown)
    text = "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]
    return f"{_head(found)}\n{text}\n{_tail(found)}\n"


def _head(found: Fit) -> str:
    profile = found.profile
    how = (
        f"predicted, not measured: {profile.source}; {profile.url}"
        if profile.predicted
        else f"measured {profile.measured}"
    )
    return f"{profile.name} ({how}), {profile.threads} threads, context {found.context}"


def _tail(found: Fit) -> str:
    lines = [f"note: {note}" for note in found.notes]
    if found.nearest is not None:
        return "\n".join([f"no student of {found.tried:,} meets the budget; the nearest lacks: "
                          f"{found.nearest.lacks(found.budget)}", *lines])  # fmt: skip
    lines.append(
        f"{len(found.rows)} of {found.best} that no other beats, of {found.tried:,} tried; * is the one of least loss. "
        "Expected KL, in nats per token before any training, is an estimate and no measurement; RAM and speed are "
        "predicted; TTFT: 128 tokens."
    )
    return "\n".join(lines)
