"""The stages of a run: one class each, and the graph that a recipe makes of them."""

from distill2edge.stages.calibrating import Calibration, Sensitivity
from distill2edge.stages.exporting import Export
from distill2edge.stages.graph import build_stages
from distill2edge.stages.grid import TrainOnGrid
from distill2edge.stages.learning import AnyTraining, InitStudent, Merge, Pretrain
from distill2edge.stages.measuring import Bench, Judge, Verify
from distill2edge.stages.report import Report
from distill2edge.stages.rounds import ScoreRounds
from distill2edge.stages.stage import Inputs, Stage
from distill2edge.stages.teaching import AnySignal, Data, Fit, References, Synthesis, Teacher

KINDS: dict[str, type[Stage]] = {
    stage.kind: stage
    for stage in (
        Data, Teacher, Fit, Synthesis, References, AnySignal, Pretrain, InitStudent, AnyTraining, Merge, ScoreRounds,
        Calibration, Sensitivity, TrainOnGrid, Export, Verify, Judge, Bench, Report,
    )
}  # fmt: skip
"""By kind, in the order of a run."""

__all__ = ["KINDS", "Export", "Inputs", "Stage", "build_stages"]
