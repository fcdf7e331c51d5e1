"""Masked-language-model distillation: what is masked, what the loss sees, and the way into a classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_bert

from distill2edge.distill.batches import IGNORED
from distill2edge.distill.masked import MaskedTexts, collate_masked, mask_tokens, predict
from distill2edge.errors import UserError
from distill2edge.recipe.load import load_recipe
from distill2edge.running.run_recipe import run
from tests.end_to_end.test_end_to_end_classification import RECIPE

SPEC = "{epochs: 3, learning_rate: 1e-3, batch_size: 8, teacher: {epochs: 4, learning_rate: 1e-3, batch_size: 8}}"


@given(st.integers(0, 40), st.integers(0, 6), st.floats(0.05, 0.9), st.integers(0, 99))
def test_what_is_masked(length: int, specials: int, share: float, seed: int) -> None:
    ids, special = torch.arange(length) + 10, torch.arange(length) < specials
    read, labels = mask_tokens(ids, special, 4, 300, share, torch.Generator().manual_seed(seed))
    chosen, able = labels != IGNORED, max(0, length - specials)
    assert int(chosen.sum()) == (max(1, round(share * able)) if able else 0)
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(read[~chosen], ids[~chosen])
    assert not (chosen & special).any()


def test_masks_are_of_bert_s_three_kinds_and_differ_between_variants(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_bert(tmp_path, masked=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = [int(n) for n in torch.randint(10, len(tokenizer), (400,))]
    rows = MaskedTexts([(text, None)] * 2, tokenizer, 0.5, 3, seed=7)
    assert len(rows) == 6
    first, again, other = rows[0], MaskedTexts([(text, None)] * 2, tokenizer, 0.5, 3, seed=7)[0], rows[2]
    assert torch.equal(first["ids"], again["ids"])
    assert not torch.equal(first["labels"], other["labels"])
    chosen = first["labels"] != IGNORED
    hidden = (first["ids"] == tokenizer.mask_token_id)[chosen].float().mean()
    kept = (first["ids"] == first["labels"])[chosen].float().mean()
    assert 0.7 < hidden < 0.9
    assert 0.03 < kept < 0.2


def test_logits_of_chosen_positions_are_those_of_the_whole(tmp_path: Path) -> None:
    model: Any = tiny_bert(tmp_path, masked=True)
    items = [
        {"ids": torch.arange(5, 15), "labels": torch.full((10,), IGNORED)},
        {"ids": torch.arange(9, 15), "labels": torch.full((6,), IGNORED)},
    ]
    items[0]["labels"][3] = items[1]["labels"][2] = items[1]["labels"][5] = 7
    batch = collate_masked(items, pad=0)
    chosen = batch["labels"] != IGNORED
    with torch.no_grad():
        logits, last = predict(model, batch["input_ids"], batch["attention_mask"], chosen)
        whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], output_hidden_states=True)
    torch.testing.assert_close(logits, whole.logits[chosen])
    torch.testing.assert_close(last, whole.hidden_states[-1])
    assert not model.bert._forward_hooks


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pretrain")
    for name, masked in (("teacher", True), ("headless", False)):
        tiny_bert(root / name, layers=4, masked=masked, labels=("bad", "good"))
        (root / name / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    words = ("the good film", "a bad dog")
    rows = [{"text": f"{words[n % 2]} and {n} then {n * 37} it", "label": ("good", "bad")[n % 2]} for n in range(80)]
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "tiny.yaml").write_text(RECIPE.format(model=root / "teacher", rows=root / "rows.jsonl"))
    return root


def until(place: Path, kind: str, *overrides: str) -> dict[str, Path]:
    done = run(place / "tiny.yaml", overrides, upto=kind, store=place / "store", quiet=True)
    return {name: artifact.path for name, artifact in done.of(kind).items()}


def test_the_student_of_a_classifier_is_pretrained_with_the_teacher_first(place: Path) -> None:
    pretrain = f"student.pretrain={SPEC}"
    directory = until(place, "pretrain", pretrain)["pretrain"]
    facts = json.loads((directory / "pretrain.json").read_text())
    assert facts["layers"] == [0, 3] or len(facts["layers"]) == 2
    for one in ("teacher", "student"):
        assert facts[one]["validation_loss"] is not None
        assert 0 <= facts["accuracy"][one] <= 1
    assert json.loads((directory / "model" / "config.json").read_text())["architectures"] == ["BertForMaskedLM"]
    merged = until(place, "merge", pretrain)
    student = until(place, "student", pretrain)["student"]
    assert json.loads((student / "student.json").read_text())["layers"] == facts["layers"]
    config = json.loads((merged["merge"] / "model" / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["num_hidden_layers"] == 2


@pytest.mark.parametrize("vocabulary", ["keep", "trim"])
def test_a_pretrained_student_reads_texts_as_its_teacher_does(place: Path, vocabulary: str) -> None:
    from transformers import AutoTokenizer

    student = until(place, "student", f"student.pretrain={SPEC}", f"student.vocabulary={vocabulary}")["student"]
    tokens = [
        AutoTokenizer.from_pretrained(directory).tokenize("the good film and 3 then it")
        for directory in (place / "teacher", student / "model")
    ]
    assert tokens[0] == tokens[1]
    assert len(set(tokens[1])) > 4


def test_training_on_masked_tokens_lowers_their_loss(place: Path, tmp_path: Path) -> None:
    from distill2edge.recipe.pretrain import Pretrain
    from distill2edge.student.masked_pretraining import pretrain
    from distill2edge.util.progress import SilentProgress

    texts = [([2, *range(20 + n % 5, 30 + n % 5), 3], None) for n in range(64)]
    spec = Pretrain(epochs=6, learning_rate=3e-3, batch_size=8)  # type: ignore[call-arg]
    facts = pretrain(place / "teacher", [0, 2], texts, texts[:16], spec, 0, tmp_path, SilentProgress())
    untrained = Pretrain(epochs=1, max_steps=1, learning_rate=1e-9)  # type: ignore[call-arg]
    start = pretrain(place / "teacher", [0, 2], texts, texts[:16], untrained, 0, tmp_path / "start", SilentProgress())
    assert facts["student"]["validation_loss"] < 0.5 * start["student"]["validation_loss"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "pretrain.json", "start"]


def test_a_teacher_without_a_head_for_masked_tokens_is_refused_with_the_fix(place: Path) -> None:
    more = ["student.pretrain={epochs: 1}", f"teacher.model={place / 'headless'}"]
    with pytest.raises(UserError, match="no head for masked tokens") as caught:
        until(place, "pretrain", *more)
    assert "student.pretrain.teacher" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("student.pretrain={soft: 0, masked: 0, cosine: 0}", "every weight is zero"),
        ("student.init={from: teacher, layers: 2, select: similarity}", "select even or first"),
    ],
)
def test_what_does_not_fit_is_refused(place: Path, change: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        load_recipe(place / "tiny.yaml", ["student.pretrain={epochs: 1}", change])
