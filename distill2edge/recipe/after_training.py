"""What becomes of a trained student: rounding, verification, measurement."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from distill2edge.errors import Problem
from distill2edge.models.kv_cache import PLAIN, CacheType
from distill2edge.quantize.schemes import ROUNDED_BY_GGML
from distill2edge.recipe.gold_pairs import GoldPairs
from distill2edge.recipe.judge import PairwiseJudge
from distill2edge.recipe.limits import KlLimits, kl_limits
from distill2edge.recipe.ranges import Share
from distill2edge.recipe.section import LATER, Section

_OWN_ROUNDING = " and ".join([", ".join(ROUNDED_BY_GGML[:-1]), ROUNDED_BY_GGML[-1]])


class Quantize(Section):
    """How weights are rounded for the files that ship."""

    calibration: Literal["auto", "imatrix", "gptq", "none"] = Field(
        "none",
        description="imatrix: GGUF types below 8 bits are rounded by what each weight's input is on the calibration "
        "split; gptq: beyond that each column's error is compensated in later columns, in GGUF types but "
        f"{_OWN_ROUNDING}, and in onnx:int8 and onnx:int4-b32; auto: imatrix, where there is a calibration split",
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
        description="KL of a file to the merged student, at most; a number is for every quantized file, null for none",
        examples=[0.02, {"eight_bits": 0.02, "lower": 0.2}, None],
    )
    min_top1: Share | None = Field(None, description="top-1 agreement of file and merged student")
    min_ndcg_retained: Annotated[float | None, LATER] = Field(
        None,
        ge=0.01,
        le=1.5,
        description="of data.pair, where rows share their first text: student's nDCG at 10 / teacher's, of every file",
    )
    teacher_schemes: tuple[str, ...] = Field(
        (), description="quantize the teacher itself too: the baseline that every student must beat"
    )
    kv_cache: Annotated[tuple[CacheType, ...], LATER] = Field(
        (PLAIN,),
        min_length=1,
        description="of GGUF files of decoders: the types in which llama.cpp keeps keys and values, each verified and "
        "benched; f16, its own choice, always is",
        examples=[["f16", "q8_0", "q4_0"]],
    )
    pairs: Annotated[GoldPairs | None, LATER] = Field(
        None,
        description="of task embedding: pairs of texts with a gold score, which a model's cosines are held against",
    )
    judge: Annotated[PairwiseJudge | None, LATER] = Field(
        None,
        description="a model that compares what the merged student and every file that ships write with what the "
        "teacher writes; null: none",
    )

    @property
    def caches(self) -> tuple[str, ...]:
        """The types beside llama.cpp's own, each once."""
        return tuple(dict.fromkeys(cache for cache in self.kv_cache if cache != PLAIN))

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
