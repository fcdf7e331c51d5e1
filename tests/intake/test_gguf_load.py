"""GGUF in: a checked header, exact weights, a tokenizer that agrees with llama.cpp, special tokens as stated."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gguf as gguf_library
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.errors import UserError
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.gguf import llama_process, pretokenizers
from distill2edge.gguf.corpus import TEXTS
from distill2edge.gguf.gguf_tokenizer import merges_from_scores
from distill2edge.gguf.reader import check_gguf, read_gguf
from distill2edge.intake import gguf_load
from distill2edge.intake.gguf_load import gguf_to_hf
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.progress import SilentProgress
from tests.tiny import CHAT_TEMPLATE, corpus, tiny_family, tiny_llama

IDS = [1, *np.random.default_rng(0).integers(3, 400, 40).tolist()]


def export(directory: Path, work: Path, scheme: str = "gguf:F32") -> Path:
    export_gguf(
        directory,
        parse_scheme(scheme),
        {"name": "Tiny 1", "licence": "mit"},
        work,
        SilentProgress(),
        rounding=Rounding(threads=1),
    )
    return work / "model.gguf"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    directory = tmp_path_factory.mktemp("load")
    model = tiny_llama(directory / "hf")
    return export(directory / "hf", directory / "out"), model


@pytest.mark.parametrize(
    ("model_type", "changes"),
    [
        ("llama", {}),
        ("llama", {"tie_word_embeddings": False, "attention_bias": True, "mlp_bias": True}),
        (
            "llama",
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500000.0,
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                }
            },
        ),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
        ("gemma3_text", {"num_hidden_layers": 7}),
        (
            "gemma3_text",
            {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"], "num_hidden_layers": 3},
        ),
    ],
)
def test_there_and_back(model_type: str, changes: dict, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_family(tmp_path / "hf", model_type, **changes)
    facts = gguf_to_hf(export(tmp_path / "hf", tmp_path / "out"), tmp_path / "back", "float32")
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert type(back) is type(model)
    torch.testing.assert_close(logits(back), logits(model), atol=1e-5, rtol=1e-5)
    assert facts["parameters"] >= back.num_parameters()
    before, after = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("hf", "back"))
    for text in TEXTS:
        assert after(text).input_ids == before(text).input_ids
        assert after.decode(after(text).input_ids) == text


def test_special_tokens_template_and_facts_are_the_files_own(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    from transformers import AutoTokenizer, GenerationConfig

    facts = gguf_to_hf(tiny[0], tmp_path, "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert tokenizer("x").input_ids[0] != 1  # no BOS is added, as the file says
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == 2
    assert facts["name"] == "Tiny 1"
    assert facts["licence"] == "mit"
    assert (facts["bos"], facts["eos"], facts["pad"], facts["add_bos"]) == (1, 2, 2, False)
    from safetensors.torch import load_file

    assert {weight.dtype for weight in load_file(tmp_path / "model.safetensors").values()} == {torch.bfloat16}


def test_quantized_file_becomes_what_llama_cpp_dequantizes(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    source = export(tiny[0].parents[1] / "hf", tmp_path / "q", "gguf:Q4_0")
    facts = gguf_to_hf(source, tmp_path / "back")
    assert facts["quantization"]["Q4_0"] == 14
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "back").model.layers[1].mlp.down_proj.weight
    original = tiny[1].model.layers[1].mlp.down_proj.weight
    relative = ((weight - original).norm() / original.norm()).item()
    assert 0.01 < relative < 0.15  # 4-bit rounding, and no more than that


def test_large_models_are_written_in_shards(tiny: tuple[Path, Any], tmp_path: Path, monkeypatch: Any) -> None:
    from transformers import AutoModelForCausalLM

    monkeypatch.setattr(gguf_load, "SHARD_BYTES", 100_000)
    gguf_to_hf(tiny[0], tmp_path)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    assert not (tmp_path / "model.safetensors").exists()
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(tmp_path)), logits(tiny[1]))


# --- tokenizers ---------------------------------------------------------------


def train_sentencepiece(directory: Path, *, prefix: bool, kind: str = "bpe") -> Any:
    import sentencepiece

    (directory / "text.txt").write_text("".join(corpus()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(directory / "text.txt"),
        model_prefix=str(directory / "spm"),
        model_type=kind,
        vocab_size=460,
        byte_fallback=True,
        split_digits=True,
        add_dummy_prefix=prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        character_coverage=0.99,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(model_file=str(directory / "spm.model"))


def save_sentencepiece(processor: Any, directory: Path, *, prefix: bool, bos: bool) -> None:
    """The fast tokenizer that Hugging Face makes of a SentencePiece BPE model."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    scores = [processor.get_score(index) for index in range(len(pieces))]
    core = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=merges_from_scores(pieces, scores),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    replace = normalizers.Replace(" ", "\u2581")
    core.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if prefix else replace
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    core.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")])
    if bos:
        core.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(directory)


