"""The run directory: report, model card, and the files to ship."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill2edge.data import ledger
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.run_stages import Done
from distill2edge.recipe.kept import kept_text, run_command
from distill2edge.recipe.schema import Recipe
from distill2edge.running.leftovers import PUBLISHED, remove_files, remove_seeds
from distill2edge.running.proofs import show_proofs
from distill2edge.running.reading import read_document
from distill2edge.stages import Export, Stage
from distill2edge.stages.report import run_document
from distill2edge.util.files import clone, disk_full, disk_is_full, read_json, write_json, write_text

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
        what = "a link, which may lead out of the run" if stat.S_ISLNK(mode) else "something else is in its place"
        raise UserError(what, where=str(path), fix="remove it, or name another directory with --out")


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
        hashes = {str(entry["path"]): str(entry["sha256"]) for entry in done.artifact.manifest["files"]}
        wanted = {target / name: done.artifact.path / name for name in hashes}
        path = target.relative_to(self._out).as_posix()
        entry = {"model": stage.id, "path": path, "key": done.artifact.key, "sha256": hashes, "verified": None}
        self._entries.append(entry)
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
    show_proofs(out)
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
    command = run_command(recipe, report["seeds"]["seeds"])
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
