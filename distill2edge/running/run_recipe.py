"""Running a recipe: what the commands `run`, `distill`, `verify`, ... and `compare` call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.distill.tracking import start_tracking
from distill2edge.errors import UserError
from distill2edge.pipeline.run_stages import Done, run_stages, upto
from distill2edge.pipeline.store import Store, default_root
from distill2edge.preflight import checked_recipe
from distill2edge.recipe.load import dump_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.running import directory as rundir
from distill2edge.running.directory import Exports, find_run
from distill2edge.running.runlog import LoggedProgress, RunLog
from distill2edge.running.seeds import combine, parse_seeds
from distill2edge.stages import KINDS, build_stages
from distill2edge.util import progress as progress_module
from distill2edge.util.progress import Progress

__all__ = ["Result", "compare_runs", "find_run", "run_recipe", "run_until"]


@dataclass(frozen=True)
class Result:
    """A finished run."""

    out: Path
    report: dict[str, Any]

    @property
    def passed(self) -> bool:
        """Whether every gate of the recipe held."""
        return bool(self.report["verdict"]["result"] == "pass")

    def summary(self) -> dict[str, Any]:
        """For scripts."""
        report = self.report
        return {
            "schema_version": 1,
            "run": str(self.out),
            "verdict": "pass" if self.passed else "fail",
            "headline": report["headline"],
            "gates": report["gates"],
            "report": str(self.out / "report.html"),
        }

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of a run over several."""
        return tuple((self.report.get("seeds") or {}).get("seeds", ()))

    def text(self) -> str:
        """For people: the verdict, what failed, what to be warned of, and where to look."""
        from distill2edge.report.claims import lead, warnings

        failed = [
            f"  failed: {gate['name']} of {gate['model']}: "
            f"{'no value' if gate['value'] is None else format(gate['value'], '.4g')}, "
            f"asked {gate['op']} {gate['target']:.4g}{' (default)' if gate.get('default') else ''}"
            for gate in self.report["gates"]
            if not gate["passed"]
        ]
        verdict = "PASS" if self.passed else "FAIL"
        # Each of several seeds has files of its own; the first stands for them.
        run = self.out / f"seed-{self.seeds[0]}" if self.seeds else self.out
        return "\n".join(
            [
                f"{verdict}  {lead(self.report)}",
                *failed,
                *(f"  warning: {warning['text']}" for warning in warnings(self.report)),
                f"gates   {self.report['verdict']['summary']}",
                f"report  {self.out / 'report.html'}",
                f"files   {run / 'exports'}",
                f"talk    distill2edge chat {run}",
                *(f"seed    {self.out / f'seed-{seed}' / 'report.html'}" for seed in self.seeds),
            ]
        )


def run_recipe(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    out: Path | None,
    quiet: bool,
    force: frozenset[str] = frozenset(),
    converter: Path | None = None,
    track: Sequence[str] = (),
    seeds: str | None = None,
) -> Result:
    """Run a recipe to its report and fill the run directory.

    Args:
        track: experiment trackers that every training reports to (`distill.tracking`).
        seeds: `0,1,2`: the student is trained once for each, on one split and one teacher; a report of each in
            `seed-N`, and one over all.

    Raises:
        UserError: the recipe, the data, a model, a licence; finished stages are kept.
    """
    loaded = checked_recipe(recipe, overrides, progress_module.for_stream(quiet), converter=converter is not None)
    directory = out or Path("runs") / loaded.name
    start_tracking(track, loaded.name, directory)
    text = recipe.read_text(encoding="utf-8") if not overrides else dump_recipe(loaded)
    if seeds is not None:
        return _run_seeds(loaded, parse_seeds(seeds), text, store, directory, quiet, force, converter)
    with _logged(loaded, None, directory, quiet) as progress:
        exports = Exports(directory, loaded.name)
        done = _run(loaded, None, store, progress, force, converter, directory, exports)
        rundir.publish(loaded, text, done, directory, exports)
    return Result(directory, rundir.load_report(directory))