@pytest.mark.parametrize(("prefix", "bos"), [(True, True), (False, True), (True, False)])
def test_sentencepiece_there_and_back(prefix: bool, bos: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    processor = train_sentencepiece(tmp_path, prefix=prefix)
    tiny_family(tmp_path / "hf", "llama", vocab_size=460, tokenizer=False)
    save_sentencepiece(processor, tmp_path / "hf", prefix=prefix, bos=bos)
    path = export(tmp_path / "hf", tmp_path / "out")
    file = read_gguf(path)
    assert file.get("tokenizer.ggml.model") == "llama"
    assert file.get("tokenizer.ggml.add_space_prefix") is prefix
    assert file.get("tokenizer.ggml.add_bos_token") is bos
    texts = [text for text in TEXTS if "\u200b" not in text]
    wanted = [processor.encode(text) for text in texts]  # the reference: SentencePiece itself
    assert llama_process.tokenize(path, texts) == wanted
    gguf_to_hf(path, tmp_path / "back")
    back = AutoTokenizer.from_pretrained(tmp_path / "back")
    for text, ids in zip(texts, wanted, strict=True):
        assert back(text, add_special_tokens=False).input_ids == ids
        assert back(text).input_ids == ([1, *ids] if bos else ids)


def train_byte_level(name: str, directory: Path) -> None:
    """Save a byte-level BPE of 600 tokens that cuts text as llama.cpp's pre-tokenizer `name`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    ignoring = pretokenizers.ignores_merges(name)
    assert pretokenizers.detect(pretokenizers.build(name), ignoring) == name
    core = Tokenizer(models.BPE(ignore_merges=ignoring))
    core.pre_tokenizer, core.decoder = pretokenizers.build(name), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*corpus(), *TEXTS * 3], trainer)
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>").save_pretrained(directory)


@pytest.mark.parametrize("name", ["smollm", "gpt-2", "qwen2", "llama-bpe", "gpt-4o"])
def test_pre_tokenizers_cut_as_llama_cpp_does(name: str, tmp_path: Path) -> None:
    """A byte-level BPE trained with each pre-tokenizer goes out and comes back with the same ids."""
    from transformers import AutoTokenizer

    tiny_family(tmp_path / "hf", "llama", vocab_size=600, tokenizer=False)
    train_byte_level(name, tmp_path / "hf")
    path = export(tmp_path / "hf", tmp_path / "out")
    assert read_gguf(path).get("tokenizer.ggml.pre") == name
    gguf_to_hf(path, tmp_path / "back")
    before, after = (AutoTokenizer.from_pretrained(tmp_path / folder) for folder in ("hf", "back"))
    assert [after(text).input_ids for text in TEXTS] == [before(text).input_ids for text in TEXTS]


def test_a_rebuilt_tokenizer_that_disagrees_is_refused(
    tiny: tuple[Path, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(llama_process, "tokenize", lambda path, texts: [[0] for _ in texts])
    with pytest.raises(UserError, match="disagrees with llama"):
        gguf_to_hf(tiny[0], tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_directory_that_transformers_would_read_differently_is_refused(tmp_path: Path) -> None:
    """AutoTokenizer puts Qwen's own pre-tokenizer on every qwen2 directory, whatever its tokenizer.json says."""
    tiny_family(tmp_path / "hf", "qwen2", vocab_size=600, tokenizer=False)
    train_byte_level("gpt-2", tmp_path / "hf")
    raw = export(tmp_path / "hf", tmp_path / "out").read_bytes()
    key = b"tokenizer.ggml.pre" + (8).to_bytes(4, "little")  # a string
    assert key + _string("qwen2") in raw
    other = tmp_path / "other.gguf"
    other.write_bytes(raw.replace(key + _string("qwen2"), key + _string("gpt-2")))
    with pytest.raises(UserError, match="transformers reads the saved tokenizer differently"):
        gguf_to_hf(other, tmp_path / "back")


# --- damaged and hostile files ---------------------------------------------------


def test_truncated_anywhere_is_refused(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    whole = tiny[0].read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in (0, 3, 10, 23, 24, 100, 1000, 5000, len(whole) // 2, len(whole) - 64):
        cut.write_bytes(whole[:size])
        for read in (read_gguf, check_gguf):
            with pytest.raises(UserError) as caught:
                read(cut)
            assert caught.value.fix
    with pytest.raises(UserError):
        gguf_to_hf(cut, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_not_a_gguf(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such"):
        read_gguf(tmp_path / "missing.gguf")
    other = tmp_path / "x.gguf"
    other.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(UserError, match="letters GGUF"):
        read_gguf(other)
    other.write_bytes(b"GGUF" + struct.pack("<IQQ", 99, 0, 0))
    with pytest.raises(UserError, match="version 99"):
        read_gguf(other)
    other.write_bytes(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))
    with pytest.raises(UserError, match="big-endian"):
        read_gguf(other)


def _string(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _file(fields: bytes, count: int, tensors: bytes = b"", tensor_count: int = 0, data: bytes = b"") -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", 3, tensor_count, count) + fields + tensors
    return header + bytes(-len(header) % 32) + data


ARCH = _string("general.architecture") + struct.pack("<I", 8) + _string("llama")


def _tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return _string(name) + dims + struct.pack("<IQ", kind, offset)


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "claims"),
        (_file(struct.pack("<Q", 1 << 62), 1), "does not fit"),
        (_file(_string("k") + struct.pack("<IIQ", 9, 4, 1 << 61), 1), "does not fit"),
        (_file(_string("k") + struct.pack("<IIQ", 9, 8, 1 << 61), 1), "does not fit"),
        (_file(_string("k") + struct.pack("<IIQ", 9, 9, 1), 1), "unknown array type"),
        (_file(_string("k") + struct.pack("<I", 77), 1), "unknown value type"),
        (_file(ARCH + ARCH, 2), "twice"),
        (_file(b"", 0), "general.architecture"),
        (_file(ARCH, 1, _tensor("t", (32,), 0, 0), 1), "needs bytes"),
        (_file(ARCH, 1, _tensor("t", (32,), 0, 1 << 62), 1, bytes(128)), "needs bytes"),
        (_file(ARCH, 1, _tensor("t", (32,), 0, 4), 1, bytes(256)), "not aligned"),
        (_file(ARCH, 1, _tensor("t", (33,), 2, 0), 1, bytes(256)), "does not allow"),
        (_file(ARCH, 1, _tensor("t", (0,), 0, 0), 1, bytes(256)), "does not allow"),
        (_file(ARCH, 1, _tensor("t", (1 << 40, 1 << 40), 0, 0), 1, bytes(256)), "does not allow"),
        (_file(ARCH, 1, _tensor("t", (32,), 200, 0), 1, bytes(256)), "unknown type"),
        (_file(ARCH, 1, _tensor("t", (32,) * 5, 0, 0), 1, bytes(256)), "dimensions"),
        (_file(ARCH, 1, _tensor("t", (32,), 0, 0) * 2, 2, bytes(256)), "twice"),
        (_file(ARCH, 1, _tensor("t", (32,), 0, 0) + _tensor("u", (32,), 0, 0), 2, bytes(256)), "overlaps"),
    ],
)
def test_hostile_headers_are_refused(raw: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(UserError, match=what):
        read_gguf(tmp_path / "bad.gguf")


@settings(max_examples=300)
@given(position=st.integers(4, 4000), value=st.integers(0, 255), width=st.integers(1, 8))
def test_a_damaged_header_never_raises_anything_else(
    tiny: tuple[Path, Any], tmp_path_factory: pytest.TempPathFactory, position: int, value: int, width: int
) -> None:
    raw = bytearray(tiny[0].read_bytes())
    raw[position : position + width] = bytes([value]) * width
    path = tmp_path_factory.getbasetemp() / "damaged.gguf"
    path.write_bytes(raw)
    try:
        file = read_gguf(path)
    except UserError:
        return
    assert all(info.offset + info.size <= file.size for info in file.tensors.values())


def test_reads_what_the_reference_library_reads(tiny: tuple[Path, Any]) -> None:
    ours, theirs = read_gguf(tiny[0]), gguf_library.GGUFReader(tiny[0])
    fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.fields == fields
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        info = ours.tensors[tensor.name]
        assert (info.offset, info.size, info.shape) == (
            tensor.data_offset,
            tensor.n_bytes,
            tuple(reversed(tensor.shape.tolist())),
        )
        np.testing.assert_array_equal(ours.tensor(tensor.name).ravel(), tensor.data.ravel())


def test_unsupported_architecture_and_tokenizer(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    raw = tiny[0].read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(raw.replace(_string("llama"), _string("mamba"), 1))
    with pytest.raises(UserError, match=r"mamba.*Llama.*Qwen2.*Gemma 3"):
        gguf_to_hf(other, tmp_path / "back")
    other.write_bytes(raw.replace(_string("smollm"), _string("smolly")))
    with pytest.raises(UserError, match=r"smolly.*known"):
        gguf_to_hf(other, tmp_path / "back")
    assert not (tmp_path / "back").exists()
