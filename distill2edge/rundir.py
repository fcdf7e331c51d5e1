"""The report's documents, and the run directory: report, model card, and the files to ship."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge import ledger
from distill2edge.errors import UserError
from distill2edge.files import read_json, write_json, write_text
from distill2edge.pipeline import Done, Inputs
from distill2edge.recipe.schema import Recipe
from distill2edge.schemes import is_compared
from distill2edge.store import Artifact

Document = dict[str, Any]
_DOCUMENTS = ("report.json", "report.html", "report.md", "model_card.md")


def write_documents(recipe: Recipe, inputs: Inputs, work: Path) -> Document:
    """Join the stages' documents into report.json, and render it.

    Returns:
        facts: the verdict and the headline.
    """
    from distill2edge.cost.build import build_cost
    from distill2edge.report.build import build_report
    from distill2edge.report.card import render_card
    from distill2edge.report.html import render_html
    from distill2edge.report.markdown import render_markdown

    verify, bench = read_json(inputs["verify"].path / "verify.json"), read_json(inputs["bench"].path / "bench.json")
    seconds = {name: float(artifact.manifest["wall_s"]) for name, artifact in inputs.items()}
    ledgers = {
        name: ledger.summary(ledger.read(artifact.path))
        for name, artifact in inputs.items()
        if (artifact.path / ledger.FILE).is_file()
    }
    paid = sum(float(found["cost_usd"]) for found in ledgers.values())
    if "judge" in inputs:  # an endpoint was paid for the answers to compare with
        paid += float(inputs["judge"].facts.get("endpoint", {}).get("usd", 0.0))
    cost = build_cost(recipe.cost, bench, verify, seconds, paid_usd=paid)
    write_json(work / "cost.json", cost)
    exports = [
        {**read_json(artifact.path / "export.json"), "model": name.removeprefix("export ")}
        for name, artifact in inputs.items()
        if name.startswith("export student/")
    ]
    control = inputs.get("distill control")
    report = build_report(
        run_document(recipe, inputs),
        read_json((inputs["synthesis"] if "synthesis" in inputs else inputs["data"]).path / "data.json"),
        read_json(inputs["teacher"].path / "teacher.json"),
        read_json(inputs["student"].path / "student.json"),
        read_json(inputs["distill"].path / "train.json"),
        read_json(inputs["merge"].path / "merge.json"),
        exports,
        verify,
        bench,
        cost,
        control=read_json(control.path / "train.json") if control else None,
        rounds=read_json(inputs["rounds"].path / "rounds.json") if "rounds" in inputs else None,
        judge=read_json(inputs["judge"].path / "judge.json") if "judge" in inputs else None,
        ledgers=ledgers,
    )
    write_json(work / "report.json", report)
    write_text(work / "report.html", render_html(report))
    write_text(work / "report.md", render_markdown(report))
    write_text(work / "model_card.md", render_card(report))
    return {"verdict": verify["verdict"], "headline": report["headline"]}


def run_document(recipe: Recipe, inputs: Inputs) -> Document:
    """What was run: the resolved recipe, every stage with its key and time, versions and machine."""
    from distill2edge.machine import machine, versions

    return {
        "schema_version": 1,
        "name": recipe.name,
        "description": recipe.description,
        "recipe": recipe.model_dump(mode="json", by_alias=True),
        "recipe_path": "recipe.yaml",
        "seed": recipe.seed,
        "created": max(artifact.manifest["created"] for artifact in inputs.values()),
        "command": "distill2edge run recipe.yaml",
        "stages": [
            {"stage": name, "key": artifact.key, "wall_s": artifact.manifest["wall_s"]}
            for name, artifact in inputs.items()
        ],
        "environment": {"versions": versions(), "machine": machine()},
    }


def publish(recipe: Recipe, recipe_text: str, done: Sequence[Done], out: Path) -> None:
    """Fill the run directory from the artifacts of a finished run: documents, recipe, files to ship.

    Files are hard links where the file system allows it, so that they cost no room.
    """
    artifacts = {item.stage.name: item.artifact for item in done}
    out.mkdir(parents=True, exist_ok=True)
    for name in _DOCUMENTS:
        _link(artifacts["report"].path / name, out / name)
    write_text(out / "recipe.yaml", recipe_text)
    write_json(out / "run.json", run_document(recipe, artifacts))
    for old in (*out.glob("ledger-*.parquet"), *out.glob("judge.json")):
        old.unlink()
    if "judge" in artifacts:
        _link(artifacts["judge"].path / "judge.json", out / "judge.json")
    for name, artifact in artifacts.items():
        if (artifact.path / ledger.FILE).is_file():
            _link(artifact.path / ledger.FILE, out / f"ledger-{name.replace(' ', '-')}.parquet")
    exports = out / "exports"
    shutil.rmtree(exports, ignore_errors=True)
    for name, artifact in artifacts.items():
        if name.startswith("export student/") and not is_compared(name):
            _publish_export(recipe.name, name.removeprefix("export student/"), artifact, exports)


def _publish_export(name: str, scheme: str, artifact: Artifact, exports: Path) -> None:
    """GGUF as one file with the run's name; ONNX as a directory, since its runtimes look for fixed names."""
    slug = scheme.replace(":", "-")
    if scheme.startswith("gguf:"):
        _link(artifact.path / "model.gguf", exports / f"{name}-{scheme.removeprefix('gguf:')}.gguf")
        return
    for entry in artifact.manifest["files"]:
        if entry["path"] != "export.json":
            _link(artifact.path / entry["path"], exports / f"{name}-{slug}" / entry["path"])


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


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
        raise UserError("no report here", where=str(directory), fix=f"distill2edge run {target}")
    return directory


def load_report(target: Path) -> Document:
    """report.json of a run.

    Raises:
        UserError: nothing was run there, or it is not readable.
    """
    path = find_run(target) / "report.json"
    try:
        report: Document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not JSON: {error}", where=str(path), fix="run the recipe again") from error
    return report
