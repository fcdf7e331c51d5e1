"""BERT classifiers as GGUF: llama.cpp's class logits are torch's, the labels and the tokenizer are in the file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.probes import make_probes
from distill2edge.gguf import llama_process
from distill2edge.gguf.reader import read_gguf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.llama_cpp_encoder import LlamaCppClassifier, output_labels
from distill2edge.util.progress import SilentProgress
from tests.tiny import tiny_bert, tiny_llama

LABELS = ("negative", "positive", "a third: with marks")
TEXTS = ("the quick brown fox", "a", "good, bad, fine, awful! " * 8)


def export(directory: Path, scheme: str, work: Path) -> dict:
    return export_gguf(directory, parse_scheme(f"gguf:{scheme}"), {"name": "tiny"}, work, SilentProgress())


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("bert")
    tiny_bert(directory, labels=LABELS)
    return directory


@pytest.mark.parametrize(("scheme", "limit"), [("F32", 1e-3), ("F16", 1e-3), ("Q8_0", 0.03)])
def test_class_logits_are_torchs(model_dir: Path, scheme: str, limit: float, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(model_dir, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    export(model_dir, scheme, tmp_path)
    runtime = open_runtime("llama.cpp", tmp_path, threads=1, context=128)
    try:
        for text in TEXTS:
            ids = tokenizer(text, truncation=True, max_length=128).input_ids
            with torch.no_grad():
                wanted = model(torch.tensor([ids])).logits[0].numpy()
            got = runtime.classify(ids)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, wanted, rtol=0, atol=limit)
            np.testing.assert_array_equal(got, runtime.classify(ids))  # nothing is left over from the text before
    finally:
        runtime.close()
        runtime.close()


def test_a_text_that_may_be_either_does_not_refuse_the_file(tmp_path: Path) -> None:
    """Its two logits are equal: what they differ by is rounding, and no measure of rounding."""
    from transformers import AutoModelForSequenceClassification

    tiny_bert(tmp_path / "model", labels=("bad", "good"), scale=0.3)
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", local_files_only=True)
    probes, _ = make_probes(tmp_path / "model", "classifier", caches=False)
    bad, good = probes[0].expected.ravel()
    with torch.no_grad():
        model.classifier.bias += torch.tensor([0.0, float(bad - good) + 1e-5])
    model.save_pretrained(tmp_path / "model")
    facts = export(tmp_path / "model", "F32", tmp_path / "out")
    assert facts["faithful"]["relative"] < 1e-2


def test_labels_and_head_are_in_the_file(model_dir: Path, tmp_path: Path) -> None:
    facts = export(model_dir, "F16", tmp_path)
    file = read_gguf(tmp_path / "model.gguf")
    assert output_labels(tmp_path) == list(LABELS)
    assert file.get("bert.pooling_type") == 4
    assert file.get("bert.attention.causal") is False
    assert {"cls.weight", "cls.bias", "cls.output.weight", "cls.output.bias"} <= set(file.tensors)
    assert facts["tokenizer"]["different"] == []
    runtime = LlamaCppClassifier(tmp_path)
    assert runtime.labels == list(LABELS)
    runtime.close()


def test_llama_cpp_tokenizes_as_the_model(model_dir: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    export(model_dir, "F16", tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    assert llama_process.tokenize(tmp_path / "model.gguf", TEXTS) == [
        tokenizer(text, add_special_tokens=False).input_ids for text in TEXTS
    ]


def test_what_cannot_be_expressed_is_refused(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "masked", masked=True)
    with pytest.raises(UserError, match="BertForMaskedLM"):
        export(tmp_path / "masked", "F16", tmp_path / "a")
    tiny_bert(tmp_path / "relu")
    config = json.loads((tmp_path / "relu/config.json").read_text())
    (tmp_path / "relu/config.json").write_text(json.dumps(config | {"hidden_act": "relu"}))
    with pytest.raises(UserError, match="activation 'relu'"):
        export(tmp_path / "relu", "F16", tmp_path / "b")


def test_a_language_model_is_no_classifier_and_the_other_way_round(model_dir: Path, tmp_path: Path) -> None:
    tiny_llama(tmp_path / "hf")
    export(tmp_path / "hf", "F16", tmp_path / "lm")
    with pytest.raises(UserError, match="no classification head"):
        LlamaCppClassifier(tmp_path / "lm")
    export(model_dir, "F16", tmp_path / "cls")
    runtime = open_runtime("llama.cpp", tmp_path / "cls", threads=1)
    with pytest.raises(UserError, match="predicts no tokens"):
        runtime.logits([1, 2], [0])
    with pytest.raises(ValueError, match="outside the vocabulary"):
        runtime.classify([10**6])
    runtime.close()
