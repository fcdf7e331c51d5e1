"""The recipe: frozen sections, every field with its default, unit and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from distill2edge.errors import Problem
from distill2edge.quantize.schemes import PLAIN_SUFFIX, UNTRAINED_SUFFIX, Scheme, parse_scheme
from distill2edge.recipe import coherence
from distill2edge.recipe.after_training import Bench, Quantize, Verify
from distill2edge.recipe.costs import Cost, Place
from distill2edge.recipe.data_section import Data, Leakage, Splits
from distill2edge.recipe.entries import ExportEntry
from distill2edge.recipe.on_policy import OnPolicy
from distill2edge.recipe.rounds import Rounds
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.signals import FORM, SIGNALS, GoldSignal, LabelsSignal, LogitsSignal, Signal, TextSignal
from distill2edge.recipe.student import FromModel, FromTeacher, Init, Student
from distill2edge.recipe.synthesis import Synthesis
from distill2edge.recipe.teacher import Fit, Teacher
from distill2edge.recipe.training import Lora, Loss, QuantizationAware, Training, one_scheme
from distill2edge.tasks import TASKS, task_of
from distill2edge.tasks.features import CALIBRATION

__all__ = [
    "LATER",
    "Bench",
    "Cost",
    "Data",
    "Fit",
    "FromModel",
    "FromTeacher",
    "GoldSignal",
    "Init",
    "LabelsSignal",
    "Leakage",
    "LogitsSignal",
    "Lora",
    "Loss",
    "Place",
    "Quantize",
    "Signal",
    "Splits",
    "Student",
    "TextSignal",
    "Training",
    "Verify",
]  # and what is defined here

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]


class Distill(Training):
    """How the student learns."""

    loss: Loss = Loss(ce=0.5, forward_kl=0.5)  # type: ignore[call-arg]
    chunk: int = Field(256, ge=1, le=2**20, description="supervised positions whose logits are in memory at once")
    control: bool = Field(
        False, description="also train the same student on the data's own responses without the teacher, and compare"
    )
    dropout: Annotated[float | None, LATER] = Field(
        None,
        ge=0,
        le=0.9,
        description="of the student's layers while it is trained (an adapter has its own); 0 where it is to give what "
        "the teacher gives, and nothing else; null: as its configuration says",
    )
    on_policy: Annotated[OnPolicy | None, LATER] = Field(
        None, description="then rounds in which the student writes and the teacher scores each token; null: none"
    )
    quantization_aware: Annotated[QuantizationAware | None, BeforeValidator(one_scheme), LATER] = Field(
        None,
        description="train once more on the grid of a scheme that ships, or of several; a scheme alone takes the "
        "defaults; null: the files are rounded from the trained student",
        examples=["gguf:Q4_0", {"schemes": ["gguf:Q4_0", "onnx:int4-b32"], "epochs": 0.5}],
    )

    @property
    def on_grid(self) -> Distill:
        """The training on the grid of a file, as a section like this one.

        Raises:
            ValueError: there is none.
        """
        section = self.quantization_aware
        if section is None:
            raise ValueError("the recipe trains on no grid")
        own = {name: getattr(section, name) for name in Training.model_fields}
        loss = section.loss or self.loss
        return self.model_copy(update={**own, "loss": loss, "control": False, "quantization_aware": None})


class Recipe(Section):
    """One YAML file: everything a run needs."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="names the run directory and the files")
    description: str = ""
    folder: Annotated[str | None, LATER] = Field(
        None,
        exclude=True,  # where a file lies is no part of what it asks for
        description="where relative paths start, itself relative to this file; null: the folder of this file. A run "
        "writes it into the copy that it keeps",
    )
    task: TaskName = "causal-lm"
    seed: int = Field(0, ge=0, lt=2**32)
    teacher: Teacher
    data: Data
    synthesis: Annotated[Synthesis | None, LATER] = Field(
        None, description="rows that the teacher makes of the data's; null: the data's own rows"
    )
    signal: Signal = Field(
        LogitsSignal(),  # type: ignore[call-arg]
        description="what the student learns from the teacher",
        examples=[
            {"kind": "logits", "top_k": 64, "temperature": 2.0},
            {"kind": "logits", "sample": 50, "temperature": 1.0},
            {"kind": "text", "max_new_tokens": 128},
            {"kind": "labels"},
            {"kind": "embeddings"},
            {"kind": "numbers"},
            {"kind": "gold"},
        ],
    )
    student: Student
    distill: Distill = Distill()  # type: ignore[call-arg]
    rounds: Annotated[Rounds | None, LATER] = Field(
        None, description="self-improvement: the student writes in the teacher's place; null: one pass from the teacher"
    )
    export: tuple[ExportEntry, ...] = Field(
        ("onnx:int8", "onnx:int4-b32", "gguf:Q8_0", "gguf:Q4_K_M"),
        min_length=1,
        description="schemes to ship; {format: gguf, budget: 90MB} (also gguf:mix-90MB) chooses a type for each "
        "tensor so that the whole file fits, {format: onnx, max_kl: 0.05} (onnx:mix-kl0.05) the smallest file of that "
        "KL to the student; both formats take both limits",
        examples=[
            ["onnx:int8", "gguf:Q4_K_M"],
            [{"format": "gguf", "budget": "90MB"}, {"format": "onnx", "max_kl": 0.05}],
        ],
    )
    quantize: Annotated[Quantize, LATER] = Quantize()  # type: ignore[call-arg]
    verify: Verify = Verify()  # type: ignore[call-arg]
    bench: Bench = Bench()  # type: ignore[call-arg]
    cost: Cost = Cost()  # type: ignore[call-arg]

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """The parsed `export` entries, and the arms to compare with: not trained on the grid, not calibrated."""
        asked = tuple(parse_scheme(text) for text in self.export)
        untrained = tuple(parse_scheme(f"{scheme}{UNTRAINED_SUFFIX}") for scheme in self.trained_schemes)
        plain: tuple[Scheme, ...] = ()
        if self.quantize.compare and self.calibrates:
            plain = tuple(parse_scheme(f"{scheme}{PLAIN_SUFFIX}") for scheme in asked if self.calibrated(scheme))
        return (*asked, *untrained, *plain)

    @property
    def trained_schemes(self) -> tuple[Scheme, ...]:
        """Those on whose grid the student is trained once more."""
        section = self.distill.quantization_aware
        return () if section is None else tuple(parse_scheme(text) for text in section.schemes)

    @property
    def losses(self) -> tuple[tuple[tuple[str, ...], Loss], ...]:
        """Every loss that the recipe weighs, with its key."""
        first, section = ("distill", "loss"), self.distill.quantization_aware
        own = None if section is None else section.loss
        return (
            (first, self.distill.loss),
            *(() if own is None else ((("distill", "quantization_aware", "loss"), own),)),
        )

    @property
    def of_one_process(self) -> Self:
        """The same, without the machines that work: no part of any key, and nothing to tell other people."""
        if self.teacher.workers is None:
            return self
        return self.model_copy(update={"teacher": self.teacher.model_copy(update={"workers": None})})

    @property
    def without_references(self) -> bool:
        """Whether the student writes, and no row says what: the teacher's answers are what it is compared with."""
        return self.data.response is None and task_of(self).predicts_tokens

    @property
    def scored_elsewhere(self) -> bool:
        """Whether an endpoint gives log-probabilities of the rows' own texts."""
        return self.teacher.url is not None and self.signal.kind == "logits"

    @property
    def has_dense_teacher(self) -> bool:
        """Whether PyTorch has the teacher's weights: it can be measured, exported and taken apart."""
        return self.teacher.url is None and self.teacher.dequantize

    @property
    def student_signal(self) -> Signal:
        """What is kept of what the student itself says, for training on a grid: that is matched as it is."""
        kind = SIGNALS[task_of(self).signals[0]]
        asked = self.signal.model_dump(include=FORM) if isinstance(self.signal, LogitsSignal) else {}
        plain = {"temperature": 1.0} if "temperature" in kind.model_fields else {}
        return kind(**asked, **plain)  # type: ignore[return-value]

    @property
    def calibration_rows(self) -> int:
        """Rows of the calibration split: those of a synthesis, where it holds some out."""
        made = self.synthesis.held_out.calibration if self.synthesis is not None else 0
        return made or self.data.splits.calibration

    @property
    def calibrates(self) -> bool:
        """Whether files are rounded by what the calibration rows show."""
        able = CALIBRATION in task_of(self).supports and self.calibration_rows > 0
        return self.quantize.calibration in ("imatrix", "gptq") or (self.quantize.calibration == "auto" and able)

    @property
    def gptq(self) -> bool:
        """Whether their errors are compensated too."""
        return self.quantize.calibration == "gptq"

    def calibrated(self, scheme: Scheme) -> bool:
        """Whether a file of this scheme is: a mix has statistics of its own."""
        return self.calibrates and (scheme.compensates if self.gptq else scheme.calibrates)

    def problems(self) -> Iterator[Problem]:
        """What its sections ask of each other."""
        return coherence.problems(self)

    @model_validator(mode="after")
    def _with_form(self) -> Self:
        # The one key whose default others decide; from here on it stands in the recipe.
        if isinstance(self.signal, LogitsSignal) and self.signal.formless and self.signal.align == "none":
            sampled = self.model_copy(update={"signal": self.signal.as_sample})
            if not any(coherence.of_sample(sampled)):
                object.__setattr__(self, "signal", sampled.signal)
        return self
