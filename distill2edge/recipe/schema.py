"""The recipe: frozen sections, every field with its default, unit and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from distill2edge.errors import Problem
from distill2edge.quantize.schemes import PLAIN_SUFFIX, ROUNDED_BY_GGML, UNTRAINED_SUFFIX, Scheme, parse_scheme
from distill2edge.recipe import coherence
from distill2edge.recipe.choices import problems as choice_problems
from distill2edge.recipe.costs import Cost, Place
from distill2edge.recipe.entries import ExportEntry
from distill2edge.recipe.judge import PairwiseJudge
from distill2edge.recipe.limits import KlLimits, kl_limits
from distill2edge.recipe.on_policy import OnPolicy
from distill2edge.recipe.paths import PathText
from distill2edge.recipe.pretrain import Pretrain
from distill2edge.recipe.ranges import SamplingTemperature, Share, Similarity, Temperature
from distill2edge.recipe.rounds import Rounds
from distill2edge.recipe.scratch import Scratch, StudentModel
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.synthesis import Synthesis
from distill2edge.recipe.teacher import Fit, Teacher
from distill2edge.recipe.training import Lora, Loss, QuantizationAware, Training, one_scheme
from distill2edge.recipe.verifiers import VerifierSpec
from distill2edge.tasks import TASKS
from distill2edge.tasks.features import CALIBRATION

__all__ = ["LATER", "Cost", "Fit", "Lora", "Loss", "Place", "Training"]  # and what is defined here

if TYPE_CHECKING:
    TaskName = str
else:
    TaskName = Literal[tuple(TASKS)]

# --- data -------------------------------------------------------------------


class Splits(Section):
    """How many rows each split gets. A split that the source already has keeps its rows."""

    train: int | None = Field(None, ge=1, description="rows to train on; null takes all that are left")
    validation: int = Field(200, ge=0, description="rows that choose the checkpoint")
    calibration: int = Field(128, ge=0, description="rows that calibrate quantization")
    test: int = Field(500, ge=1, description="held-out rows: verification only")


class Leakage(Section):
    """The check that test rows are not in train."""

    near_duplicate: Similarity = Field(
        0.8, description="Jaccard similarity of word 5-shingles from which two rows are the same"
    )
    max_fraction: float = Field(0.01, ge=0, le=1, description="share of test rows that may leak before we refuse")
    action: Literal["drop", "keep"] = Field(
        "drop", description="drop leaking rows from train when they stay under the limit, or keep them"
    )
    response_in_prompt: Annotated[float, LATER] = Field(
        0.5,
        ge=0,
        le=1,
        description="share of rows whose prompt may hold the response before we refuse; 1 where answers are meant to "
        "be copied out of the prompt; a closed set of choices is not looked at",
    )


class Data(Section):
    """Where the rows come from, and how a row becomes a prompt and a response."""

    source: PathText = Field(
        description="hub id | path of json, jsonl, csv, parquet, arrow or text | package:MODULE/PATH | bundled:NAME"
    )
    config: str | None = Field(None, description="configuration name of a hub data set")
    revision: Annotated[str | None, LATER] = Field(
        None, description="commit, tag or branch of a hub data set; null: its main branch"
    )
    split: str | None = Field(None, description="split to read; null reads all that exist")
    filter: str | None = Field(None, description="Jinja expression over a row; rows for which it is false are left out")
    template: Literal["chat", "plain", "text"] = Field(
        "chat",
        description="chat: the tokenizer's chat template; plain: prompt and response as they are; "
        "text: language modelling on the response alone",
    )
    system: str | None = Field(None, description="system message, with template chat")
    prompt: str = Field("{{ prompt }}", description="Jinja template of the prompt over a row's fields")
    response: str = Field("{{ response }}", description="Jinja template of the response over a row's fields")
    choices: tuple[str, ...] | None = Field(
        None, min_length=2, description="closed set of responses; the task is then scored by their likelihood"
    )
    max_length: int = Field(512, ge=8, le=2**20, description="tokens; longer rows are dropped and counted")
    splits: Splits = Splits()  # type: ignore[call-arg]
    leakage: Leakage = Leakage()  # type: ignore[call-arg]

    def problems(self) -> Iterator[Problem]:
        """Choices that can be told apart."""
        yield from choice_problems(self.choices or ())


# --- teacher and signal -----------------------------------------------------


class LogitsSignal(Section):
    """Top-k log-probabilities and the mass of the tail, at each supervised position."""

    kind: Literal["logits"] = "logits"
    top_k: int = Field(64, ge=1, le=4096)
    temperature: Temperature = 2.0


class TextSignal(Section):
    """Responses that the teacher writes."""

    kind: Literal["text"] = "text"
    max_new_tokens: int = Field(128, ge=1, le=2**20)
    temperature: SamplingTemperature = Field(0.0, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    samples: Annotated[int, LATER] = Field(1, ge=1, le=256, description="responses to each prompt")
    verify: Annotated[tuple[VerifierSpec, ...], LATER] = Field(
        (),
        description="checks in this order; a response that one refuses is dropped, counted and explained",
        examples=[
            [{"kind": "exact"}],
            [{"kind": "numeric", "relative": 0.01}],
            [{"kind": "python", "file": "check.py"}],
            [{"kind": "json-schema", "file": "answer.schema.json"}],
            [{"kind": "regex", "pattern": "yes|no"}, {"kind": "majority"}],
            [{"kind": "likelihood", "min_mean_logprob": -2.0}, {"kind": "judge", "model": "owner/name"}],
        ],
    )

    def problems(self) -> Iterator[Problem]:
        """Samples that differ, and enough of them for a majority."""
        if self.samples > 1 and self.temperature == 0:
            yield Problem(
                ("temperature",), "samples of a greedy teacher are all alike", "set signal.temperature above 0"
            )
        if self.samples < 3 and any(spec.kind == "majority" for spec in self.verify):
            yield Problem(("samples",), "a majority needs at least three samples", "set signal.samples")


class LabelsSignal(Section):
    """Class logits of the whole text, for task classification; the loss compares them at the temperature."""

    kind: Literal["labels"] = "labels"
    temperature: Temperature = 2.0


class GoldSignal(Section):
    """No teacher: the data's own responses (supervised fine-tuning; the control)."""

    kind: Literal["gold"] = "gold"


