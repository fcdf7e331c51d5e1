"""Exported graphs against torch: decoders with a cache, classifiers, sequence-to-sequence models; broken files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny import tiny_llama, tiny_tokenizer

from distill2edge.errors import UserError
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import Scheme, parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.onnx_runtime import OnnxRuntime
from distill2edge.util.progress import SilentProgress

META = {"name": "tiny", "licence": "MIT", "teacher": None, "recipe": "r", "recipe_key": "k", "description": "d"}
PROMPT = [5, 9, 101, 7, 300, 42, 8, 77, 250, 3, 19]
ONNX = ("fp32", "fp16", "int8", "int4-b32")
BITS = {"fp32": 32, "fp16": 16, "int8": 9, "int4-b32": 5}


def export(model_dir: Path, scheme: str, out: Path) -> dict[str, Any]:
    return export_onnx(model_dir, Scheme("onnx", scheme), META, out, SilentProgress())


def qwen(directory: Path, family: str, *, hidden: int = 64, tied: bool = True) -> torch.nn.Module:
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    made: Any = {"qwen2": (Qwen2Config, Qwen2ForCausalLM), "qwen3": (Qwen3Config, Qwen3ForCausalLM)}[family]
    extra = {"head_dim": 16} if family == "qwen3" else {}
    torch.manual_seed(1)
    config = made[0](
        vocab_size=400, hidden_size=hidden, intermediate_size=100, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=tied, initializer_range=0.1,
        bos_token_id=1, eos_token_id=2, pad_token_id=2, **extra,
    )  # fmt: skip
    model = made[1](config).eval()
    tiny_tokenizer(directory)
    return saved(model, directory)


def saved(model: Any, directory: Path) -> torch.nn.Module:
    """Save it with norms and biases that are not all one and zero: a wrong one would else not show."""
    for parameter in model.parameters():
        if parameter.ndim == 1:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    model.save_pretrained(directory)
    return model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    directory = tmp_path_factory.mktemp("llama") / "model"
    return directory, saved(tiny_llama(directory), directory)


@pytest.fixture(scope="module")
def exported(llama: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("onnx")
    for scheme in ONNX:
        export(llama[0], scheme, root / scheme)
    return {scheme: root / scheme for scheme in ONNX}


def torch_logits(model: torch.nn.Module, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


# --- decoders -------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "untied llama", "qwen2", "qwen3", "wide 90"])
def test_fp32_gives_torchs_logits(family: str, tmp_path: Path) -> None:
    source = tmp_path / "model"
    if family.endswith("llama"):
        model: Any = saved(tiny_llama(source, tied=family == "llama"), source)
    elif family == "wide 90":
        model = qwen(source, "qwen3", hidden=90)
    else:
        model = qwen(source, family)
    export(source, "fp32", tmp_path / "onnx")
    runtime = OnnxRuntime(tmp_path / "onnx", context=64)
    assert runtime.shared_cache
    expected = torch_logits(model, PROMPT)
    np.testing.assert_allclose(runtime.logits(PROMPT, range(len(PROMPT))), expected, atol=2e-4)
    np.testing.assert_allclose(runtime.prefill(PROMPT), expected[-1], atol=2e-4)


@pytest.mark.parametrize("scheme", ONNX)
def test_decoding_token_by_token_equals_prefill(scheme: str, exported: dict[str, Path]) -> None:
    runtime = OnnxRuntime(exported[scheme], context=64)
    rows = runtime.logits(PROMPT, range(len(PROMPT)))
    scale = float(np.abs(rows).max())
    tolerance = 2e-5 * scale if scheme.startswith("fp") else 2e-3 * scale  # rounded activations
    got = [runtime.prefill(PROMPT[:4])] + [runtime.decode(token) for token in PROMPT[4:]]
    np.testing.assert_allclose(np.stack(got), rows[3:], atol=tolerance)
    np.testing.assert_array_equal(runtime.prefill(PROMPT[:4]), got[0])  # the cache was emptied


def test_a_long_prompt_goes_in_pieces(llama: tuple[Path, Any], exported: dict[str, Path]) -> None:
    ids = np.random.default_rng(0).integers(3, 400, 300).tolist()
    runtime = OnnxRuntime(exported["fp32"], context=400)
    expected = torch_logits(llama[1], ids)
    np.testing.assert_allclose(runtime.logits(ids, [0, 255, 256, 299]), expected[[0, 255, 256, 299]], atol=5e-4)
    np.testing.assert_allclose(runtime.prefill(ids), expected[-1], atol=5e-4)


def test_rows_of_different_lengths_in_one_batch(llama: tuple[Path, Any], exported: dict[str, Path]) -> None:
    session = onnxruntime.InferenceSession(str(exported["fp32"] / "model.onnx"))
    short = PROMPT[:5]
    ids = np.array([PROMPT, short + [2] * (len(PROMPT) - len(short))])
    mask = np.array([[1] * len(PROMPT), [1] * len(short) + [0] * (len(PROMPT) - len(short))])
    feed = {"input_ids": ids, "attention_mask": mask}
    for item in session.get_inputs():
        if item.name.startswith("past_key_values."):
            feed[item.name] = np.zeros((2, item.shape[1], 0, item.shape[3]), dtype=np.float32)
    logits = session.run(["logits"], feed)[0]
    np.testing.assert_allclose(logits[0], torch_logits(llama[1], PROMPT), atol=2e-4)
    np.testing.assert_allclose(logits[1, : len(short)], torch_logits(llama[1], short), atol=2e-4)


def test_the_graph_has_the_fused_operators_and_one_copy_of_the_weights(
    llama: tuple[Path, Any], exported: dict[str, Path]
) -> None:
    weights = sum(each.numel() for each in llama[1].parameters())
    for scheme, directory in exported.items():
        assert sorted(path.name for path in directory.glob("*.onnx*")) == ["model.onnx", "model.onnx.data"]
        operators = [node.op_type for node in onnx.load(directory / "model.onnx", load_external_data=False).graph.node]
        assert operators.count("GroupQueryAttention") == 2
        assert operators.count("SkipSimplifiedLayerNormalization") == 4
        assert "Softmax" not in operators
        rotary = 2 * 512 * 8 * 4
        size = (directory / "model.onnx.data").stat().st_size
        assert size <= 1.02 * weights * BITS[scheme] / 8 + rotary + 4096


@pytest.mark.parametrize(("scheme", "limit"), [("fp16", 1e-5), ("int8", 1e-3), ("int4-b32", 0.3)])
def test_a_scheme_stays_close_to_the_model(
    scheme: str, limit: float, llama: tuple[Path, Any], exported: dict[str, Path]
) -> None:
    """Mean KL(torch || file) in nats."""
    reference = torch.log_softmax(torch.tensor(torch_logits(llama[1], PROMPT)).double(), -1)
    rows = OnnxRuntime(exported[scheme], context=64).logits(PROMPT, range(len(PROMPT)))
    ours = torch.log_softmax(torch.tensor(rows).double(), -1)
    assert float((reference.exp() * (reference - ours)).sum(-1).mean()) < limit


def test_export_json_says_what_was_written(exported: dict[str, Path]) -> None:
    for scheme, directory in exported.items():
        facts = json.loads((directory / "export.json").read_text())
        files = [*(directory / name for name in facts["graphs"]), directory / "model.onnx.data"]
        assert facts["size_bytes"] == sum(path.stat().st_size for path in files)
        assert BITS[scheme] <= facts["effective_bits"] <= 1.5 * BITS[scheme]  # norms and rotary tables stay fp32
        assert facts["fallbacks"] == []
        stored = sum(entry["bytes"] for entry in facts["types"].values())
        assert stored == pytest.approx(
            (directory / "model.onnx.data").stat().st_size, rel=0.05
        )  # norms lie in the graph
        props = {p.key: p.value for p in onnx.load(directory / "model.onnx", load_external_data=False).metadata_props}
        assert props["distill2edge.licence"] == "MIT"
        assert props["distill2edge.recipe_key"] == "k"
        assert not list(directory.glob("scratch-*"))


@pytest.mark.parametrize("scheme", ["fp32", "int4-b32"])
def test_onnxruntime_genai_runs_it(scheme: str, exported: dict[str, Path]) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    runtime = OnnxRuntime(exported[scheme], context=64)
    token, expected = int(runtime.prefill(PROMPT).argmax()), []
    for _ in range(8):
        expected.append(token)
        if token == 2:
            break
        token = int(runtime.decode(token).argmax())
    model = genai.Model(str(exported[scheme]))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(PROMPT) + 8, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(np.array(PROMPT, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    assert generator.get_sequence(0).tolist()[len(PROMPT) :] == expected
    assert genai.Tokenizer(model).encode("the quick brown fox").size > 0


# --- what goes wrong ------------------------------------------------------------------


def test_bad_input_is_told_with_its_fix(exported: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such ONNX file"):
        OnnxRuntime(tmp_path)
    broken = tmp_path / "broken"
    broken.mkdir()
    whole = (exported["int8"] / "model.onnx").read_bytes()
    (broken / "model.onnx").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot load"):
        open_runtime("onnxruntime", broken, threads=1)
    (broken / "model.onnx").write_bytes(whole)
    (broken / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(UserError, match="cannot load"):
        open_runtime("onnxruntime", broken, threads=1)
    runtime = OnnxRuntime(exported["int8"], context=16)
    with pytest.raises(ValueError, match="do not fit"):
        runtime.prefill(list(range(17)))
    with pytest.raises(ValueError, match="token ids"):
        runtime.prefill([5, 400])
    with pytest.raises(UserError, match="not an ONNX scheme"):
        export_onnx(tmp_path, parse_scheme("gguf:Q4_0"), META, tmp_path, SilentProgress())
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["WhisperForAudioClassification"]}))
    with pytest.raises(UserError, match="cannot be exported"):
        export(tmp_path, "fp32", tmp_path / "out")
    (tmp_path / "config.json").write_text(json.dumps({"architectures": None}))
    with pytest.raises(UserError, match="type unknown"):
        export(tmp_path, "fp32", tmp_path / "out")


def test_an_unknown_decoder_names_the_families(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny_tokenizer(tmp_path / "model")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=1, n_head=2, n_positions=64))
    model.save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    with pytest.raises(UserError, match="gpt2") as caught:
        export(tmp_path / "model", "fp32", tmp_path / "onnx")
    assert "Llama" in caught.value.fix
