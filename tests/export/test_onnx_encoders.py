"""Classifiers and sequence-to-sequence models, exported and compared with torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from distill2edge.errors import UserError
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import Scheme
from distill2edge.runtimes.onnx_runtime import OnnxRuntime
from distill2edge.util.progress import SilentProgress

META = {"name": "tiny", "licence": "MIT"}


def export(model_dir: Path, scheme: str, out: Path) -> dict[str, Any]:
    return export_onnx(model_dir, Scheme("onnx", scheme), META, out, SilentProgress())


def test_a_classifier_gives_torchs_logits(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=300, hidden_size=48, num_hidden_layers=2, num_attention_heads=4, intermediate_size=90,
        num_labels=3, initializer_range=0.3,
    )  # fmt: skip
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "model")
    ids = torch.randint(5, 300, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    with torch.no_grad():
        expected = model(**feed).logits.numpy()
    for scheme, tolerance in (("fp32", 1e-4), ("int8", 0.15)):
        facts = export(tmp_path / "model", scheme, tmp_path / scheme)
        assert facts["kind"] == "classifier"
        operators = {node.op_type for node in onnx.load(tmp_path / scheme / "model.onnx").graph.node}
        assert {"Sum", "LayerNormalization"} <= operators
        assert "SkipLayerNormalization" not in operators
        session = onnxruntime.InferenceSession(str(tmp_path / scheme / "model.onnx"))
        got = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
        np.testing.assert_allclose(got, expected, atol=tolerance)
    assert facts["types"]["int8-b32"]["tensors"] >= 10
    assert {each["reason"].split(":")[0] for each in facts["fallbacks"]} >= {"width padded to a multiple of 32"}
    with pytest.raises(UserError, match="not a decoder"):
        OnnxRuntime(tmp_path / "int8")


@pytest.mark.slow
def test_a_sequence_to_sequence_model_decodes_with_its_cache(tmp_path: Path) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=300, d_model=64, d_kv=16, d_ff=96, num_layers=1, num_heads=4, decoder_start_token_id=0,
        eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    model = T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "model")
    facts = export(tmp_path / "model", "fp32", tmp_path / "onnx")
    assert facts["graphs"] == ["decoder.onnx", "encoder.onnx"]
    source, target = torch.randint(2, 300, (3, 9)), torch.randint(2, 300, (3, 6))
    mask = torch.ones_like(source)
    mask[2, 4:] = 0
    with torch.no_grad():
        expected = model(input_ids=source, attention_mask=mask, decoder_input_ids=target).logits.numpy()
    encoder, decoder = (onnxruntime.InferenceSession(str(tmp_path / "onnx" / n)) for n in facts["graphs"][::-1])
    names = [item.name for item in encoder.get_outputs()]
    cross = encoder.run(None, {"input_ids": source.numpy(), "attention_mask": mask.numpy()})
    feed = {name.replace("present", "past_key_values"): each for name, each in zip(names, cross, strict=True)}
    feed["encoder_attention_mask"] = mask.numpy()
    for item in decoder.get_inputs():
        if ".decoder." in item.name:
            feed[item.name] = np.zeros((3, item.shape[1], 0, item.shape[3]), dtype=np.float32)
    got = []
    for start, end in ((0, 3), (3, 4), (4, 6)):  # from an empty past, one token, several tokens
        out = decoder.run(None, {**feed, "decoder_input_ids": target.numpy()[:, start:end]})
        named = dict(zip((item.name for item in decoder.get_outputs()), out, strict=True))
        got.append(named.pop("logits"))
        feed.update({name.replace("present", "past_key_values"): each for name, each in named.items()})
    np.testing.assert_allclose(np.concatenate(got, axis=1), expected, atol=2e-3)
    weights = sum(each.numel() for each in model.parameters())
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size < 1.02 * 4 * weights  # the shared table once
