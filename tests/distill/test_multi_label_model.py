"""The loss of sets of labels against a dense reference, value and gradient; and that of steps of a scale."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from distill2edge.data.examples import Encoded
from distill2edge.distill.label_cache import SetReader
from distill2edge.distill.losses import Objective, Weighted, distillation_loss, earth_movers_distance
from distill2edge.distill.multi_label_model import MultiLabelModel, SetTexts, balanced_sets
from distill2edge.distill.objective import objective_of
from distill2edge.errors import UserError
from distill2edge.recipe.schema import Loss

T = 2.0


class Fixed(nn.Module):
    """Gives the logits that it holds."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())
        self.config = SimpleNamespace(num_labels=logits.shape[1], pad_token_id=0)

    def forward(self, **batch: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


def loss(logits: Tensor, sets: Tensor, theirs: Tensor | None, objective: Objective, **more: Any) -> tuple[Any, Tensor]:
    student = Fixed(logits)
    model = MultiLabelModel(student, objective, T, None, torch.float32, **more)
    ids = torch.ones(len(sets), 3, dtype=torch.int64)
    log_p = None
    if theirs is not None:
        log_p = torch.stack([F.logsigmoid(-theirs / T), F.logsigmoid(theirs / T)], -1)
    out = model(ids, ids, torch.zeros(len(sets)), sets, log_p)
    out["loss"].backward()
    assert student.logits.grad is not None
    return out, student.logits.grad


def reference(logits: Tensor, sets: Tensor, theirs: Tensor, ce: float, kl: float) -> tuple[Tensor, Tensor]:
    """By PyTorch's own binary cross-entropy, in float64: that with soft targets, less their entropy, is the KL."""
    own = logits.double().requires_grad_()
    known = (sets >= 0).double()
    hard = F.binary_cross_entropy_with_logits(own, sets.clamp(min=0).double(), reduction="none") * known
    p = (theirs.double() / T).sigmoid()
    entropy = -(p * p.log() + (1 - p) * (1 - p).log())
    soft = F.binary_cross_entropy_with_logits(own / T, p, reduction="none") - entropy
    total = (ce * hard + kl * T**2 * soft).sum() / len(logits)
    total.backward()
    assert own.grad is not None
    return total.detach(), own.grad


def test_value_and_gradient_are_those_of_binary_cross_entropy_and_binary_kl() -> None:
    torch.manual_seed(0)
    logits, theirs = 3 * torch.randn(4, 5), 3 * torch.randn(4, 5)
    sets = torch.randint(0, 2, (4, 5))
    sets[1], sets[2] = -1, 0  # nothing is known of one text; another has the empty set
    out, grad = loss(logits, sets, theirs, objective_of(Loss(ce=0.3, forward_kl=0.7)))
    value, slope = reference(logits, sets, theirs, 0.3, 0.7)
    assert out["loss"].item() == pytest.approx(float(value), rel=1e-5)
    assert torch.allclose(grad.double(), slope, atol=1e-6)
    hard = F.binary_cross_entropy_with_logits(logits, sets.clamp(min=0).float(), reduction="none")
    assert float(out["ce"]) == pytest.approx(float(hard[sets[:, 0] >= 0].sum()), rel=1e-5)


def test_an_empty_set_teaches_and_a_missing_one_does_not() -> None:
    logits = torch.randn(1, 3)
    _, grad = loss(logits, torch.zeros(1, 3, dtype=torch.int64), None, Objective(ce=1.0))
    assert torch.allclose(grad, logits.sigmoid(), atol=1e-6)
    _, nothing = loss(logits, torch.full((1, 3), -1), None, Objective(ce=1.0))
    assert not nothing.any()


def test_balanced_weights_have_pytorch_s_ratio_of_positive_to_negative() -> None:
    weights = balanced_sets([(0,), (0, 1), (0,), ()], 3)
    assert weights == [[2.0, pytest.approx(2 / 3)], [pytest.approx(2 / 3), 2.0], [0.5, 1.0]]
    logits, sets = torch.randn(4, 3), torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]])
    out, _ = loss(logits, sets, None, Objective(ce=1.0), weights=weights)
    positive = torch.tensor([row[1] / row[0] for row in weights])
    wanted = F.binary_cross_entropy_with_logits(logits, sets.float(), reduction="none", pos_weight=positive)
    scale = torch.tensor([row[0] for row in weights])
    assert float(out["sum"]) == pytest.approx(float((wanted * scale).sum()), rel=1e-5)


