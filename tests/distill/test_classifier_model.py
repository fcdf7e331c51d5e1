"""The loss of a classifier where classes are uneven, and where texts have no label."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from distill2edge.distill.classifier_model import ClassifierModel, balanced
from distill2edge.distill.losses import Objective, Weighted, forward_kl

OBJECTIVE = Objective(ce=0.5, compared=(Weighted(0.5, forward_kl),))


class Fixed(nn.Module):
    """Gives the logits that it holds."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)
        self.config = SimpleNamespace(num_labels=logits.shape[1], pad_token_id=0)

    def forward(self, **batch: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


def loss(logits: torch.Tensor, labels: list[int], log_p: torch.Tensor | None, objective: Objective, **more: Any) -> Any:
    student = Fixed(logits)
    model = ClassifierModel(student, objective, 1.0, None, torch.float32, **more)
    ids = torch.ones(len(labels), 3, dtype=torch.int64)
    out = model(ids, ids, torch.tensor(labels), log_p)
    out["loss"].backward()
    return out, student.logits.grad


def test_a_text_without_a_label_is_learnt_from_the_teacher_alone() -> None:
    torch.manual_seed(0)
    logits, log_p = torch.randn(2, 3), torch.randn(2, 3).log_softmax(-1)
    out, grad = loss(logits, [1, -1], log_p, OBJECTIVE)
    both, _ = loss(logits[:1], [1], log_p[:1], OBJECTIVE)
    alone, alone_grad = loss(logits[1:], [0], log_p[1:], Objective(compared=OBJECTIVE.compared))
    assert out["sum"] == pytest.approx(float(both["sum"] + alone["sum"]), rel=1e-5)
    assert torch.allclose(grad[1] * 2, alone_grad[0], atol=1e-6)  # the mean is over two texts
    assert out["ce"] == pytest.approx(float(both["ce"]), rel=1e-5)


def test_a_rare_class_weighs_as_much_as_a_common_one() -> None:
    weights = balanced([0, 0, 0, 1, -1], 2)
    assert weights == [pytest.approx(4 / 6), 2.0]
    logits = torch.zeros(4, 2)
    _, grad = loss(logits, [0, 0, 0, 1], None, Objective(ce=1.0), class_weights=weights)
    assert grad.sum(0) == pytest.approx(torch.zeros(2), abs=1e-6)  # the two classes pull equally


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=40))
def test_weights_leave_the_size_of_the_loss_as_it_is(labels: list[int]) -> None:
    weights = balanced(labels, 4)
    known = [label for label in labels if label >= 0]
    present = len(set(known))
    assert sum(weights[label] for label in known) == pytest.approx(len(known) * present / 4)
