"""The recipe's `distill.on_policy_rounds`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from distill2edge.recipe.ranges import Beta, Epochs, LearningRate, Temperature, Weight
from distill2edge.recipe.section import LATER, Problem, Section


class OnPolicy(Section):
    """After the training on the data: the student writes, the teacher scores each token, the student learns from it.

    GKD (Agarwal et al. 2024, arXiv 2306.13649): a student trained on the teacher's prefixes alone never sees its own
    mistakes. Here the student of one round writes, and the next is trained on that; the first is the warm start.
    """

    rounds: int = Field(2, ge=1, le=16, description="times that the student writes anew")
    rows: int = Field(512, ge=1, description="prompts of a round; rounds take them in turn from the train split")
    data_share: Annotated[float, LATER] = Field(
        0.0, ge=0, lt=1, description="of those, the share that keeps the data's own response (1 - lambda of GKD)"
    )
    warm_rows: Annotated[int | None, LATER] = Field(
        None,
        ge=1,
        description="rows of the train split that the teacher scores for the warm start, and that keep their response; "
        "the others give the rounds prompts alone, whose responses nobody scores; null: all rows do both",
    )
    max_new_tokens: int = Field(64, ge=1, le=2**20)
    temperature: Temperature = Field(1.0, description="of the student's sampling; it is no loss temperature")
    forward_kl: Weight = 0.0
    reverse_kl: Weight = 1.0
    jsd: Weight = 0.0
    jsd_beta: Beta = 0.5
    epochs: Epochs = Field(1.0, description="over the rows of one round")
    learning_rate: LearningRate | None = Field(None, description="null: a fifth of the warm start's")

    def problems(self) -> Iterator[Problem]:
        """Something to compare."""
        if self.forward_kl + self.reverse_kl + self.jsd == 0:
            what = "distill.on_policy compares nothing with the teacher"
            yield Problem((), what, "give reverse_kl, jsd or forward_kl")
