"""The compact forms of the logit cache: from teacher to shards to what a loss reads, resumed, cut off and altered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from tiny import tiny_llama

from distill2edge.data.examples import Encoded, example_id
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.losses import Sampled, TopK
from distill2edge.errors import UserError
from distill2edge.models.id_map import IdMap
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.progress import SilentProgress

FORMS: dict[str, dict[str, Any]] = {"sample": {"sample": 12}, "mass": {"top_k": 30, "mass": 0.5}}


def examples() -> list[Encoded]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(14):
        ids = random.integers(1, 400, random.integers(4, 20)).tolist()
        mask = [False, False] + [bool(each) for each in random.integers(0, 2, len(ids) - 3)] + [True]
        found.append(Encoded(example_id(ids, mask), ids, mask))
    return found


ROWS = examples()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    tiny_llama(directory)
    return directory


def cache(teacher: Path, work: Path, form: str, rows: list[Encoded] = ROWS, **options: Any) -> dict[str, Any]:
    signal = LogitsSignal(**FORMS[form], temperature=2.0)  # type: ignore[call-arg]
    return cache_logits(teacher, rows, signal, work, SilentProgress(), dtype="float32", **options)


def dense(teacher: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32).eval()
    found = {}
    for row in ROWS:
        with torch.no_grad():
            logits = model(torch.tensor([row.ids])).logits[0]
        found[row.id] = torch.softmax(logits[[t - 1 for t, on in enumerate(row.mask) if on]] / 2.0, -1)
    return found


def test_a_sample_is_of_the_teachers_distribution(teacher: Path, tmp_path: Path) -> None:
    facts = cache(teacher, tmp_path, "sample")
    reader, expected = SignalReader(tmp_path), dense(teacher)
    assert (reader.sample, reader.top_k, reader.compact, reader.temperature) == (12, 12, True, 2.0)
    summed = 0.0
    for row in ROWS:
        found, p = reader.get(row.id), expected[row.id]
        assert isinstance(found, Sampled)
        assert found.tokens.shape == found.weight.shape == (row.supervised, 12)
        torch.testing.assert_close(found.weight.sum(-1), torch.ones(row.supervised), atol=1e-4, rtol=0)
        torch.testing.assert_close(found.entropy, -(p * p.log()).sum(-1), atol=5e-3, rtol=0)
        kept = found.weight > 0
        assert (torch.where(kept, found.weight, 1.0) > p.gather(1, found.tokens) * 0.9).all()
        summed += int(kept.sum())
    assert facts["tokens_per_position"] == pytest.approx(summed / facts["positions"], abs=0.01)
    assert 0.5 < facts["drawn_mass"] <= 1  # a tiny random model is nearly uniform
    assert "tail_mass" not in facts


def test_by_mass_is_a_top_k_and_its_tail(teacher: Path, tmp_path: Path) -> None:
    facts = cache(teacher, tmp_path, "mass")
    reader, expected = SignalReader(tmp_path), dense(teacher)
    tails = []
    for row in ROWS:
        found, p = reader.get(row.id), expected[row.id]
        assert isinstance(found, TopK)
        kept = found.tokens < 400
        assert (kept.sum(-1) == (p.sort(descending=True).values.cumsum(-1) < 0.5).sum(-1).add(1).clamp(max=30)).all()
        picked = p.gather(1, found.tokens.clamp(max=399)).log()
        torch.testing.assert_close(found.log_p[kept], picked[kept], atol=0.03, rtol=0)
        total = torch.where(kept, found.log_p.exp(), 0).sum(-1) + found.log_tail.exp()
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)
        tails.append(found.log_tail.exp())
    assert facts["tail_mass"] == pytest.approx(float(torch.cat(tails).mean()), abs=1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_pieces_order_and_a_resume_change_nothing(teacher: Path, tmp_path: Path, form: str) -> None:
    cache(teacher, tmp_path / "whole", form)
    cache(teacher, tmp_path / "parts", form, rows=ROWS[::-1], shard_rows=3)
    (tmp_path / "parts" / "shard-00001.safetensors").write_bytes(b"cut off")  # as a full disk may leave it
    cache(teacher, tmp_path / "parts", form, rows=ROWS[::-1], shard_rows=3)
    whole, parts = SignalReader(tmp_path / "whole"), SignalReader(tmp_path / "parts")
    for row in ROWS:
        for one, other in zip(whole.get(row.id), parts.get(row.id), strict=True):
            # Rows are batched otherwise, so logits differ in their last bits: a draw may move at a border.
            assert (one != other).float().mean() < 0.05


def test_another_seed_or_form_is_not_taken_for_the_same(teacher: Path, tmp_path: Path) -> None:
    cache(teacher, tmp_path, "sample")
    first = load_file(tmp_path / "shard-00000.safetensors")
    assert cache(teacher, tmp_path, "sample")["tokens_per_s"] is None
    assert cache(teacher, tmp_path, "sample", seed=1)["tokens_per_s"]
    assert first["body"].tobytes() != load_file(tmp_path / "shard-00000.safetensors")["body"].tobytes()
    cache(teacher, tmp_path, "mass")
    assert SignalReader(tmp_path).sample is None
    plain = cache_logits(teacher, ROWS, LogitsSignal(top_k=30, temperature=2.0), tmp_path, SilentProgress())  # type: ignore[call-arg]
    assert plain["tokens_per_s"]
    assert not SignalReader(tmp_path).compact


@pytest.mark.parametrize("name", ["body", "counts", "parameter", "at"])
@pytest.mark.parametrize("form", FORMS)
def test_an_altered_shard_is_found(teacher: Path, tmp_path: Path, form: str, name: str) -> None:
    cache(teacher, tmp_path, form)
    path = tmp_path / "shard-00000.safetensors"
    with safe_open(path, framework="numpy") as shard:
        metadata = shard.metadata()
    arrays = load_file(path)
    if name == "body":
        arrays["body"] = arrays["body"][:-2]
    else:
        arrays[name] = arrays[name] + np.array([3], arrays[name].dtype)
    save_file(arrays, path, metadata=metadata)
    reader = SignalReader(tmp_path)
    with pytest.raises(UserError, match="code is broken") as caught:
        list(map(reader.get, (row.id for row in ROWS)))
    assert "run the stage again" in caught.value.fix


def test_tokens_that_a_trimmed_student_lacks_count_for_nothing(teacher: Path, tmp_path: Path) -> None:
    cache(teacher, tmp_path, "sample")
    reader = SignalReader(tmp_path)
    trimmed = reader.trimmed(IdMap(np.arange(0, 400, 2), 400))
    whole, part = reader.get(ROWS[0].id), trimmed.get(ROWS[0].id)
    assert isinstance(whole, Sampled)
    assert isinstance(part, Sampled)
    odd = whole.tokens % 2 == 1
    assert (part.tokens[odd] >= 200).all()
    assert (part.tokens[~odd] == whole.tokens[~odd] // 2).all()
