"""What the training stages share: optimiser, adapters, loss, and training on the grid of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.entries import ExportEntry
from distill2edge.recipe.loss_terms import WeightedTerms, with_terms
from distill2edge.recipe.ranges import Epochs, LearningRate, Reason
from distill2edge.recipe.section import LATER, Section


class Lora(Section):
    """Low-rank adapters (Hu 2021)."""

    rank: int = Field(64, ge=1, le=1024)
    alpha: Annotated[float, Reason("the update is scaled by alpha / rank")] = Field(
        128, ge=0.001, le=10**5, description="the update is scaled by alpha / rank"
    )
    dropout: float = Field(0.0, ge=0, le=0.95)
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="all-linear, or the names of the modules to adapt"
    )


class Training(Section):
    """What every training stage shares."""

    epochs: Epochs = 1.0
    max_steps: int | None = Field(None, ge=1, le=10**9, description="stop after this many optimizer steps")
    learning_rate: LearningRate = 5e-4
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0, le=10)
    max_grad_norm: Annotated[float, Reason("below 1e-4 the clipped gradients are nothing")] = Field(
        1.0, ge=1e-4, le=10**9
    )
    batch_size: int = Field(16, ge=1, le=65_536, description="rows of a micro-batch, over all processes")
    gradient_accumulation: int = Field(1, ge=1, le=65_536)
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor computes in it, else float32"
    )
    checkpoints: int = Field(4, ge=0, le=10_000, description="checkpoints over the run, to resume from")
    packing: Annotated[bool, LATER] = Field(
        False,
        description="lay the rows of a micro-batch one after another into few sequences, none of which sees another: "
        "no padding, and batches of rows of any length",
    )
    gradient_checkpointing: Annotated[bool, LATER] = Field(
        False, description="compute activations again in the backward pass: about a third slower, much less memory"
    )


if TYPE_CHECKING:
    _Terms = WeightedTerms
else:
    _Terms = with_terms(WeightedTerms)


class Loss(_Terms):
    """Weights of the terms; they need not sum to one."""

    layer_map: Annotated[tuple[int, ...] | None, LATER] = Field(
        None, description="the teacher's layer for each of the student's; null: those the student was made of"
    )
    class_weights: Annotated[Literal["none", "balanced"], LATER] = Field(
        "none",
        description="of a classifier, for the terms on labels and the teacher's fit: balanced weighs a class by the "
        "inverse of its share of the labelled training rows",
    )


class QuantizationAware(Training):
    """More training after the merge, on the grid of a file that ships: the forward pass computes with the weights as
    the file will store them."""

    schemes: tuple[ExportEntry, ...] = Field(
        min_length=1,
        description="entries of `export`, each trained for itself: gguf:Q4_0, gguf:Q4_K_M, onnx:int4-b32, "
        "{format: onnx, budget: 90MB}; a mix is trained from its compensated weights, and a GGUF's takes types with a "
        "grid alone",
    )
    epochs: Epochs = 1.0
    learning_rate: LearningRate = 5e-5
    loss: Loss | None = Field(None, description="weights of the terms; null: those of distill")
    signal_from: Annotated[Literal["teacher", "student"], LATER] = Field(
        "teacher",
        description="whose distributions (labels, numbers, vectors) the terms compare with: the teacher's, or those of "
        "the student in full precision, of which the file is to lose nothing; the latter need no signal of a teacher",
    )
    lora: Lora | None = Field(
        None, description="an adapter, whose sum with the weights is put on the grid; null trains every weight, "
        "embeddings and head included"
    )  # fmt: skip

    def problems(self) -> Iterator[Problem]:
        """A loss of its own that says something."""
        if self.loss is not None and not any(self.loss.weighed()):
            yield Problem(("loss",), "every weight is zero", "set loss: {forward_kl: 1}, or leave it out")


def one_scheme(value: Any) -> Any:
    """A scheme alone, or a mix, stands for the section with the defaults."""
    mix = isinstance(value, dict) and "format" in value
    return {"schemes": [value]} if mix or isinstance(value, str) else value
