"""The command line, a client of the Python API: parse, call, print. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

import distill2edge as d2e
from distill2edge import errors
from distill2edge.cli.data_commands import data as data_commands
from distill2edge.cli.fit_commands import fit, profile_device
from distill2edge.cli.machine_commands import doctor, fetch, store
from distill2edge.cli.options import (
    Commands,
    FilePath,
    Finite,
    OneOf,
    out_option,
    processes_option,
    quiet_option,
    recipe_options,
    stage_command,
)
from distill2edge.cli.page_commands import page_options, serve_page, ui
from distill2edge.cli.recipe_commands import recipe as recipe_commands
from distill2edge.distill.tracking import TRACKERS
from distill2edge.models.kv_cache import PLAIN, TYPES
from distill2edge.pack.targets import TARGETS
from distill2edge.stages import KINDS
from distill2edge.stages.teaching import Data
from distill2edge.util.libraries import settle_libraries
from distill2edge.util.terminal import echo


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="distill2edge")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.option(
    "--plugin",
    "plugins",
    multiple=True,
    type=FilePath(),
    metavar="FILE.py",
    help="Run this Python file first: it registers losses or verifiers of your own; repeatable. It runs with all your "
    "rights, and only you can name it, here: a recipe cannot.",
)
def main(debug: bool, plugins: tuple[Path, ...]) -> None:
    """Distil a language model into one that fits your device, with evidence of what it keeps and what it costs.

    \b
    Start here:
      distill2edge doctor                        is everything here?
      distill2edge recipe new > my.yaml          a commented recipe
      distill2edge plan my.yaml                  what will run, time, memory, disk
      distill2edge run my.yaml                   the whole path, to a report
      distill2edge chat runs/my                  talk to the student
    """
    settle_libraries()
    for plugin in plugins:
        d2e.load_plugin(plugin)


@main.command()
@recipe_options
@out_option
@click.option(
    "--force",
    multiple=True,
    type=OneOf(list(KINDS)),
    help="Make this stage again, and all that depends on it; repeatable.",
)
@processes_option
@click.option("--seeds", metavar="0,1,2", help="Train once for each seed, on the same rows; one report covers all.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option(
    "--track",
    multiple=True,
    type=OneOf(TRACKERS),
    help="Also send the losses of every training to this tracker; repeatable. runs/NAME/train.jsonl always has them.",
)
def run(as_json: bool, **options: Any) -> None:
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
    done = d2e.run(**options)
    echo(json.dumps(done.as_json(), indent=2) if as_json else str(done))
    sys.exit(errors.EXIT_DONE if done.passed else errors.EXIT_VERDICT)


@main.command()
@recipe_options
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def plan(as_json: bool, **options: Any) -> None:
    """Show what a run of a RECIPE will do.

    Lists its stages: which are cached, and what the others will take in time, memory and disk space. Nothing is run.

    \b
    Examples:
      distill2edge plan recipes/quickstart.yaml
      distill2edge plan recipes/quickstart.yaml --set distill.epochs=5
    """
    found = d2e.plan(**options)
    echo(json.dumps(found.as_json(), indent=2) if as_json else str(found))


main.add_command(recipe_commands)

for _stage in KINDS.values():
    if _stage.command:
        main.add_command(data_commands if _stage is Data else stage_command(_stage))


@main.command()
@click.argument("target", type=FilePath(), metavar="RUN|RECIPE")
@click.option("--open", "open_it", is_flag=True, help="Open the page in a browser.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json instead of text.")
@click.option(
    "--add",
    "proofs",
    multiple=True,
    type=FilePath(),
    metavar="PROOF.json",
    help="First put what a device measured with a pack's self-test into the report; repeatable.",
)
@click.option(
    "--serve", is_flag=True, help="Serve it as a local page, where its files can be tried (`distill2edge ui`)."
)
@page_options
def report(target: Path, open_it: bool, as_json: bool, proofs: tuple[Path, ...], serve: bool, port: int) -> None:
    """Print the report of a RUN.

    A RUN is its directory; a RECIPE stands for the run in runs/NAME.

    \b
    Examples:
      distill2edge report runs/quickstart --open
      distill2edge report runs/quickstart --json | jq .verdict
      distill2edge report runs/quickstart --add proof.json
      distill2edge report runs/quickstart --serve --open
    """
    from distill2edge.running.reading import find_run, read_page

    directory = find_run(target)
    if proofs:
        from distill2edge.running.proofs import add_proofs

        add_proofs(directory, proofs)
    if serve:
        serve_page(directory, port, open_it, run=True)
        return
    echo(read_page(directory / ("report.json" if as_json else "report.md")), nl=False)
    if open_it:
        click.launch((directory / "report.html").resolve().as_uri())


@main.command()
@click.argument("runs", type=FilePath(), metavar="RUN RUN...", nargs=-1, required=True)
@click.option("--allow-different", is_flag=True, help="Warn, instead of refusing, where runs are not comparable.")
@click.option("--html", type=FilePath(), help="Also write the comparison as a web page.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def compare(runs: tuple[Path, ...], allow_different: bool, html: Path | None, as_json: bool) -> None:
    """Put runs side by side. Runs whose machine, workload, test rows or price date differ are refused.

    \b
    Example:
      distill2edge compare runs/quickstart runs/smaller
    """
    compared = d2e.compare(runs, allow_different=allow_different)
    if html is not None:
        compared.write_html(html)
    echo(json.dumps(compared.document, indent=2) + "\n" if as_json else str(compared), nl=False)


@main.command()
@click.argument("target", type=FilePath(), metavar="ARTIFACT|RUN")
@click.option("--scheme", help="Which file of a run  [default: the smallest that passed]")
@click.option("--prompt", help="Answer this text and stop.")
@click.option(
    "--template",
    type=OneOf(["auto", "chat", "plain"]),
    default="auto",
    show_default=True,
    help="How to ask: as the model was trained, through its chat template, or with the plain text.",
)
@click.option(
    "--max-tokens", type=click.IntRange(1, 2**20), default=256, show_default=True, help="The longest answer, in tokens."
)
@click.option(
    "--temperature", type=Finite(0, 100), default=0.0, show_default=True, help="0 always takes the likeliest token."
)
@click.option(
    "--kv-cache",
    type=OneOf(TYPES),
    default=PLAIN,
    show_default=True,
    help="Of a GGUF's decoder: the type of keys and values.",
)
def chat(target: Path, **options: Any) -> None:
    """Talk to a RUN's student, or to any exported file.

    ARTIFACT is a .gguf file, or a directory with an ONNX or Hugging Face model. A classifier answers with its labels
    and their probabilities.

    \b
    Examples:
      distill2edge chat runs/quickstart
      distill2edge chat runs/quickstart --scheme gguf:Q4_K_M --prompt "Review: a joy.\\nSentiment:" --template plain
    """
    from distill2edge.cli.chat import chat_with

    chat_with(target, **options)


@main.command()
@click.argument("target", type=FilePath(), metavar="RUN|RECIPE")
@click.option("--target", "place", type=OneOf(list(TARGETS)), required=True, help="What the folder runs on.")
@click.option("--file", "scheme", metavar="SCHEME", help="Which file of the run  [default: the smallest that passed]")
@click.option("--out", type=FilePath(), help="The folder to make  [default: RUN/packs/FILE-TARGET]")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@quiet_option
def pack(target: Path, place: str, scheme: str | None, out: Path | None, as_json: bool, quiet: bool) -> None:
    """Make a folder of a RUN's file that runs with no training stack.

    It carries a reference of what the verified file computed, and a self-test that says on any device, in under 30
    seconds, whether it computes the same there.

    \b
    Examples:
      distill2edge pack runs/quickstart --target python
      distill2edge pack runs/quickstart --target python --file gguf:Q8_0 --out ~/pi
      distill2edge pack runs/quickstart --target web --file gguf:Q8_0
    """
    from distill2edge.running import packing
    from distill2edge.util.progress import for_stream

    packed = packing.pack_run(target, place, scheme, out, for_stream(quiet))
    echo(packing.as_json(packed) if as_json else str(packed))


@main.command()
@click.argument("run_dir", type=FilePath(), metavar="RUN")
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--scheme", "schemes", multiple=True, help="Upload only this file; repeatable  [default: all]")
@click.option("--private", is_flag=True, help="If the repository is new, make it private.")
@click.option("--allow-failed", is_flag=True, help="Upload even if the verdict is fail.")
@quiet_option
def push(run_dir: Path, repo: str, schemes: tuple[str, ...], private: bool, allow_failed: bool, quiet: bool) -> None:
    """Upload a RUN to a model hub.

    Its files, model card, report and recipe go in one commit. The token is read from HF_TOKEN or the hub's own login;
    HF_ENDPOINT names another hub.

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


for _command in (ui, fit, profile_device, doctor, fetch, store):
    main.add_command(_command)


if __name__ == "__main__":
    main()
