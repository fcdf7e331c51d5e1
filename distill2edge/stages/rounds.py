"""The stages of self-improvement: a model writes, what it wrote is checked, it is trained on what is left.

Every round is three stages like any other (`signal`, `distill`, `merge`), cached and resumed by the store. The
student's own path is the verified arm, whose last round carries the plain names; beside it the same without checks; and
the model as it was, which trains no more. The warning is Llama 3's (Grattafiori 2024, arXiv 2407.21783).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.pipeline.stage_files import Files
from distill2edge.stages.learning import UNVERIFIED, is_compared_arm, round_seed
from distill2edge.stages.sharing import by_workers
from distill2edge.stages.stage import Facts, Inputs, ModelStage, Stage, plain, rows_key
from distill2edge.stages.teaching import LEDGER, AnySignal
from distill2edge.tasks import task_of
from distill2edge.util.files import write_json

if TYPE_CHECKING:
    from distill2edge.planning.costs import Cost, Work
    from distill2edge.recipe.schema import Recipe
    from distill2edge.util.progress import Progress

VERIFIED, NONE = "verified", "no self-training"


@plain
class RoundSignal(AnySignal):
    """What the model of a round writes, and keeps of it.

    Attributes:
        base, teacher: the teacher as fetched, and as fitted.
        model: that writes.
        number: of the round, from 1.
        verified: whether what it wrote is checked.
    """

    data: Stage
    base: Stage
    teacher: Stage
    model: Stage
    number: int
    verified: bool

    by_workers = True

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        from distill2edge.recipe.canonical import canonical

        key = {"signal": canonical(self.recipe.signal), "rows": rows_key(self.recipe), "ledger": LEDGER}
        return {**key, "round": self.number, "read": self.sources.verifiers if self.verified else None}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""

        origin, rows, model = self.base.artifact(inputs).facts, self.data.path(inputs), self.model.model_dir(inputs)
        with by_workers(self.recipe, model, progress):
            return task_of(self.recipe).work.signal(self.recipe, model, origin, rows, work, progress)

    @property
    def evidence(self) -> bool:
        """As `Stage.evidence`."""
        return is_compared_arm(self.arm)


@plain
class ScoreRounds(ModelStage):
    """`rounds.json`: the exact match of every model of every arm on the held-out rows, row by row.

    Attributes:
        models: of each arm, that before its first round first.
        signals: of each arm, one for each round.
    """

    data: Stage
    models: dict[str, tuple[Stage, ...]]
    signals: dict[str, tuple[Stage, ...]]

    kind = "rounds"
    version = 2
    files = Files(("rounds.json",))
    bucket = "evaluation"
    help = "Score the model of every round, where the recipe has rounds."
    command = False

    @property
    def section(self) -> Any:
        """As `Stage.section`."""
        recipe = self.recipe
        assert recipe.rounds is not None
        key = {"verify_rows": recipe.verify.rows, "rows": rows_key(recipe)}
        return {**key, "count": recipe.rounds.count, "arms": list(self.models)}

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> Facts:
        """As `Stage.write`."""
        from distill2edge.data.split_files import read_rows
        from distill2edge.util.proportions import proportion_interval
        from distill2edge.verify.exact import exact_match

        recipe = self.recipe
        rows = read_rows(self.data.path(inputs), "test")[: recipe.verify.rows]
        written = dict.fromkeys(model for models in self.models.values() for model in models)
        right: dict[Stage, list[float]] = {}
        with progress.task("score rounds", len(written)) as task:
            for model in written:
                right[model] = exact_match(recipe, model.model_dir(inputs), rows)
                task.advance(note=f"{sum(right[model]) / len(rows):.3f}")
        arms: dict[str, list[Facts]] = {}
        for arm, models in self.models.items():
            arms[arm] = []
            for number, model in enumerate(models):
                facts = self.signals[arm][number - 1].artifact(inputs).facts if number else {}
                arms[arm].append(
                    {
                        "round": number,
                        "score": proportion_interval(right[model]).as_dict(),
                        "written": facts.get("rows"),
                        "passed": facts["written"] + facts["duplicate"] if facts else None,
                        "kept": facts.get("written"),
                        "right": right[model],
                    }
                )
        start = arms[VERIFIED][0]
        arms[NONE] = [{**start, "round": number} for number in range(len(arms[VERIFIED]))]
        document = {"schema_version": 1, "metric": "exact_match", "rows": len(rows), "arms": arms}
        write_json(work / "rounds.json", document)
        return {arm: [item["score"]["value"] for item in items] for arm, items in arms.items()}

    def cost(self, work: Work) -> Cost:
        """As `ModelStage.cost`."""
        return work.wrote_and_trained()


def of_round(recipe: Recipe, arm: str, number: int) -> Recipe:
    """The recipe of one round of an arm: a seed of its own, and no checks where they are left out."""
    signal = recipe.signal.model_copy(update={"verify": ()}) if arm == UNVERIFIED else recipe.signal
    return recipe.model_copy(update={"signal": signal, "seed": round_seed(recipe, number)})
