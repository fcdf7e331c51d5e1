"""A student with a trimmed vocabulary: its model, the teacher's signal in its ids, and what it is trained on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CHAT_TEMPLATE, tiny_llama, tiny_recipe, tiny_t5

from distill2edge.data.examples import Row
from distill2edge.data.full_tokens import in_full, named_in_full, same_rows
from distill2edge.data.model_inputs import encode_for
from distill2edge.data.split_files import read_rows
from distill2edge.data.tokens import tokenize
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.losses import coarsen_student, coarsen_teacher
from distill2edge.distill.on_policy_rounds import read_written
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.id_map import read_map
from distill2edge.models.loading import load_model
from distill2edge.recipe.load import load_recipe
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.running.run_recipe import run
from distill2edge.stages import build_stages
from distill2edge.student.trim_to_rows import trim_writer
from distill2edge.student.vocabulary import trim_vocabulary
from distill2edge.teacher.logits import cache_logits
from distill2edge.util.progress import SilentProgress

ROUND = "distill.on_policy={rounds: 1, rows: 24, max_new_tokens: 6, epochs: 1}"
TRIM = "student.vocabulary=trim"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trimmed")
    tiny_recipe(root)
    return root


def until(place: Path, kind: str, *overrides: str) -> dict[str, Path]:
    done = run(place / "tiny.yaml", [TRIM, *overrides], upto=kind, store=place / "store", quiet=True)
    return {name: artifact.path for name, artifact in done.of(kind).items()}


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_the_full_models_for_the_tokens_that_stay(tmp_path: Path, tied: bool) -> None:
    full = tiny_llama(tmp_path / "full", tied=tied)
    used = tokenize(load_tokenizer(tmp_path / "full"), ["the film 12 is good", "and the dog"])
    facts = trim_vocabulary(tmp_path / "full", (), tmp_path / "small", SilentProgress(), used=used)
    small, ids = load_model(tmp_path / "small").eval(), read_map(tmp_path / "small")
    assert ids is not None
    assert facts["new_size"] == small.config.vocab_size < facts["old_size"]
    for name in ("bos", "eos", "pad"):
        wanted = getattr(load_tokenizer(tmp_path / "small"), f"{name}_token_id")
        assert getattr(small.config, f"{name}_token_id") == wanted
    assert load_tokenizer(tmp_path / "small").chat_template == CHAT_TEMPLATE
    with torch.no_grad():
        for row in used:
            there = full(torch.tensor([row])).logits[..., ids.new_to_old]
            torch.testing.assert_close(small(torch.from_numpy(ids.old_to_new[row])[None]).logits, there)


def test_an_encoder_decoder_is_trimmed_too(tmp_path: Path) -> None:
    tiny_t5(tmp_path / "full")
    full = load_model(tmp_path / "full").eval()
    used = tokenize(load_tokenizer(tmp_path / "full"), ["the film 12 is good", "and the dog"], special=True)
    facts = trim_vocabulary(tmp_path / "full", (), tmp_path / "small", SilentProgress(), used=used)
    small, ids = load_model(tmp_path / "small").eval(), read_map(tmp_path / "small")
    assert ids is not None
    assert facts["new_size"] < facts["old_size"]
    source, target = (torch.tensor([row]) for row in used)
    mine = [torch.from_numpy(ids.old_to_new[row])[None] for row in used]
    with torch.no_grad():
        there = full(input_ids=source, decoder_input_ids=target).logits[..., ids.new_to_old]
        torch.testing.assert_close(small(input_ids=mine[0], decoder_input_ids=mine[1]).logits, there)


def test_the_signal_is_gathered_and_the_rest_is_the_tail(place: Path, tmp_path: Path) -> None:
    student, teacher = until(place, "student")["student"] / "model", until(place, "teacher")["teacher"] / "model"
    recipe = load_recipe(place / "tiny.yaml", [TRIM])
    rows = read_rows(until(place, "data")["data"], "train")
    theirs, ours = (encode_for(recipe.data, rows, model) for model in (teacher, student))
    ids = read_map(student)
    assert ids is not None
    assert all(same_rows(ours, theirs, ids))
    assert [row.id for row in named_in_full(ours, ids)] == [row.id for row in theirs]
    assert in_full(ours, ids) == theirs
    cache_logits(teacher, theirs, LogitsSignal(top_k=40, temperature=1.0), tmp_path, SilentProgress())
    reader = SignalReader(tmp_path)
    assert reader.vocabulary == ids.full
    size = len(ids.new_to_old)
    whole, mapped = reader.get(theirs[0].id), reader.trimmed(ids).get(theirs[0].id)
    lost = ids.old_to_new[whole.tokens] < 0
    assert lost.any()
    assert not lost.all()
    assert np.array_equal(mapped.tokens.numpy()[~lost], ids.old_to_new[whole.tokens][~lost])
    assert (mapped.tokens.numpy()[lost] >= size).all()
    events = coarsen_teacher(mapped, size)
    probability = torch.where(torch.from_numpy(lost), 0.0, whole.log_p.exp())
    torch.testing.assert_close(events[:, :-1].exp(), probability)
    torch.testing.assert_close(events[:, -1].exp(), 1 - probability.sum(-1), atol=1e-5, rtol=1e-4)
    logits = torch.randn(len(events), size, generator=torch.Generator().manual_seed(0))
    student_events = coarsen_student(logits, mapped.tokens, 1.0)
    assert (student_events[:, :-1].exp().numpy()[lost] == 0).all()
    torch.testing.assert_close(student_events.exp().sum(-1), torch.ones(len(events)))


def test_on_policy_the_teacher_reads_the_students_tokens_as_its_own(place: Path) -> None:
    written = until(place, "signal", ROUND)["signal on-policy 1"]
    student = until(place, "merge", ROUND)["merge"] / "model"
    ids, rows = read_map(student), read_written(written)
    assert ids is not None
    assert max(max(row.ids) for row in rows) < len(ids.new_to_old)
    reader = SignalReader(written)
    assert not reader.missing(row.id for row in in_full(rows, ids))
    assert json.loads((until(place, "distill", ROUND)["distill"] / "train.json").read_text())["log"]


def test_training_on_a_grid_uses_the_same_signal(place: Path) -> None:
    change = "distill.quantization_aware={schemes: [gguf:Q8_0], epochs: 1}"
    export = ["export=[gguf:Q8_0]", change]
    assert "quantization-aware gguf:Q8_0" in until(place, "quantization-aware", *export)


def test_what_the_teacher_writes_stays(place: Path, tmp_path: Path) -> None:
    change = ["signal={kind: text}", "distill.loss={ce: 1}", "data.choices=null"]
    recipe, data = load_recipe(place / "tiny.yaml", [TRIM, *change]), until(place, "data")["data"]
    stages = {stage.name: stage for stage in build_stages(recipe, SilentProgress())}
    assert "signal" in stages["student"].parents
    teacher = until(place, "teacher")["teacher"] / "model"
    written = [Row("a", read_rows(data, "train")[0].prompt, " a warm afternoon, music", number=1)]
    kept = []
    for name, rows in (("without", ()), ("with", written)):
        shutil.copytree(teacher, tmp_path / name / "model")
        kept.append(trim_writer(recipe, data, rows, tmp_path / name, SilentProgress())["vocabulary"])
    theirs = encode_for(recipe.data, written, teacher)
    for name, stays in (("without", False), ("with", True)):
        ours = encode_for(recipe.data, written, tmp_path / name / "model")
        assert same_rows(ours, theirs, read_map(tmp_path / name / "model")) == [stays]
    assert kept[0]["kept"] <= kept[1]["kept"] < kept[0]["of"]


def test_a_student_with_its_own_tokenizer_is_trimmed_by_its_own_tokens(place: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "other", layers=1, vocabulary=370)
    change = [f"student.init={{model: {tmp_path / 'other'}}}", "signal.align=vocabulary"]
    student = until(place, "student", *change)["student"] / "model"
    ids = read_map(student)
    assert ids is not None
    assert ids.old_size == 370
    assert SignalReader(until(place, "signal", *change)["signal"]).vocabulary == ids.full
    trained = json.loads((until(place, "distill", *change)["distill"] / "train.json").read_text())
    assert trained["log"]
