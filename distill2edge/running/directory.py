"""The run directory: report, model card, and the files to ship."""

from __future__ import annotations

import errno
import json
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.data import ledger
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.run_stages import Done
from distill2edge.recipe.kept import kept_text
from distill2edge.recipe.schema import Recipe
from distill2edge.running.leftovers import PUBLISHED, remove_files, remove_seeds
from distill2edge.stages import Export, Stage
from distill2edge.stages.report import run_document
from distill2edge.util.files import clone, disk_full, disk_is_full, read_json, read_regular, write_json, write_text
from distill2edge.util.nearest import nearest

Document = dict[str, Any]


def check(out: Path) -> None:
    """See that the run directory can be made and filled, without making it: before anything is computed.

    Raises:
        UserError: a file stands where it, or a directory above or in it, should be; a link in it leads elsewhere.
        EnvironmentFault: it cannot be written.
    """
    for name in ("exports", "tensorboard", "run.log", "train.jsonl"):  # what is not replaced whole, but written into
        if os.path.lexists(out / name):
            _own(out / name, stat.S_ISREG if "." in name else stat.S_ISDIR)
    check_place(out)


def check_place(out: Path) -> None:
    """See that a directory can be made or is one, and can be written.

    Raises:
        as `check`.
    """
    place = next(path for path in (out.absolute(), *out.absolute().parents) if os.path.lexists(path))
    if not place.is_dir():
        raise UserError(
            "a file stands where the run directory should be", where=str(place), fix="name another with --out"
        )
    if not os.access(place, os.W_OK | os.X_OK):
        raise _unwritable(place, os.strerror(errno.EACCES))


def _own(path: Path, right: Callable[[int], bool]) -> None:
    mode = path.lstat().st_mode
    if not right(mode):
        what = "a link, which may lead out of the run" if stat.S_ISLNK(mode) else "something else stands there"
        raise UserError(what, where=str(path), fix="remove it, or name another directory with --out")


def exported(run: Path) -> list[Path]:
    """The files and directories in `exports` of a run; nothing hidden (a copy that was killed), no links.

    Raises:
        UserError: `exports` is a link, or one is in it.
    """
    exports = run / "exports"
    found = [exports, *sorted(path for path in exports.rglob("*") if not path.name.startswith("."))]
    if links := [str(path) for path in found if path.is_symlink()]:
        raise UserError("a link, which may lead out of the run", where=links[0], fix="put the file itself there")
    return [path for path in found[1:] if not any(part.startswith(".") for part in path.relative_to(exports).parts)]


def prepare(out: Path) -> None:
    """Make the run directory, and see that it can be written.

    Raises:
        EnvironmentFault: it cannot, or the disk is full.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out) as probe:
            probe.write(b"?")
    except OSError as error:
        if disk_full(error):
            raise disk_is_full(out) from error
        raise _unwritable(out, error.strerror or str(error)) from error


def _unwritable(path: Path, why: str) -> EnvironmentFault:
    return EnvironmentFault(f"cannot be written: {why}", where=str(path), fix="name another directory with --out")


class Exports:
    """The files to ship of one run: in `OUT/exports` from the moment they are made, listed in `OUT/exports.json`.

    What an earlier run of other content left there goes when the first file of this one comes.

    Args:
        name: of the run, which begins the name of each file.
    """

    def __init__(self, out: Path, name: str) -> None:
        self._out, self._name = out, name
        self._entries: list[Document] = []

    def add(self, done: Done) -> None:
        """Publish an export that ships; other stages' artifacts are none."""
        stage, directory = done.stage, self._out / "exports"
        if not isinstance(stage, Export) or not stage.ships:
            return
        # A directory for each: runtimes look for fixed names, and what tells how to use a file lies beside it.
        target = directory / f"{self._name}-{stage.scheme.slug}"
        names = [str(entry["path"]) for entry in done.artifact.manifest["files"]]
        wanted = {target / name: done.artifact.path / name for name in names}
        path = target.relative_to(self._out).as_posix()
        self._entries.append({"model": stage.id, "path": path, "key": done.artifact.key, "verified": None})
        self._remove_others(directory, {*(self._out / entry["path"] for entry in self._entries), *wanted})
        for file, source in wanted.items():
            clone(source, file)
        write_json(self._out / "exports.json", {"schema_version": 1, "files": self._entries})

    def verified(self, report: Document) -> None:
        """Note which of them kept every gate. None: it was not measured."""
        failed = {gate["model"] for gate in report["gates"] if not gate["passed"]}
        measured = {model["id"] for model in report["models"]}
        for entry in self._entries:
            entry["verified"] = entry["model"] not in failed if entry["model"] in measured else None
        write_json(self._out / "exports.json", {"schema_version": 1, "files": self._entries})

    def _remove_others(self, directory: Path, own: set[Path]) -> None:
        """Remove what is of another run or artifact: all of it before our first file, later what our own replace."""
        if len(self._entries) > 1:
            current = self._out / self._entries[-1]["path"]
            found = [current, *current.rglob("*")] if current.is_dir() and not current.is_symlink() else []
        else:
            found = [*directory.rglob("*")] if directory.is_dir() else []
        for path in sorted(found, reverse=True):
            if path in own or any(path in mine.parents for mine in own):
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()


