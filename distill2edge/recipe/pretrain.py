"""The recipe's `student.pretrain`."""

from __future__ import annotations

from pydantic import Field

from distill2edge.recipe.training import Training


class Pretrain(Training):
    """Masked-language-model distillation of an encoder before it learns the task: it needs texts, no labels.

    The three terms and their weights are DistilBERT's (Sanh et al. 2019, section 3, and the authors' training script).
    """

    mask: float = Field(0.15, gt=0, lt=1, description="share of the tokens to predict")
    temperature: float = Field(2.0, gt=0, le=100)
    soft: float = Field(5.0, ge=0, description="KL(teacher || student) at the temperature")
    masked: float = Field(2.0, ge=0, description="cross-entropy of the masked tokens")
    cosine: float = Field(1.0, ge=0, description="1 - cosine of the last hidden states")
    teacher: Training | None = Field(
        None, description="train the teacher on masked tokens first: needed where it has no head for them"
    )
