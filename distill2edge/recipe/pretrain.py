"""The recipe's `student.pretrain`."""

from __future__ import annotations

from pydantic import Field

from distill2edge.recipe.ranges import Temperature, Weight
from distill2edge.recipe.training import Training


class Pretrain(Training):
    """Masked-language-model distillation of an encoder before it learns the task: it needs texts, no labels.

    The three terms and their weights are DistilBERT's (Sanh et al. 2019, section 3, and the authors' training script).
    """

    mask: float = Field(0.15, ge=0.01, le=0.9, description="share of the tokens to predict")
    temperature: Temperature = 2.0
    soft: Weight = Field(5.0, description="KL(teacher || student) at the temperature")
    masked: Weight = Field(2.0, description="cross-entropy of the masked tokens")
    cosine: Weight = Field(1.0, description="1 - cosine of the last hidden states")
    teacher: Training | None = Field(
        None, description="train the teacher on masked tokens first: needed where it has no head for them"
    )
