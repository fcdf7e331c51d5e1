"""Every family of encoders as a classifier of texts and of words: read with its own special tokens, positions and type
ids, equal to PyTorch through ONNX; as GGUF where llama.cpp has it, else refused from the configuration alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import FAMILIES, tiny_encoder
from tiny import WORDS

from distill2edge.data.encode_tagged import placed
from distill2edge.data.encode_texts import around, cut_texts
from distill2edge.export.onnx import export_onnx
from distill2edge.export.support import refusals
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.config import usable_positions
from distill2edge.models.kinds import CLASSIFIER, kind_of
from distill2edge.models.loading import read_config
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_classifier_is_pytorch_s_through_onnx(name: str, tmp_path: Path) -> None:
    import onnxruntime

    family, model = FAMILIES[name], tiny_encoder(tmp_path / "model", name)
    config = read_config(tmp_path / "model")
    room = 64 - family.room
    assert kind_of(config) is CLASSIFIER
    assert usable_positions(config) == room
    tokenizer = load_tokenizer(tmp_path / "model")
    head, tail = (tokenizer.convert_ids_to_tokens(ids) for ids in around(tokenizer))
    assert (*head, *tail) == family.around
    rows = cut_texts(["good film", WORDS * 4], tokenizer, room)
    assert [len(row) for row in rows][1] == room  # up to the last position

    export_onnx(tmp_path / "model", parse_scheme("onnx:fp32"), {"name": name}, tmp_path / "out", SilentProgress())
    runtime = open_runtime("onnxruntime", tmp_path / "out", threads=1, context=room)
    with torch.no_grad():
        wanted = [model(torch.tensor([row])).logits[0].numpy() for row in rows]
    for row, logits in zip(rows, wanted, strict=True):
        np.testing.assert_allclose(runtime.classify(row), logits, atol=2e-5)  # type: ignore[attr-defined]
    assert cut_texts(["good film", WORDS * 4], load_tokenizer(tmp_path / "out"), room) == rows

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert tuple(item.name for item in session.get_inputs()) == family.inputs
    ids = np.full((2, room), config.get("pad_token_id") or 0, dtype=np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)], mask[index, : len(row)] = row, 1
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    batch = session.run(None, {name: feed[name] for name in family.inputs})[0]
    np.testing.assert_allclose(batch, wanted, atol=2e-5)


TEXT = "the quickest fox, Annemarie's, jumps"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_word_s_tag_is_said_at_its_first_token(name: str, tmp_path: Path) -> None:
    tiny_encoder(tmp_path, name)
    tokenizer = load_tokenizer(tmp_path)
    (read,) = placed([TEXT], tokenizer, 48)
    whole = tokenizer(TEXT, return_offsets_mapping=True)
    assert read.ids == whole["input_ids"]
    assert [TEXT[begin:end] for begin, end in read.words] == TEXT.replace(",", " ,").replace("'s", " ' s").split()
    for (begin, end), place in zip(read.words, read.places, strict=True):
        # A token may begin with the space before its word; special tokens have no characters.
        own = [at for at, (first, last) in enumerate(whole["offset_mapping"]) if first < end and last > begin]
        assert place == own[0]
    assert len(read.ids) > len(read.words) + sum(map(len, around(tokenizer))), "a word of several tokens"


@pytest.mark.parametrize(
    "name", [name if name == "deberta-v2" else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_a_tagger_is_pytorch_s_through_onnx(name: str, tmp_path: Path) -> None:
    model = tiny_encoder(tmp_path / "model", name, ("O", "B-X", "I-X"), tagger=True)
    (read,) = placed([TEXT], load_tokenizer(tmp_path / "model"), 48)
    export_onnx(tmp_path / "model", parse_scheme("onnx:fp32"), {"name": name}, tmp_path / "out", SilentProgress())
    runtime = open_runtime("onnxruntime", tmp_path / "out", threads=1, context=48)
    with torch.no_grad():
        wanted = model(torch.tensor([read.ids])).logits[0].numpy()
    assert wanted.shape == (len(read.ids), 3)
    np.testing.assert_allclose(runtime.tag(read.ids), wanted, atol=2e-5)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", FAMILIES)
def test_gguf_is_refused_before_anything_is_trained_where_nothing_writes_it(name: str) -> None:
    config = {"model_type": name, "architectures": ["AnyForSequenceClassification"]}
    if name == "bert":
        config["architectures"] = ["BertForSequenceClassification"]
    found = refusals(config, CLASSIFIER, [parse_scheme("gguf:Q8_0")])
    assert not found if FAMILIES[name].gguf else "classifier" in found[0].reason
