"""How an embedder pools: what its files say, and the vector that is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from distill2edge.errors import UserError
from distill2edge.models.kinds import CLASSIFIER, EMBEDDER, ENCODER, kind_of
from distill2edge.models.pooling import Pooling, pooling_of, sentence_transformers_pooling

HIDDEN = torch.tensor([[[1.0, 4.0], [3.0, 0.0], [9.0, 9.0]], [[9.0, 9.0], [2.0, 2.0], [4.0, 6.0]]])
MASK = torch.tensor([[1, 1, 0], [0, 1, 1]])  # padded on the right, and on the left


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [("mean", [[2.0, 2.0], [3.0, 4.0]]), ("cls", [[1.0, 4.0], [2.0, 2.0]]), ("max", [[3.0, 4.0], [4.0, 6.0]])],
)
def test_padding_is_no_part_of_a_vector(mode: Any, wanted: list[list[float]]) -> None:
    assert Pooling(mode, normalize=False).of(HIDDEN, MASK).tolist() == wanted
    lengths = Pooling(mode).of(HIDDEN, MASK).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(2))


def test_what_is_written_is_read_back_by_both(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 64}))
    wanted = Pooling("cls", normalize=False, dimensions=(64, 16))
    wanted.write(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert pooling_of(config) == wanted
    assert kind_of(config) is EMBEDDER
    assert kind_of({"model_type": "bert"}) is ENCODER
    assert kind_of({**config, "architectures": ["BertForSequenceClassification"]}) is CLASSIFIER
    assert sentence_transformers_pooling(tmp_path) == Pooling("cls", normalize=False)
    assert [each["type"].rpartition(".")[2] for each in json.loads((tmp_path / "modules.json").read_text())] == [
        "Transformer",
        "Pooling",
    ]


@pytest.mark.parametrize(
    ("modules", "pooling", "said"),
    [
        (["Transformer", "Pooling", "Dense"], {"pooling_mode_mean_tokens": True}, "its modules are"),
        (["Transformer", "Pooling"], {"pooling_mode_lasttoken": True}, "it pools by pooling_mode_lasttoken"),
        (["Transformer", "Pooling"], {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean, cls"),
        (["Transformer", "Pooling"], {"pooling_mode": "weightedmean"}, "it pools by weightedmean"),
        (["Transformer", "Pooling"], {}, "it pools by nothing"),
    ],
)
def test_what_no_file_here_can_hold_is_refused(
    tmp_path: Path, modules: list[str], pooling: dict[str, Any], said: str
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    listed = [{"path": "1_Pooling" if name == "Pooling" else "", "type": f"s.models.{name}"} for name in modules]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(UserError, match=said):
        sentence_transformers_pooling(tmp_path)


@pytest.mark.parametrize("stated", [3, {"mode": "sum"}, {"mode": "mean", "normalize": 1, "dimensions": []}])
def test_a_configuration_that_says_something_else_is_refused(stated: Any) -> None:
    with pytest.raises(UserError, match="is no pooling"):
        pooling_of({"sentence_embedding": stated})
