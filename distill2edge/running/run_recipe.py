"""Running a recipe: all of it, up to a stage, or under several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill2edge.distill.tracking import start_tracking
from distill2edge.errors import UserError
from distill2edge.pipeline.run_stages import Done, keys_of, run_stages
from distill2edge.pipeline.run_stages import upto as stages_upto
from distill2edge.preflight import RecipeLike, checked_recipe
from distill2edge.processes.choice import is_launched, local_group
from distill2edge.processes.group import trained_by
from distill2edge.processes.messages import Mute
from distill2edge.recipe.changes import Changes
from distill2edge.recipe.load import dump_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.running import directory as rundir
from distill2edge.running.directory import Exports
from distill2edge.running.finished import Run
from distill2edge.running.housekeeping import open_store
from distill2edge.running.reading import load_report
from distill2edge.running.runlog import LoggedProgress, RunLog
from distill2edge.running.seeds import combine, parse_seeds
from distill2edge.running.status import FILE as STATUS
from distill2edge.running.status import StatusFile
from distill2edge.stages import KINDS, build_stages
from distill2edge.stages.report import Report
from distill2edge.util import progress as progress_module
from distill2edge.util.machine import versions
from distill2edge.util.nearest import meant
from distill2edge.util.progress import Progress


@dataclass(frozen=True)
class _Work:
    """What is to be done.

    Attributes:
        text: of the recipe, as the run directory keeps it.
        out: the run directory.
        force: kinds of stages that are made again.
        upto: the kind to end at; null for the report.
        seeds: one after another, in place of the recipe's own.
    """

    recipe: Recipe
    text: str
    out: Path
    store: Path | str | None
    converter: Path | None
    force: frozenset[str]
    quiet: bool
    upto: str | None
    seeds: Sequence[int] | None


def run(
    recipe: RecipeLike,
    changes: Changes = (),
    *,
    upto: str | None = None,
    store: Path | str | None = None,
    out: Path | str | None = None,
    force: Iterable[str] = (),
    seeds: str | Sequence[int] | None = None,
    track: Sequence[str] = (),
    converter: Path | str | None = None,
    quiet: bool = False,
    processes: int | None = None,
) -> Run:
    """Run a recipe to its report, or up to a stage. Finished stages are reused.

        run = d2e.run("tickets.yaml", {"distill.epochs": 2})
        run.report.headline
        d2e.run(recipe, upto="distill").artifacts["distill"].path

    Args:
        changes: applied first.
        upto: the kind of stage to end at (`data`, `teacher`, `distill`, ...), with what it needs.
        store: artifact store; by default $DISTILL2EDGE_STORE.
        out: run directory; by default runs/NAME.
        force: kinds of stages to make again, and with them what reads them.
        seeds: the student is trained once for each, on one split and one teacher; a report of each in `seed-N`, and one
            over all.
        track: experiment trackers that every training reports to (`distill.tracking`).
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, for architectures that the GGUF writers don't know.
        quiet: print only warnings.
        processes: that train together, on this machine; the artifacts have the same keys for any number. Those that a
            launcher (torchrun, accelerate launch) has started join by themselves, and leave when the run has ended.

    Raises:
        UserError: the recipe, the data, a model, a licence; finished stages are kept.
    """
    shown = progress_module.for_stream(quiet)

    def given() -> _Work:
        return _given(recipe, changes, shown, upto, store, out, force, seeds, track, converter, quiet)

    if not is_launched():
        with trained_by(local_group(processes, shown.warn)):
            return _run(given())
    if processes is not None:
        raise UserError("a launcher has started this run's processes already", where="processes", fix="leave it out")
    from distill2edge.processes.launched_group import LaunchedGroup

    with LaunchedGroup() as group:
        if group.rank:
            group.follow(lambda: _about(given(), keys=group.local))
        work = given()
        group.compare(_about(work, keys=True))
        with trained_by(group):
            return _run(work)


def _given(
    recipe: RecipeLike,
    changes: Changes,
    shown: Progress,
    upto: str | None,
    store: Path | str | None,
    out: Path | str | None,
    force: Iterable[str],
    seeds: str | Sequence[int] | None,
    track: Sequence[str],
    converter: Path | str | None,
    quiet: bool,
) -> _Work:
    """What `run` is asked to do, checked.

    Raises:
        UserError: as `run`.
    """
    kinds = frozenset(_kinds(force, "force"))
    upto = None if upto == Report.kind else upto
    _kinds(() if upto is None else (upto,), "upto")
    if upto is not None and seeds is not None:
        raise UserError("a run over several seeds goes to its report", where="upto", fix="leave upto or seeds out")
    checked = checked_recipe(recipe, changes, shown, converter=converter is not None)
    directory = Path(out) if out else Path("runs") / checked.name
    start_tracking([track] if isinstance(track, str) else track, checked.name, directory)
    as_written = not changes and not isinstance(recipe, Recipe)
    text = Path(str(recipe)).read_text(encoding="utf-8") if as_written else dump_recipe(checked)
    script = Path(converter) if converter else None
    several = None if seeds is None else parse_seeds(seeds if isinstance(seeds, str) else ",".join(map(str, seeds)))
    return _Work(checked, text, directory, store, script, kinds, quiet, upto, several)


def _about(work: _Work, *, keys: bool) -> dict[str, Any]:
    """What processes compare before they start.

    Args:
        keys: of the stages too, for which data and models are read.
    """
    quiet = Mute()
    stages = build_stages(work.recipe, quiet, work.converter) if keys else None
    return {
        "recipe": dump_recipe(work.recipe),
        "versions": versions(),
        "keys": None if stages is None else keys_of(stages),
    }


def _run(work: _Work) -> Run:
    return _run_once(work) if work.seeds is None else _run_seeds(work, work.seeds)


def _run_once(work: _Work) -> Run:
    directory, checked, upto = work.out, work.recipe, work.upto
    with _logged(work) as progress:
        exports = Exports(directory, checked.name)
        done = _run_stages(work, progress, exports)
        if upto is None:
            rundir.publish(checked, work.text, done, directory, exports)
    made = {item.stage.name: item.artifact for item in done}
    return Run(directory, open_store(work.store), upto, made, checked)


def _kinds(kinds: Iterable[str], where: str) -> list[str]:
    """Names of kinds of stages, checked."""
    found = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in found:
        if kind not in KINDS:
            fix = f"{meant(str(kind), list(KINDS))}one of {', '.join(KINDS)}"
            raise UserError(f"no stage {kind!r}", where=where, fix=fix)
    return found


def _run_seeds(work: _Work, seeds: Sequence[int]) -> Run:
    recipe = work.recipe
    if len(seeds) > 1 and (shared := sorted(kind for kind in work.force if KINDS[kind].shared)):
        raise UserError(
            f"{', '.join(shared)} is shared by the seeds", where="--force",
            fix=f"run with --force {shared[0]} and without --seeds first",
        )  # fmt: skip
    places = [work.out / f"seed-{seed}" for seed in seeds]
    for place in places:
        if place.is_symlink():
            raise UserError("a link, which may lead out of the run", where=str(place), fix="remove it")
        rundir.check(place)
    reports = []
    with _logged(work) as progress:
        for number, (seed, place) in enumerate(zip(seeds, places, strict=True), 1):
            progress.say(f"seed {seed} ({number} of {len(seeds)})")
            exports = Exports(place, recipe.name)
            done = _run_stages(replace(work, out=place), progress, exports, seed)
            rundir.publish(recipe.model_copy(update={"seed": seed}), work.text, done, place, exports)
            reports.append(load_report(place))
        rundir.publish_seeds(recipe, combine(reports), places, work.text, work.out)
    return Run(work.out, open_store(work.store))


@contextmanager
def _logged(work: _Work) -> Iterator[LoggedProgress]:
    """What the console is told, which `run.log` of the run directory keeps with the time; also how it ended."""
    rundir.check(work.out)
    status = StatusFile(work.out / STATUS, work.upto or "run")
    with RunLog(work.out / "run.log") as log:
        log.line(f"--- {work.recipe.name}: {work.upto or 'run'}")
        try:
            yield LoggedProgress(progress_module.for_stream(work.quiet), log, work.out / "train.jsonl", status)
        except BaseException as error:
            log.ended(error)
            status.ended("failed" if isinstance(error, Exception) else "stopped", str(error))
            raise
        log.line("--- done")
        status.ended("done")


def _run_stages(work: _Work, progress: LoggedProgress, exports: Exports, seed: int | None = None) -> list[Done]:
    """The stages of a recipe, under its own seed, or another that shares its split and teacher."""
    from distill2edge.running.plan import require_workers, warn_of_room
    from distill2edge.util.allocator import keep_freed_memory
    from distill2edge.util.threads import spin_briefly

    keep_freed_memory()
    spin_briefly()
    store = open_store(work.store)
    stages = build_stages(work.recipe, progress, work.converter, seed=seed)
    wanted = stages if work.upto is None else stages_upto(stages, work.upto)
    if not wanted:
        progress.warn(f"this recipe has no stage {work.upto}: nothing is done")
    require_workers(work.recipe, wanted, store, progress, again=bool(work.force))
    rundir.prepare(work.out)  # after all that can be refused without it
    progress.planned([stage.name for stage in wanted], seed)
    warn_of_room(work.recipe, wanted, store, progress)
    return run_stages(wanted, store, progress, work.force, exports.add)
