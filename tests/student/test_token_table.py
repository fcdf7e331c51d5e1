"""A table of token vectors: what it begins with, what a BERT adds to it (nothing), and what is trained of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import tiny_embedder

from distill2edge.data.examples import Encoded
from distill2edge.distill.encoder_training import load_encoder
from distill2edge.models.loading import load_model
from distill2edge.models.pooling import Pooling
from distill2edge.runtimes import open_runtime
from distill2edge.student.token_table import SIF, init_table, principal, sif_weights
from distill2edge.util.progress import SilentProgress

ROWS = [Encoded("a", [2, 9, 9, 40, 3], []), Encoded("b", [2, 9, 50, 3], [])]


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("table")
    tiny_embedder(root / "teacher")
    init_table(root / "teacher", ROWS, None, root, SilentProgress())
    Pooling().write(root / "model")
    return root


def test_a_token_weighs_less_the_more_often_it_is_read() -> None:
    weights = sif_weights(ROWS, 60)
    share = 4 / 69  # 9 tokens and each of the 60 once more
    assert weights[9] == pytest.approx(SIF / (SIF + share))
    assert weights[9] < weights[2] < weights[40] < weights[59]
    assert weights[40] == weights[50]


def test_principal_components_keep_what_varies_most() -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(200, 6, generator=generator) * torch.tensor([0.1, 5.0, 0.1, 3.0, 0.1, 0.1])
    table -= table.mean(0)
    found, share = principal(table, torch.ones(200, dtype=torch.bool), 2)
    assert share == pytest.approx(float(table[:, [1, 3]].square().sum() / table.square().sum()), rel=1e-3)
    np.testing.assert_allclose(found @ found.T, table[:, [1, 3]] @ table[:, [1, 3]].T, atol=0.5)
    assert found[:, 0].square().sum() > found[:, 1].square().sum()


def test_a_text_is_the_mean_of_its_tokens_whatever_their_order(table: Path) -> None:
    weights = load_model(table / "model", dtype=torch.float32).get_input_embeddings().weight.detach()
    centred = weights - weights.mean(1, keepdim=True)
    runtime = open_runtime("torch", table / "model", threads=1)
    for ids in ([2, 9, 40, 3], [2, 40, 9, 3], [2, *range(20, 60), 3]):
        wanted = torch.nn.functional.normalize(centred[ids].mean(0), dim=0)
        np.testing.assert_allclose(runtime.embed(ids), wanted, atol=1e-3)  # type: ignore[attr-defined]
    assert not weights[[2, 3]].any(), "what begins and ends every text says nothing"


def test_the_table_alone_is_trained(table: Path) -> None:
    student = load_encoder(table / "model", None)
    trained = [name for name, value in student.named_parameters() if value.requires_grad]
    assert trained == ["embeddings.word_embeddings.weight"]


def test_no_layers_mean_something_for_an_embedder_alone(table: Path, tmp_path: Path) -> None:
    from distill2edge.errors import UserError
    from distill2edge.models.config import check_fields
    from distill2edge.util.files import read_object

    config = read_object(table / "model" / "config.json")
    check_fields(config, tmp_path)
    del config["sentence_embedding"]
    with pytest.raises(UserError, match="num_hidden_layers"):
        check_fields(config, tmp_path)
