"""`distill.dropout`: of every layer of the student, also where attention applies it in a kernel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_embedder, tiny_t5

from distill2edge.distill.encoder_training import load_encoder
from distill2edge.distill.train import load_student

IDS = torch.tensor([[5, 9, 40, 31, 7, 3]])


def embedder(directory: Path, dropout: float | None) -> Any:
    tiny_embedder(directory)
    model = load_encoder(directory, None, dropout=dropout).train()
    return lambda: model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).last_hidden_state


def seq2seq(directory: Path, dropout: float | None) -> Any:
    tiny_t5(directory)
    model = load_student(directory, None, torch.float32, dropout=dropout).train()
    return lambda: model(input_ids=IDS, decoder_input_ids=IDS).logits


@pytest.mark.parametrize(("student", "share"), [(embedder, None), (embedder, 0.2), (seq2seq, 0.2)])
def test_something_is_dropped(tmp_path: Path, student: Any, share: float | None) -> None:
    read = student(tmp_path, share)
    assert not torch.equal(read(), read())


@pytest.mark.parametrize("student", [embedder, seq2seq])
def test_without_dropout_a_student_in_training_is_a_function(tmp_path: Path, student: Any) -> None:
    read = student(tmp_path, 0.0)
    assert torch.equal(read(), read())


def test_more_dropout_drops_more(tmp_path: Path) -> None:
    whole, little, much = (embedder(tmp_path / str(share), share) for share in (0.0, 0.1, 0.6))
    base = whole()
    assert (much() - base).norm() > 2 * (little() - base).norm()
