"""The graph of a recipe: which stages, each after those it reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from distill2edge.quantize.schemes import UNTRAINED_SUFFIX, parse_scheme
from distill2edge.stages.calibrating import Calibration, Role, Sensitivity
from distill2edge.stages.exporting import Export
from distill2edge.stages.grid import StudentSignal, TrainOnGrid
from distill2edge.stages.learning import (
    ASSISTANT,
    ASSISTED,
    CONTROL,
    UNVERIFIED,
    InitStudent,
    Merge,
    Pretrain,
    Train,
    control_of,
)
from distill2edge.stages.measuring import Bench, Judge, Verify
from distill2edge.stages.on_policy import WARM, OnPolicySignal, TrainOnPolicy
from distill2edge.stages.report import Report
from distill2edge.stages.rounds import VERIFIED, RoundSignal, ScoreRounds, of_round
from distill2edge.stages.sources import Sources
from distill2edge.stages.stage import Rows, Stage
from distill2edge.stages.teaching import Data, Fit, References, Signal, Synthesis, Teacher
from distill2edge.tasks import task_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distill2edge.quantize.schemes import Scheme
    from distill2edge.recipe.schema import Distill, Recipe
    from distill2edge.util.progress import Progress

Kind = TypeVar("Kind", bound=Stage)


def build_stages(
    recipe: Recipe, progress: Progress, converter: Path | None = None, *, seed: int | None = None
) -> list[Stage]:
    """Every stage of a recipe, each after those it reads.

    Args:
        converter: as `Sources`.
        seed: of the training, where it is one of several: rows, teacher and signal are those of the recipe's own seed.

    Raises:
        UserError: a model or data source that does not exist.
        EnvironmentFault: a hub or bundled source that cannot be reached; checks that cannot be isolated here.
    """
    shared = Sources(recipe, progress, converter)
    shared.check()
    if seed is None or seed == recipe.seed:
        return Graph(shared, shared).build()
    return Graph(Sources(recipe.model_copy(update={"seed": seed}), progress, converter), shared).build()


class Graph:
    """A recipe's stages as they are added.

    Args:
        sources: of the recipe.
        shared: of the stages that several seeds have in common.
    """

    def __init__(self, sources: Sources, shared: Sources) -> None:
        self.sources, self.recipe, self._shared = sources, sources.recipe, shared
        self.stages: list[Stage] = []

    def add(self, kind: type[Kind], **given: Any) -> Kind:
        """A stage; its parents are among `given`."""
        stage = kind(sources=self.sources, **given)
        if kind.shared and all(parent.sources is self._shared for parent in stage.reads):
            stage = kind(sources=self._shared, **given)
        self.stages.append(stage)
        return stage

    def build(self) -> list[Stage]:
        """The whole of it."""
        from distill2edge.recipe.scratch import Scratch

        recipe, add = self.recipe, self.add
        data = add(Data)
        base = add(Teacher, data=data if isinstance(recipe.teacher.model, Scratch) else None)
        teacher = base if recipe.teacher.fit is None else add(Fit, data=data, base=base)
        made = None if recipe.synthesis is None else add(Synthesis, data=data, base=base, teacher=teacher)
        if recipe.without_references:
            made = add(References, data=data, base=base, teacher=teacher)
        rows, signal = Rows(data, made), None
        student = None
        of_text = recipe.student.trim is not None and recipe.signal.kind == "text"  # its tokens are those of the signal
        if (recipe.student.trim is not None or recipe.student.init.width is not None) and not of_text:
            student = self.begun(data, base, rows, teacher)  # what it cannot do without is known before the signal
        if recipe.signal.kind != "gold" and recipe.rounds is None:
            signal = add(Signal, rows=rows, teacher=teacher, base=base if recipe.signal.kind == "text" else None)
        if student is None:
            student = self.begun(data, base, rows, teacher, signal if of_text else None)

        control = rounds = taught = None
        untaught, beside = student, teacher
        if recipe.rounds is not None:
            trained, merged, rounds = self.self_improved(data, base, teacher, student)
        else:
            if recipe.student.assistant is not None:
                taught, beside, student = self.assisted(student, signal)
            trained, merged = self.distilled(rows, teacher, beside, student, signal)
        compared: tuple[Merge, ...] = ()
        if recipe.distill.control and recipe.rounds is None:
            control, of_control = self.one_pass(
                CONTROL, rows, teacher, untaught, None, control_of(recipe.distill, task_of(recipe).gold_term), "gold"
            )
            compared = (of_control,)
        baselines = tuple(map(parse_scheme, recipe.verify.teacher_schemes))
        exports = (
            *self.exported("student", rows, base, merged, recipe.schemes, signal, beside, student),
            *self.exported("teacher", rows, base, teacher, baselines),
        )
        looked_at = {"rows": rows, "base": base, "teacher": teacher, "student": student}
        everything = {**looked_at, "merged": (merged, *compared), "exports": exports}
        labels = None if recipe.teacher.ask is None else signal
        verify, judge = add(Verify, **everything, labels=labels), None
        if recipe.verify.judge is not None:
            ships = tuple(export for export in exports if export.ships)
            judge = add(Judge, **looked_at, merged=(merged,), exports=ships)
        bench = add(Bench, **everything)
        add(
            Report, rows=rows, base=base, student=student, assistant=taught, trained=trained, merged=merged,
            control=control, exports=exports, rounds=rounds, verify=verify, judge=judge, bench=bench,
            everything=tuple(self.stages),
        )  # fmt: skip
        return self.stages

    def begun(self, data: Stage, base: Stage, rows: Rows, teacher: Stage, written: Stage | None = None) -> InitStudent:
        """The student before it is trained."""
        asked = self.recipe.student.pretrain
        pretrained = None if asked is None else self.add(Pretrain, data=data, base=base)
        return self.add(InitStudent, rows=rows, teacher=teacher, pretrained=pretrained, written=written)

    def assisted(self, plain: InitStudent, signal: Stage | None) -> tuple[Stage, Merge, InitStudent]:
        """The training of a larger student, that student, and the one that starts from its layers.

        Args:
            plain: the student as it starts without one.
        """
        from distill2edge.recipe.assistant import of_assistant

        recipe = of_assistant(self.recipe)
        rows, teacher = plain.rows, plain.teacher
        begun = self.add(InitStudent, arm=ASSISTANT, as_recipe=recipe, rows=rows, teacher=teacher, pretrained=None)
        trained, merged = self.one_pass(
            ASSISTANT, rows, teacher, begun, signal, recipe.distill, recipe.signal.kind, recipe
        )
        return trained, merged, self.add(
            InitStudent, arm=ASSISTED, rows=rows, teacher=teacher, pretrained=None, written=plain.written,
            assistant=(begun, merged),
        )  # fmt: skip

    def one_pass(
        self,
        arm: str,
        rows: Rows,
        beside: Stage,
        student: Stage,
        signal: Stage | None,
        training: Distill,
        kind: str,
        as_recipe: Recipe | None = None,
    ) -> tuple[Stage, Merge]:
        """One training and its merge.

        Args:
            beside: what intermediate layers are compared with, where they are.
        """
        own = {"arm": arm, "as_recipe": as_recipe, "rows": rows, "student": student}
        learns = {"signal": signal, "training": training, "signal_kind": kind}
        trained = self.add(Train, **own, teacher=beside if training.loss.needs_layers else None, **learns)
        return trained, self.add(Merge, **own, trained=trained)

    def distilled(
        self, rows: Rows, teacher: Stage, beside: Stage, student: Stage, signal: Stage | None
    ) -> tuple[Stage, Merge]:
        """A pass over the signal; then, on-policy, rounds in which the student writes. The last has the plain names."""
        from distill2edge.distill.on_policy_rounds import training_of

        recipe, policy = self.recipe, self.recipe.distill.on_policy
        first = "" if policy is None else WARM
        trained, model = self.one_pass(first, rows, beside, student, signal, recipe.distill, recipe.signal.kind)
        for number in range(1, policy.rounds + 1) if policy is not None else ():
            assert policy is not None
            own = f"on-policy {number}"
            arm, given = "" if number == policy.rounds else own, Rows(rows.data)
            written = self.add(OnPolicySignal, arm=own, data=rows.data, teacher=teacher, model=model, number=number)
            trained = self.add(
                TrainOnPolicy, arm=arm, rows=given, student=model, signal=written,
                training=training_of(recipe.distill, policy), number=number,
            )  # fmt: skip
            model = self.add(Merge, arm=arm, rows=given, student=model, trained=trained)
        return trained, model

    def self_improved(
        self, data: Stage, base: Stage, teacher: Stage, student: Stage
    ) -> tuple[Stage, Merge, ScoreRounds]:
        """Rounds in which the student writes in the teacher's place. The last verified one has the plain names."""
        recipe, spec = self.recipe, self.recipe.rounds
        assert spec is not None
        models: dict[str, tuple[Stage, ...]] = {}
        signals: dict[str, tuple[Stage, ...]] = {}
        for arm in (VERIFIED, UNVERIFIED) if spec.unverified else (VERIFIED,):
            models[arm], signals[arm] = (student,), ()
            for number in range(1, spec.count + 1):
                name = "" if arm == VERIFIED and number == spec.count else f"{arm} {number}"
                own = {"arm": name, "as_recipe": of_round(recipe, arm, number)}
                model = models[arm][-1]
                signal = self.add(
                    RoundSignal, **own, data=data, base=base, teacher=teacher, model=model, number=number,
                    verified=arm == VERIFIED,
                )  # fmt: skip
                trained = self.add(
                    Train, **own, rows=Rows(data), student=model, teacher=None, signal=signal,
                    training=recipe.distill, signal_kind="text", number=number,
                )  # fmt: skip
                merged = self.add(Merge, **own, rows=Rows(data), student=model, trained=trained)
                models[arm], signals[arm] = (*models[arm], merged), (*signals[arm], signal)
                if not name:
                    last = trained, merged
        return *last, self.add(ScoreRounds, data=data, models=models, signals=signals)

    def exported(
        self,
        role: Role,
        rows: Rows,
        base: Stage,
        model: Stage,
        schemes: Sequence[Scheme],
        signal: Stage | None = None,
        teacher: Stage | None = None,
        student: Stage | None = None,
    ) -> list[Export]:
        """The files of a model, and what they are rounded by and trained on."""
        recipe, add = self.recipe, self.add
        of = {"arm": role, "role": role, "rows": rows, "model": model}
        formats = tuple(sorted({scheme.format for scheme in schemes if scheme.mix}))
        calibration = sensitivity = None
        if formats or any(map(recipe.calibrated, schemes)):
            calibration = add(Calibration, **of, grams=recipe.gptq or bool(formats))
        if formats:
            sensitivity = add(Sensitivity, **of, calibration=calibration, formats=formats)
        on_grid = set(map(str, recipe.trained_schemes)) if role == "student" else set()
        trained_more, learns = recipe.distill.quantization_aware, {"signal": signal, "own": None}
        if on_grid and trained_more is not None:
            if trained_more.signal_from == "student":
                learns["own"] = add(StudentSignal, arm=role, rows=rows, model=model, signal=signal)
            if recipe.distill.on_grid.loss.needs_layers:
                learns |= {"teacher": teacher, "student": student}
        found: dict[str, Export] = {}
        for scheme in sorted(schemes, key=lambda scheme: str(scheme) in on_grid):  # what training starts from: first
            source, by = model, calibration if scheme.mix or recipe.calibrated(scheme) else None
            chosen_by, untrained = sensitivity if scheme.mix else None, None
            if str(scheme) in on_grid:
                before = found[f"{scheme}{UNTRAINED_SUFFIX}"]
                source = add(
                    TrainOnGrid, arm=str(scheme), rows=rows, model=model, untrained=before,
                    rounded_by=by if scheme.mix or recipe.gptq else None, scheme=scheme, **learns,
                )  # fmt: skip
                if scheme.mix:
                    by, chosen_by, untrained = None, None, before
            found[str(scheme)] = add(
                Export, arm=f"{role}/{scheme}", rows=rows, base=base, model=source, calibration=by,
                sensitivity=chosen_by, untrained=untrained, role=role, scheme=scheme,
            )  # fmt: skip
        return list(found.values())
