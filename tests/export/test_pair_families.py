"""Every family of encoders on two texts: what ships gives PyTorch's logits, with the family's own segments."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from encoders import FAMILIES, tiny_encoder
from tiny import WORDS

from distill2edge.data.encode_texts import encode_texts
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.model_inputs import InputForm
from distill2edge.distill.taught_texts import collate_texts
from distill2edge.export.onnx import export_onnx
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.teacher.labels import by_head
from distill2edge.util.progress import SilentProgress

PAIRS = [("good film", "bad dog, and it"), ("x", WORDS * 4), ("the warm sun", "good")]
SEGMENTED = ("bert", "electra")
SLOW = [name for name in FAMILIES if name not in ("bert", "roberta")]


@pytest.mark.parametrize(
    "name", [name if name not in SLOW else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_pairs_get_pytorch_s_logits_from_the_file_and_in_a_batch(name: str, tmp_path: Path) -> None:
    import onnxruntime

    family, model = FAMILIES[name], tiny_encoder(tmp_path / "model", name)
    tokenizer, room = load_tokenizer(tmp_path / "model"), 64 - family.room
    texts = [Row(row_id(first, "", second), first, "", pair=second) for first, second in PAIRS]
    rows = encode_texts(texts, tokenizer, room)
    form = InputForm("classifier", max_length=room, prompt="{{ q }}", pair="{{ p }}")
    meta = {"name": name, "input": form.dumps()}
    facts = export_onnx(tmp_path / "model", parse_scheme("onnx:fp32"), meta, tmp_path / "out", SilentProgress())
    compared = [probe["probe"] for probe in facts["faithful"]["probes"]]
    assert ("two texts of 20 tokens" in compared) == (name in SEGMENTED)

    wanted = np.stack([own_logits(model, row, name in SEGMENTED) for row in rows])
    if name in SEGMENTED:  # what is tested is there: the second text's segment changes the answer
        assert all(row.types and max(row.types) == 1 for row in rows)
        alone = np.stack([own_logits(model, replace(row, types=None), False) for row in rows])
        assert np.abs(wanted - alone).max() > 1e-3
    runtime = open_runtime("onnxruntime", tmp_path / "out", threads=1, context=room)
    single = [runtime.classify(row.ids, row.types) for row in rows]  # type: ignore[attr-defined]
    np.testing.assert_allclose(single, wanted, atol=2e-5)
    torch_runtime = open_runtime("torch", tmp_path / "model", threads=1, context=room)
    np.testing.assert_allclose(torch_runtime.classify(rows[1].ids, rows[1].types), wanted[1], atol=2e-5)  # type: ignore[attr-defined]
    np.testing.assert_allclose(by_head(tmp_path / "model")(rows, lambda steps: None).numpy(), wanted, atol=2e-5)

    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    assert tuple(item.name for item in session.get_inputs()) == family.inputs
    items = [{"ids": row.ids, "types": row.types, "label": 0} for row in rows]
    batch = collate_texts(items, model.config.pad_token_id or 0)
    assert batch["input_ids"].shape == (3, room)  # the second is cut, the others are padded
    zeros = torch.zeros_like(batch["input_ids"])
    feed = {name: batch.get(name, zeros).numpy() for name in family.inputs}
    np.testing.assert_allclose(session.run(None, feed)[0], wanted, atol=2e-5)


def own_logits(model: torch.nn.Module, row: Encoded, segments: bool) -> np.ndarray:
    """One pair alone, given to transformers by hand."""
    given = {"input_ids": torch.tensor([row.ids])}
    if segments:
        given["token_type_ids"] = torch.tensor([row.types])
    with torch.no_grad():
        return np.asarray(model(**given).logits[0])


def test_llama_cpp_gives_two_texts_no_answer() -> None:
    from distill2edge.runtimes.llama_cpp_encoder import LlamaCppClassifier

    with pytest.raises(ValueError, match="reads one text"):
        LlamaCppClassifier.classify(object.__new__(LlamaCppClassifier), [1, 2], [0, 1])


@pytest.mark.parametrize(("name", "told"), [("bert", True), ("roberta", False)])
def test_calibration_reads_two_texts_with_the_segments_that_the_model_knows(
    name: str, told: bool, tmp_path: Path
) -> None:
    from distill2edge.quantize.calibration_texts import inputs_of, take, texts_of

    model = tiny_encoder(tmp_path, name)
    texts = [Row(row_id(first, "", second), first, "", pair=second) for first, second in PAIRS]
    rows = encode_texts(texts, load_tokenizer(tmp_path), 20)
    inputs, (mask,) = inputs_of(model, take(list(texts_of(rows).values()), 1000))
    assert inputs["input_ids"].shape == mask.shape
    if not told:
        assert "token_type_ids" not in inputs
        return
    for row, types, length in zip(rows, inputs["token_type_ids"].tolist(), mask.sum(1).tolist(), strict=True):
        assert types == [*(row.types or []), *[0] * (len(types) - length)]
