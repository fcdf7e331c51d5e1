"""What processes share: every row once, and sums that are those of one process."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.distill.batches import LengthGrouped
from distill2edge.distill.shares import STANDS_IN, Shares, StandIns, marked
from distill2edge.processes.ranks import agreed, gathered, rank, share, total, world


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 9))
def test_a_batch_is_shared_without_loss_and_evenly(rows: list[int], count: int) -> None:
    parts = [share(rows, number, count) for number in range(count)]
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 5), st.integers(0, 3))
def test_micro_batches_do_not_depend_on_the_number_of_processes(rows: int, batch: int, count: int, epoch: int) -> None:
    order = LengthGrouped([7 * n % 13 for n in range(rows)], batch, 0, lambda: epoch)
    alone = list(Shares(order, batch))
    shared = [list(Shares(order, batch, number, count)) for number in range(count)]
    assert {len(part) for part in shared} == {len(alone)} == {len(Shares(order, batch, 0, count))}
    for step, whole in enumerate(alone):
        parts = [part[step] for part in shared]
        assert sorted(row for part in parts for row in part if row >= 0) == sorted(whole)
        for part in parts:  # nobody is without a row to compute, and what stands in is alone
            assert len(part) == 1 or all(row >= 0 for row in part)
            assert part[0] >= 0 or ~part[0] in whole


@given(
    st.lists(st.lists(st.floats(-8, 8, width=32), max_size=6), min_size=1, max_size=30),
    st.integers(1, 8), st.integers(1, 3), st.integers(1, 5),
)  # fmt: skip
def test_the_loss_of_a_step_is_exact_over_ragged_shares(
    rows: list[list[float]], batch: int, accumulation: int, count: int
) -> None:
    """Rows are the losses of their supervised tokens, of which a row may have none. Each process
    divides by what all supervise in the step and multiplies by their number, since gradients are averaged."""
    micro = [[list(Shares(range(len(rows)), batch, number, count))[step] for number in range(count)]
             for step in range(-(-len(rows) // batch))]  # fmt: skip
    for begin in range(0, len(micro), accumulation):
        steps = micro[begin : begin + accumulation]
        tokens = [token for parts in steps for part in parts for row in part if row >= 0 for token in rows[row]]
        items = sum(len(rows[row]) for parts in steps for part in parts for row in part if row >= 0)
        assert items == len(tokens)
        if not items:
            continue
        own = [0.0] * count
        for parts in steps:
            for number, part in enumerate(parts):
                own[number] += sum(sum(rows[row]) for row in part if row >= 0) / items * count
        assert math.isclose(sum(own) / count, sum(tokens) / items, rel_tol=1e-9, abs_tol=1e-9)


def test_a_row_that_stands_in_is_marked() -> None:
    rows = StandIns([{"ids": [1]}, {"ids": [2]}])
    collate = marked(lambda items: {"ids": torch.tensor([item["ids"] for item in items])})
    assert rows[~1] == {"ids": [2], STANDS_IN: True}
    assert collate([rows[~1]])[STANDS_IN] is True
    assert STANDS_IN not in collate([rows[0], rows[1]])
    assert len(rows) == 2


def test_alone_all_is_as_it_was() -> None:
    values = torch.ones(2)
    assert (rank(), world()) == (0, 1)
    assert total(values) is values
    assert agreed("x") == "x"
    assert gathered(values[:, None])[1] == 0


@pytest.fixture
def trainer(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A trainer on a machine that says it has two devices."""
    from tiny import tiny_llama

    from distill2edge.distill.batches import Examples
    from distill2edge.distill.decoder_model import DistillModel
    from distill2edge.distill.loop import arguments
    from distill2edge.distill.trainer import DistillTrainer
    from distill2edge.recipe.schema import Training
    from tests.distill.test_train import make_rows
    from tests.objectives import objective

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    model = DistillModel(tiny_llama(tmp_path / "m", layers=1), objective(ce=1), 1.0, 16, torch.float32)
    settings = Training(batch_size=4, max_steps=1, dtype="float32")
    args = arguments(settings, tmp_path / "checkpoints", 0, 4, {"report_to": "none"})
    return DistillTrainer(model, args, Examples(make_rows(4), None), None, model.collator())


def test_two_devices_never_make_it_data_parallel(trainer: Any) -> None:
    assert trainer.args.n_gpu == 1
    assert trainer.args.train_batch_size == 4
    trainer.train()
    assert not isinstance(trainer.model_wrapped, torch.nn.DataParallel)
    assert trainer.state.global_step == 1
