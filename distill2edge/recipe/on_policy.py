"""The recipe's `distill.on_policy_rounds`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.loss_terms import WeightedTerms, with_terms
from distill2edge.recipe.ranges import Epochs, LearningRate, Temperature
from distill2edge.recipe.section import LATER


class _Rounds(WeightedTerms):
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
    epochs: Epochs = Field(1.0, description="over the rows of one round")
    learning_rate: LearningRate | None = Field(None, description="null: a fifth of the warm start's")


if TYPE_CHECKING:
    _Terms = _Rounds
else:
    _Terms = with_terms(_Rounds, "distribution", reverse_kl=1.0)


class OnPolicy(_Terms):
    """After the training on the data: the student writes, the teacher scores each token, the student learns from it.

    GKD (Agarwal et al. 2024, arXiv 2306.13649): a student trained on the teacher's prefixes alone never sees its own
    mistakes. Here the student of one round writes, and the next is trained on that; the first is the warm start.
    """

    def problems(self) -> Iterator[Problem]:
        """Something to compare, and nothing that reads the data's own tokens."""
        if not self.needs_logits:
            what = "distill.on_policy compares nothing with the teacher"
            yield Problem((), what, "give reverse_kl, jsd or forward_kl")
        for term, _ in self.weighed():
            if term.needs != "distribution":
                what = f"{term.name} does not compare distributions, which is all there is of the student's own text"
                yield Problem((term.name,), what, "weigh it in distill.loss")