def test_the_cache_gives_both_events_at_the_temperature(tmp_path: Any) -> None:
    logits = torch.tensor([[0.0, 40.0, -40.0]])
    save_file({"logits": logits}, tmp_path / "labels-00000.safetensors", {"ids": '["a"]'})
    found = SetReader(tmp_path, T).get("a").exp()
    assert torch.allclose(found[:, 1], (logits[0] / T).sigmoid())
    assert torch.allclose(found.sum(-1), torch.ones(3))


def text(labels: tuple[int, ...] | None) -> Encoded:
    return Encoded("a", [1, 2], [False, False], labels=labels)


def test_texts_without_a_set_need_a_teacher() -> None:
    assert SetTexts([text(())], None, 2)[0]["set"].tolist() == [0, 0]
    assert SetTexts([text((1,))], None, 2)[0]["set"].tolist() == [0, 1]
    with pytest.raises(UserError, match="rows without labels teach nothing without the teacher"):
        SetTexts([text(()), text(None)], None, 2)


# --- steps of a scale ---------------------------------------------------------


def test_the_earth_mover_s_distance_counts_steps() -> None:
    one_hot = torch.eye(4).log().clamp(min=-1e4)
    steps = earth_movers_distance(one_hot[[0, 0, 1, 3]], one_hot[[0, 3, 2, 1]])
    assert steps.tolist() == [0.0, 3.0, 1.0, 2.0]
    half = torch.tensor([[0.5, 0.0, 0.5, 0.0]]).log().clamp(min=-1e4)
    assert float(earth_movers_distance(one_hot[[1]], half)) == 1.0


@given(st.integers(0, 1000))
def test_it_is_what_a_transport_plan_costs(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    p, q = (torch.randn(1, 5, generator=generator, dtype=torch.float64).softmax(-1) for _ in range(2))
    give, take, cost, at, to = p[0].clone(), q[0].clone(), 0.0, 0, 0
    while at < 5 and to < 5:  # on a line, the plan that keeps the order is the cheapest
        moved = min(float(give[at]), float(take[to]))
        cost += moved * abs(at - to)
        give[at] -= moved
        take[to] -= moved
        at, to = (at + 1, to) if give[at] <= take[to] else (at, to + 1)
    assert float(earth_movers_distance(p.log(), q.log())) == pytest.approx(cost, abs=1e-9)


def test_its_gradient_is_that_of_the_dense_sum() -> None:
    torch.manual_seed(1)
    logits, log_p = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5).log_softmax(-1)
    objective = objective_of(Loss(ce=0.0, forward_kl=0.0, emd=0.5))
    assert objective.compared == (Weighted(0.5, earth_movers_distance),)
    value = distillation_loss(logits, torch.zeros(3, dtype=torch.int64), log_p, objective, T)
    dense = logits.detach().double().requires_grad_()
    q, p = (dense / T).softmax(-1), log_p.double().exp()
    wanted = torch.stack([(p[:, : at + 1].sum(1) - q[:, : at + 1].sum(1)).abs() for at in range(5)]).sum(0) * T**2 / 2
    assert torch.allclose(value.double(), wanted, atol=1e-5)
    value.sum().backward()
    wanted.sum().backward()
    assert logits.grad is not None
    assert dense.grad is not None
    assert torch.allclose(logits.grad.double(), dense.grad, atol=1e-5)