Signal = Annotated[LogitsSignal | TextSignal | LabelsSignal | GoldSignal, Field(discriminator="kind")]


# --- student and distillation -----------------------------------------------


class FromTeacher(Section):
    """A student made of the teacher's own layers."""

    source: Literal["teacher"] = Field("teacher", alias="from")
    layers: int | tuple[int, ...] = Field(description="how many layers, or which ones (0 is the first)")
    decoder_layers: Annotated[int | tuple[int, ...] | None, LATER] = Field(
        None, description="of an encoder-decoder: those of its decoder, where other than `layers`"
    )
    select: Literal["even", "first", "similarity"] = Field(
        "even", description="even: evenly spaced; first: the lowest; similarity: drop the block that changes least"
    )
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def problems(self) -> Iterator[Problem]:
        """Layers that can be taken at all; how many the teacher has is known later."""
        for name in ("layers", "decoder_layers"):
            layers = getattr(self, name)
            if isinstance(layers, int) and layers < 1:
                yield Problem((name,), f"{layers} layers make no model", "keep at least one")
            if isinstance(layers, tuple):
                twice = sorted({number for number in layers if layers.count(number) > 1})
                if not layers or min(layers) < 0:
                    yield Problem((name,), f"{list(layers)} names no layers", "0 is the first; write [0, 2, 4]")
                elif twice:
                    yield Problem((name,), f"layer {twice[0]} is named twice", "name each layer once")
                elif list(layers) != sorted(layers):
                    yield Problem((name,), "the layers are out of order", f"write {sorted(layers)}")


class FromModel(Section):
    """A student that starts from a checkpoint."""

    model: StudentModel = Field(
        description="hub id | local directory | file.gguf | bundled:NAME | a randomly initialised model: "
        "{architecture: llama, layers: 4, hidden: 128, heads: 4}",
        examples=[
            "owner/name",
            "bundled:all-minilm-l6-v2",
            {"architecture": "llama", "layers": 2, "hidden": 64, "heads": 2},
        ],
    )
    revision: str | None = None


def _init_branch(value: Any) -> str:
    has_model = "model" in value if isinstance(value, dict) else isinstance(value, FromModel)
    return "FromModel" if has_model else "FromTeacher"


Init = Annotated[
    Annotated[FromTeacher, Tag("FromTeacher")] | Annotated[FromModel, Tag("FromModel")], Discriminator(_init_branch)
]


class Student(Section):
    """The model that is trained and shipped."""

    init: Init = Field(
        description="what its weights start from",
        examples=[
            {"from": "teacher", "layers": 16, "select": "first"},
            {"from": "teacher", "layers": [1, 3, 5]},
            {"model": "owner/name"},
        ],
    )
    vocabulary: Annotated[Literal["keep", "trim"], LATER] = Field(
        "keep", description="trim: only the tokens that the training rows use, single characters and special tokens"
    )
    pretrain: Annotated[Pretrain | None, LATER] = Field(
        None, description="of an encoder: masked-language-model distillation from the unfitted teacher first"
    )
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="null trains every weight")  # type: ignore[call-arg]

    def problems(self) -> Iterator[Problem]:
        """What a randomly initialised student does not have."""
        if isinstance(self.init, FromModel) and isinstance(self.init.model, Scratch):
            if self.lora is not None:
                yield Problem(("lora",), "a randomly initialised student is trained whole", "set student.lora: null")
            if self.init.revision is not None:
                yield Problem(
                    ("init", "revision"),
                    "a randomly initialised student has no revision",
                    "leave student.init.revision out",
                )


