"""What every training section of a recipe shares."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from distill2edge.recipe.section import LATER, Section


class Training(Section):
    """What every training stage shares."""

    epochs: float = Field(1.0, gt=0)
    max_steps: int | None = Field(None, ge=1, description="stop after this many optimizer steps")
    learning_rate: float = Field(5e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(0.05, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    batch_size: int = Field(16, ge=1, description="rows per device and micro-batch")
    gradient_accumulation: int = Field(1, ge=1)
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the processor computes in it, else float32"
    )
    checkpoints: int = Field(4, ge=0, description="checkpoints over the run, to resume from")
    gradient_checkpointing: Annotated[bool, LATER] = Field(
        False, description="compute activations again in the backward pass: about a third slower, much less memory"
    )