def publish(recipe: Recipe, recipe_text: str, done: Sequence[Done], out: Path, exports: Exports) -> None:
    """Fill the run directory from the artifacts of a finished run: documents, recipe, what the files to ship passed.

    Everything is a copy (which shares its blocks with the store's file where the file system can): it may be edited.
    """
    artifacts = {item.stage.name: item.artifact for item in done}
    published = {name: item.artifact.path / name for item in done for name in _published(item)}
    for name, path in published.items():
        clone(path, out / name)
    write_text(out / "recipe.yaml", kept_text(recipe_text, recipe, out))
    write_json(out / "run.json", run_document(recipe, artifacts))
    for old in (*out.glob("ledger-*.parquet"), *(out / name for name in PUBLISHED if name not in published)):
        old.unlink(missing_ok=True)
    for name, artifact in artifacts.items():
        if (artifact.path / ledger.FILE).is_file():
            clone(artifact.path / ledger.FILE, out / f"ledger-{name.replace(' ', '-')}.parquet")
    exports.verified(read_json(out / "report.json"))
    remove_seeds(out)


def _published(done: Done) -> tuple[str, ...]:
    return done.stage.published if isinstance(done.stage, Stage) else ()


def publish_seeds(recipe: Recipe, report: Document, runs: Sequence[Path], recipe_text: str, out: Path) -> None:
    """Fill the directory of several seeds: one report over all; each seed's own run directory lies inside.

    Args:
        report: of `seeds.combine`.
        runs: directory of each seed.
    """
    from distill2edge.report.card import render_card
    from distill2edge.report.html import render_html
    from distill2edge.report.markdown import render_markdown

    documents = [read_document(run / "run.json") for run in runs]
    listed = ",".join(map(str, report["seeds"]["seeds"]))
    command = f"distill2edge run recipe.yaml --seeds {listed}"
    report["reproduce"]["command"] = command
    write_json(out / "report.json", report)
    write_text(out / "report.html", render_html(report))
    write_text(out / "report.md", render_markdown(report))
    write_text(out / "model_card.md", render_card(report))
    write_text(out / "recipe.yaml", kept_text(recipe_text, recipe, out))
    stages = [stage for document in documents for stage in document["stages"]]
    write_json(out / "run.json", {**documents[0], "command": command, "stages": stages})
    remove_files(out)
    remove_seeds(out, runs)


def near_run(target: Path) -> str:
    """`did you mean X? ` for a run beside a directory that is none, or in runs/."""
    for folder in (target.parent, Path("runs")):
        with suppress(OSError):
            names = [each.name for each in islice(folder.iterdir(), 2000) if (each / "report.json").is_file()]
            if near := nearest(target.name, names):
                return f"did you mean {folder / near}? "
    return ""


def find_run(target: Path) -> Path:
    """The run directory that a directory, or a recipe file, stands for.

    Raises:
        UserError: nothing was run there.
    """
    directory = target
    if target.is_file() and target.suffix in (".yaml", ".yml"):
        from distill2edge.recipe.load import load_recipe

        directory = Path("runs") / load_recipe(target).name
    if not (directory / "report.json").is_file():
        if directory == target and not (directory / "run.log").is_file():
            what = "no report here" if target.exists() else "nothing there"
            fix = f"{near_run(target)}give a run directory, such as runs/NAME, or its recipe"
            raise UserError(what, where=str(target), fix=fix)
        raise UserError(
            "no report here", where=str(directory),
            fix=f"run its recipe to the end: distill2edge run {target if directory != target else 'RECIPE'}",
        )  # fmt: skip
    return directory


def refuse_seeds(run: Path, command: str) -> None:
    """See that a run directory, if it is one, has files of its own: those of several seeds lie in `seed-N`.

    Args:
        command: that reads files, for the message.

    Raises:
        UserError: the report is one over several seeds.
    """
    if not (run / "report.json").is_file():
        return
    seeds = (load_report(run).get("seeds") or {}).get("seeds")
    if seeds:
        listed = ", ".join(f"seed-{seed}" for seed in seeds)
        raise UserError(
            f"a run over several seeds: each has files of its own ({listed})", where=str(run),
            fix=f"name one: distill2edge {command} {run / f'seed-{seeds[0]}'}",
        )  # fmt: skip


def load_report(target: Path) -> Document:
    """report.json of a run.

    Raises:
        UserError: nothing was run there, or it is not readable.
    """
    path = find_run(target) / "report.json"
    from distill2edge.report.check import check_report

    return check_report(read_document(path), str(path))


def read_page(path: Path) -> str:
    """The text of a document of a run directory.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    fix = "run its recipe again"
    try:
        return read_regular(path).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix=fix) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from error
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8", where=str(path), fix=fix) from error


def read_document(path: Path) -> Document:
    """A JSON object of a run directory.

    Raises:
        UserError: it is missing, or no JSON object.
    """
    fix = "run its recipe again"
    try:
        document = json.loads(read_page(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=str(path), fix=fix) from error
    if not isinstance(document, dict):
        raise UserError("not a JSON object", where=str(path), fix=fix)
    return document
