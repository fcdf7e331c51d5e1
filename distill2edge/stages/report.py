"""The last stage: the documents of all others, joined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data import ledger
from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.stage import Facts, Inputs, Rows, Stage, plain
from distill2edge.util.files import read_json, write_json, write_text

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost
    from distill2edge.planning.sizes import Sizes
    from distill2edge.recipe.schema import Recipe
    from distill2edge.stages.exporting import Export
    from distill2edge.util.progress import Progress


@plain
class Report(Stage):
    """JSON, page, Markdown and model card.

    Attributes:
        assistant: its training.
        everything: all other stages, whose time and money the cost report counts.
    """

    rows: Rows
    base: Stage
    student: Stage
    assistant: Stage | None
    trained: Stage
    merged: Stage
    control: Stage | None
    exports: tuple[Export, ...]
    rounds: Stage | None
    verify: Stage
    judge: Stage | None
    bench: Stage
    everything: tuple[Stage, ...]

    kind = "report"
    version = 9
    files = Files(("*.json", "*.html", "*.md"))
    bucket = "evaluation"
    help = "Join what the other stages found into the report."
    command = False
    published = ("report.json", "report.html", "report.md", "model_card.md")

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        return {"recipe": canonical(self.recipe.of_one_process)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.cost.cost_document import build_cost
        from distill2edge.recipe.kept import told
        from distill2edge.report.card import render_card
        from distill2edge.report.document import build_report
        from distill2edge.report.html import render_html
        from distill2edge.report.markdown import render_markdown

        def read(stage: Stage | None, name: str) -> Any:
            return None if stage is None else read_json(stage.path(inputs) / name)

        seconds: Counter[str] = Counter()
        paid: Counter[str] = Counter()
        ledgers, labels = {}, None
        for stage in self.everything:
            artifact = stage.artifact(inputs)
            seconds[stage.spent_on] += float(artifact.manifest["wall_s"])
            if (artifact.path / ledger.FILE).is_file():
                found = ledgers[stage.name] = ledger.summary(ledger.read(artifact.path))
                paid[stage.spent_on] += float(found["cost_usd"])
            if "asked_by" in artifact.facts:
                labels = artifact.facts
                paid[stage.spent_on] += float(labels.get("usd", 0.0))
            elif artifact.facts.get("kind") == "logits":  # of a served teacher
                paid[stage.spent_on] += float(artifact.facts.get("usd", 0.0))
        if self.judge is not None:  # an endpoint was paid for the answers to compare with
            paid[self.judge.spent_on] += float(self.judge.artifact(inputs).facts.get("endpoint", {}).get("usd", 0.0))
        verify, bench = read(self.verify, "verify.json"), read(self.bench, "bench.json")
        cost = build_cost(self.recipe.cost, bench, verify, seconds, paid)
        write_json(work / "cost.json", cost)
        report = build_report(
            run_document(self.recipe, inputs),
            read(self.rows.made or self.rows.data, "data.json"),
            read(self.base, "teacher.json"),
            read(self.student, "student.json"),
            read(self.trained, "train.json"),
            read(self.merged, "merge.json"),
            [{**read(each, "export.json"), "model": each.id} for each in self.exports if each.role == "student"],
            verify,
            bench,
            cost,
            control=read(self.control, "train.json"),
            assistant=read(self.assistant, "train.json"),
            rounds=read(self.rounds, "rounds.json"),
            judge=read(self.judge, "judge.json"),
            ledgers=ledgers,
            labels=labels,
        )
        report = told(report, self.recipe)
        write_json(work / "report.json", report)
        write_text(work / "report.html", render_html(report))
        write_text(work / "report.md", render_markdown(report))
        write_text(work / "model_card.md", render_card(report))
        return {"verdict": verify["verdict"], "headline": report["headline"]}

    def estimate(self, sizes: Sizes, speed: float) -> Cost:
        """As `Stage.estimate`."""
        from distill2edge.planning.costs import JOINED

        return JOINED


def run_document(recipe: Recipe, inputs: Mapping[str, Artifact]) -> Facts:
    """What was run: the resolved recipe, every stage with its key and time, versions and machine."""
    from distill2edge.recipe.kept import run_command, told
    from distill2edge.util.machine import machine, versions

    # Stages of another seed are those that several seeds share.
    one_of_several = any(artifact.manifest["seed"] != recipe.seed for artifact in inputs.values())
    return {
        "schema_version": 1,
        "name": recipe.name,
        "description": recipe.description,
        "recipe": told(recipe.of_one_process.model_dump(mode="json", by_alias=True), recipe),
        "recipe_path": "recipe.yaml",
        "seed": recipe.seed,
        "created": max(artifact.manifest["created"] for artifact in inputs.values()),
        "command": run_command(recipe, (recipe.seed,) if one_of_several else ()),
        "stages": [
            {"stage": name, "key": artifact.key, "wall_s": artifact.manifest["wall_s"]}
            for name, artifact in inputs.items()
        ],
        "environment": {"versions": versions(), "machine": machine()},
    }