class Distill(Training):
    """How the student learns."""

    loss: Loss = Loss(ce=0.5, forward_kl=0.5)  # type: ignore[call-arg]
    chunk: int = Field(256, ge=1, le=2**20, description="supervised positions whose logits are in memory at once")
    control: bool = Field(
        False, description="also train the same student on the data's own responses without the teacher, and compare"
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


# --- after training -----------------------------------------------------------


_OWN_ROUNDING = " and ".join([", ".join(ROUNDED_BY_GGML[:-1]), ROUNDED_BY_GGML[-1]])


class Quantize(Section):
    """How weights are rounded for the files that ship."""

    calibration: Literal["auto", "imatrix", "gptq", "none"] = Field(
        "none",
        description="imatrix: GGUF types below 8 bits are rounded by what each weight's input is on the calibration "
        "split; gptq: beyond that each column's error is compensated in later columns, in GGUF types but "
        f"{_OWN_ROUNDING}, and in onnx:int8 and onnx:int4-b32; auto: imatrix, where the task is causal-lm and there is "
        "a calibration split",
    )
    max_tokens: int = Field(16_384, ge=64, description="calibration tokens; rows beyond them are left out")
    compare: bool = Field(False, description="also export and measure every calibrated file without calibration")


class Verify(Section):
    """Gates on the files that ship. A gate that is null is reported, not enforced."""

    rows: int = Field(500, ge=1, description="held-out rows to score; at most the test split")
    max_tokens: int = Field(2048, ge=1, description="positions compared for KL")
    positions: Literal["supervised", "all"] = "supervised"
    min_retained: float | None = Field(None, ge=0.01, description="student score / teacher score, of every file")
    max_kl: Annotated[KlLimits, BeforeValidator(kl_limits, json_schema_input_type=KlLimits | float | None)] = Field(
        default_factory=lambda: KlLimits(),  # type: ignore[call-arg]
        description="KL of a file to the merged student, at most; a number holds every quantized file to it, null none",
        examples=[0.02, {"eight_bits": 0.02, "lower": 0.2}, None],
    )
    min_top1: Share | None = Field(None, description="top-1 agreement of file and merged student")
    teacher_schemes: tuple[str, ...] = Field(
        (), description="quantize the teacher itself too: the rival that any student must beat"
    )
    judge: Annotated[PairwiseJudge | None, LATER] = Field(
        None,
        description="a model that compares what the merged student and every file that ships write with what the "
        "teacher writes; null: none",
    )

    def problems(self) -> Iterator[Problem]:
        """A share that was meant as one."""
        if self.min_retained is not None and self.min_retained > 1.5:
            share = self.min_retained / 100 if self.min_retained <= 150 else 0.95
            yield Problem(
                ("min_retained",),
                f"{self.min_retained:g} times the teacher's score is asked of the student",
                f"it is a share: write {share:g}",
            )


class Bench(Section):
    """What is measured. Each cell runs in fresh processes, interleaved with the others."""

    workloads: tuple[str, ...] = Field(
        ("task", "chat-128-64"), min_length=1, description="task: held-out prompts; chat-P-N: P tokens in, N out"
    )
    devices: tuple[Literal["cpu", "gpu"], ...] = Field(("cpu",), min_length=1)
    threads: int | None = Field(None, ge=1, le=4096, description="null: what affinity and the cgroup allow")
    rounds: int = Field(3, ge=1, le=1000, description="fresh processes per cell")
    requests: int = Field(4, ge=1, le=100_000, description="timed requests per process and workload")
    warmup: int = Field(1, ge=0, le=1000)
    torch: bool = Field(True, description="measure teacher and student in PyTorch as well")
    machine: Annotated[str | None, LATER] = Field(
        None,
        description="device of the price catalogue that this machine is: its watts give the energy where no meter does",
    )


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
            {"kind": "text", "max_new_tokens": 128},
            {"kind": "labels"},
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
    def student_signal(self) -> LogitsSignal:
        """What is kept of the student's own distributions for training on a grid: they are matched as they are."""
        top_k = self.signal.top_k if isinstance(self.signal, LogitsSignal) else LogitsSignal().top_k  # type: ignore[call-arg]
        return LogitsSignal(top_k=top_k, temperature=1.0)

    @property
    def calibration_rows(self) -> int:
        """Rows of the calibration split: those of a synthesis, where it holds some out."""
        made = self.synthesis.held_out.calibration if self.synthesis is not None else 0
        return made or self.data.splits.calibration

    @property
    def calibrates(self) -> bool:
        """Whether files are rounded by what the calibration rows show."""
        able = CALIBRATION in TASKS[self.task].supports and self.calibration_rows > 0
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
