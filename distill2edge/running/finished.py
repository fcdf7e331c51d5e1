"""A run as an object: its artifacts by stage, its report, its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.store import Store
from distill2edge.running.findings import Report
from distill2edge.running.housekeeping import open_store
from distill2edge.running.reading import choose_export, find_run, load_report, read_document, refuse_seeds, stages_of
from distill2edge.stages import KINDS
from distill2edge.stages.stage import kind_of

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.running.answering import OpenModel

_KEY = re.compile(r"[0-9a-f]{64}")
_INSIDE = re.compile(r"exports/(?!\.)[^/\\\0]+")


@dataclass(frozen=True)
class Exported:
    """A file to ship.

    Attributes:
        model: its id in the report, `student/gguf:Q4_0`.
        path: its directory: the model's file, and what tells how to use it.
        verified: whether it kept every gate; null where it was not measured.
        sha256: of each of its files as they were made, by name.
    """

    model: str
    path: Path
    verified: bool | None
    sha256: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, eq=False)
class Run:
    """A run, of a whole recipe or up to a stage. `print(run)` says how it went.

        run = d2e.open_run("runs/tickets")
        run.report.verdict
        run.artifacts["distill"].document("train.json")
        run.exports[0].path

    Attributes:
        path: the run directory.
        upto: the stage that it ended at; null for a run to the report.
    """

    path: Path
    store: Store = field(repr=False)
    upto: str | None = None
    made: Mapping[str, Artifact] | None = field(default=None, repr=False)
    ran: Recipe | None = field(default=None, repr=False)

    @cached_property
    def artifacts(self) -> dict[str, Artifact]:
        """By the names of their stages: path, manifest, facts, documents. What the store no longer has is left out.

        Raises:
            UserError: a run over several seeds: each has its own (`seed`).
        """
        if self.made is not None:
            return dict(self.made)
        refuse_seeds(self.path)
        found = {}
        for name, key in stages_of(self.path):
            kind = kind_of(name)
            if kind in KINDS and _KEY.fullmatch(key) and (artifact := self.store.get(kind, key)) is not None:
                found[name] = artifact
        return found

    def of(self, kind: str) -> dict[str, Artifact]:
        """The artifacts of one kind of stage, by name: `export` has one for each file."""
        return {name: artifact for name, artifact in self.artifacts.items() if kind_of(name) == kind}

    @cached_property
    def report(self) -> Report:
        """The report.

        Raises:
            UserError: the run ended before it.
        """
        if self.upto is not None:
            fix = "run the recipe without a stage to end at"
            raise UserError(f"this run ended at {self.upto}, before its report", where=str(self.path), fix=fix)
        return Report(load_report(self.path))

    @property
    def passed(self) -> bool:
        """Whether every gate of the recipe held."""
        return self.report.passed

    @property
    def recipe(self) -> Recipe:
        """The recipe that was run, with all that was changed in it."""
        if self.ran is not None:
            return self.ran
        from distill2edge.recipe.load import load_recipe

        return load_recipe(self.path / "recipe.yaml")

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of a run over several seeds."""
        return tuple((self.report.document.get("seeds") or {}).get("seeds", ()))

    def seed(self, number: int) -> Run:
        """The run of one of several seeds, with its own artifacts and files.

        Raises:
            UserError: no such seed.
        """
        if number not in self.seeds:
            fix = f"its seeds: {', '.join(map(str, self.seeds))}" if self.seeds else "it is a run of one seed"
            raise UserError(f"no seed {number}", where=str(self.path), fix=fix)
        return Run(self.path / f"seed-{number}", self.store)

    @property
    def exports(self) -> tuple[Exported, ...]:
        """The files to ship, as many as are made.

        Raises:
            UserError: a run over several seeds: each has its own (`seed`).
        """
        refuse_seeds(self.path)
        if self.upto is not None and not (self.path / "exports.json").is_file():
            return ()
        files = read_document(self.path / "exports.json").get("files")
        return tuple(map(self._exported, files if isinstance(files, list) else [None]))

    def _exported(self, entry: Any) -> Exported:
        model, path = (entry.get("model"), entry.get("path")) if isinstance(entry, dict) else (None, None)
        if not isinstance(model, str) or not isinstance(path, str) or not _INSIDE.fullmatch(path):
            where = str(self.path / "exports.json")
            raise UserError("damaged: an entry that names no file of this run", where=where, fix="run its recipe again")
        known = entry.get("sha256")
        return Exported(model, self.path / path, entry.get("verified"), known if isinstance(known, dict) else {})

    def open_model(self, scheme: str | None = None) -> OpenModel:
        """Load one of its files, to ask it: the smallest that passed, or that of a scheme."""
        from distill2edge.running.opening import open_model

        return open_model(self.path, scheme)

    def export(self, scheme: str | None = None) -> Path:
        """Where the file of a scheme lies; of the smallest that passed where none is named.

        Raises:
            UserError: no such file (names what is there), or a run over several seeds.
        """
        return choose_export(self.path, scheme)

    def as_json(self) -> dict[str, Any]:
        """For scripts: what `distill2edge run --json` prints."""
        report = self.report.document
        return {
            "schema_version": 1,
            "run": str(self.path),
            "verdict": "pass" if self.passed else "fail",
            "headline": report["headline"],
            "gates": report["gates"],
            "report": str(self.path / "report.html"),
        }

    def __str__(self) -> str:
        """The verdict, what failed, what to be warned of, and where to look; of a run up to a stage, its artifacts."""
        if self.upto is not None:
            return "\n".join(f"{name}: {artifact.path}" for name, artifact in self.of(self.upto).items())
        report = self.report
        failed = [
            f"  failed: {gate['name']} of {gate['model']}: "
            f"{'no value' if gate['value'] is None else format(gate['value'], '.4g')}, "
            f"required {gate['op']} {gate['target']:.4g}{' (default)' if gate.get('default') else ''}"
            for gate in report.document["gates"]
            if not gate["passed"]
        ]
        # Each of several seeds has files of its own; the first stands for them.
        first = self.path / f"seed-{self.seeds[0]}" if self.seeds else self.path
        return "\n".join(
            [
                f"{report.verdict.upper()}  {report.headline}",
                *failed,
                *(f"  warning: {warning}" for warning in report.warnings),
                f"gates   {report.document['verdict']['summary']}",
                f"report  {self.path / 'report.html'}",
                f"files   {first / 'exports'}",
                f"talk    distill2edge chat {first}",
                *(f"seed    {self.path / f'seed-{seed}' / 'report.html'}" for seed in self.seeds),
            ]
        )


def open_run(target: Path | str, *, store: Path | str | None = None) -> Run:
    """A run that was finished before.

        run = d2e.open_run("runs/tickets")
        print(run)

    Args:
        target: its directory, or its recipe (whose run lies in runs/NAME).
        store: where its artifacts are; by default $DISTILL2EDGE_STORE.

    Raises:
        UserError: nothing was run there.
    """
    return Run(find_run(Path(target)), open_store(store))