def _run_seeds(
    recipe: Recipe,
    seeds: Sequence[int],
    text: str,
    store: Path | None,
    directory: Path,
    quiet: bool,
    force: frozenset[str],
    converter: Path | None,
) -> Result:
    if len(seeds) > 1 and (shared := sorted(kind for kind in force if KINDS[kind].shared)):
        raise UserError(
            f"{', '.join(shared)} is shared by the seeds", where="--force",
            fix=f"run with --force {shared[0]} and without --seeds first",
        )  # fmt: skip
    for seed in seeds:
        place = directory / f"seed-{seed}"
        if place.is_symlink():
            raise UserError("a link, which may lead out of the run", where=str(place), fix="remove it")
        rundir.check(place)
    reports = []
    with _logged(recipe, None, directory, quiet) as progress:
        for number, seed in enumerate(seeds, 1):
            progress.say(f"seed {seed} ({number} of {len(seeds)})")
            place = directory / f"seed-{seed}"
            own, exports = recipe.model_copy(update={"seed": seed}), Exports(place, recipe.name)
            done = _run(recipe, None, store, progress, force, converter, place, exports, seed)
            rundir.publish(own, text, done, place, exports)
            reports.append(rundir.load_report(place))
        rundir.publish_seeds(recipe, combine(reports), [directory / f"seed-{seed}" for seed in seeds], text, directory)
    return Result(directory, rundir.load_report(directory))


def run_until(
    kind: str,
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    out: Path | None,
    quiet: bool,
    converter: Path | None = None,
) -> list[Done]:
    """Run the stages of one kind, and what they need; returns those of that kind."""
    loaded = checked_recipe(recipe, overrides, progress_module.for_stream(quiet), converter=converter is not None)
    directory = out or Path("runs") / loaded.name
    with _logged(loaded, kind, directory, quiet) as progress:
        done = _run(loaded, kind, store, progress, frozenset(), converter, directory, Exports(directory, loaded.name))
    return [item for item in done if item.stage.kind == kind]


@contextmanager
def _logged(recipe: Recipe, kind: str | None, directory: Path, quiet: bool) -> Iterator[Progress]:
    """What the console is told, which `run.log` of the run directory keeps with the time; also how it ended."""
    rundir.check(directory)
    with RunLog(directory / "run.log") as log:
        log.line(f"--- {recipe.name}: {kind or 'run'}")
        try:
            yield LoggedProgress(progress_module.for_stream(quiet), log, directory / "train.jsonl")
        except BaseException as error:
            log.ended(error)
            raise
        log.line("--- done")


def _run(
    recipe: Recipe,
    kind: str | None,
    store: Path | None,
    progress: Progress,
    force: frozenset[str],
    converter: Path | None,
    directory: Path,
    exports: Exports,
    seed: int | None = None,
) -> list[Done]:
    """The stages of a recipe, under its own seed, or another that shares its split and teacher."""
    from distill2edge.running.plan import warn_of_room
    from distill2edge.util.allocator import keep_freed_memory
    from distill2edge.util.threads import spin_briefly

    keep_freed_memory()
    spin_briefly()
    opened = Store(store or default_root())
    opened.check()
    stages = build_stages(recipe, progress, converter, seed=seed)
    wanted = stages if kind is None else upto(stages, kind)
    rundir.prepare(directory)  # after all that can be refused without it
    warn_of_room(recipe, wanted, opened, progress)
    return run_stages(wanted, opened, progress, force, exports.add)


def compare_runs(runs: Sequence[Path], *, allow: bool, html: Path | None, as_json: bool) -> str:
    """The comparison of runs as text or JSON; also as a page.

    Raises:
        UserError: fewer than two runs, or runs that differ in machine, workload or price date.
    """
    from distill2edge.report.compare import compare, render_comparison_html, render_comparison_text
    from distill2edge.util.files import write_text

    compared = compare([rundir.load_report(run) for run in runs], allow=allow)
    if html is not None:
        rundir.check_place(html.parent)
        if html.is_dir():
            raise UserError("a directory", where=str(html), fix="name a file with --html")
        write_text(html, render_comparison_html(compared))
    return json.dumps(compared, indent=2) + "\n" if as_json else render_comparison_text(compared)
