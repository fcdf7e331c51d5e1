"""Tensors that are missing, unexpected, misshapen or not finite are refused wherever a model comes in."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_bert, tiny_family, tiny_llama, tiny_t5

from distill2edge.errors import UserError
from distill2edge.gguf.finite import check_finite
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake.facts import model_facts
from distill2edge.intake.gguf_load import gguf_to_hf
from distill2edge.intake.obtain import fetch_model, materialise
from distill2edge.models.checkpoint import load_adapter, load_checkpoint
from distill2edge.models.loading import load_model
from distill2edge.runtimes import open_runtime
from distill2edge.util.progress import SilentProgress

Tensors = dict[str, torch.Tensor]
UP = "model.layers.1.mlp.up_proj.weight"
CHANGES: dict[str, tuple[Callable[[Tensors], Any], str]] = {
    "missing": (lambda w: w.pop(UP), rf"missing.*{UP}"),
    "missing norm": (lambda w: w.pop("model.norm.weight"), r"missing.*model\.norm\.weight"),
    "missing embedding": (lambda w: w.pop("model.embed_tokens.weight"), "vocab_size: 400"),
    "unexpected": (lambda w: w.update(extra=torch.zeros(3)), "does not have.*extra"),
    "one layer more": (lambda w: w.update({UP.replace(".1.", ".7."): torch.zeros(128, 64)}), "does not have"),
    "misshapen": (lambda w: w.update({UP: torch.zeros(127, 64)}), r"shape \[127, 64\].*\[128, 64\]"),
    "transposed": (lambda w: w.update({UP: torch.zeros(64, 128)}), "shape"),
    "whole numbers": (lambda w: w.update({UP: torch.zeros(128, 64, dtype=torch.int32)}), "stored as I32"),
}
VALUES = {
    "not a number": (lambda w: w[UP].view(-1)[7].fill_(float("nan")), f"{UP} holds infinite or undefined"),
    "infinite": (lambda w: w[UP].view(-1)[7].fill_(float("-inf")), f"{UP} holds infinite or undefined"),
    "two heads": (lambda w: w.update({"lm_head.weight": torch.zeros(400, 64)}), "tie_word_embeddings"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama") / "model"
    tiny_llama(directory)
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    return directory


def changed(source: Path, target: Path, change: Callable[[Tensors], Any]) -> Path:
    shutil.copytree(source, target)
    weights = {name: value.clone() for name, value in load_file(source / "model.safetensors").items()}
    change(weights)
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def as_teacher(path: Path, work: Path) -> None:
    materialise(str(path), None, None, None, work, SilentProgress())


def as_checkpoint(path: Path, work: Path) -> None:
    fetch_model(str(path), None, work, SilentProgress(), where="student.init.model")


def as_runtime(path: Path, work: Path) -> None:
    open_runtime("torch", path, threads=1)


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("load", [as_teacher, as_checkpoint, as_runtime])
def test_a_directory_with_other_tensors_is_refused(load: Any, name: str, llama: Path, tmp_path: Path) -> None:
    change, words = CHANGES[name]
    with pytest.raises(UserError, match=words) as caught:
        load(changed(llama, tmp_path / "model", change), tmp_path / "work")
    assert str(tmp_path / "model") in str(caught.value)  # the user's own place, not the copy
    assert caught.value.fix


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("load", [as_teacher, as_checkpoint])
def test_values_that_no_model_has_are_refused(load: Any, name: str, llama: Path, tmp_path: Path) -> None:
    change, words = VALUES[name]
    with pytest.raises(UserError, match=words):
        load(changed(llama, tmp_path / "model", change), tmp_path / "work")


@pytest.mark.parametrize("twin", ["model.embed_tokens.weight"])
def test_a_tied_head_may_be_stored_or_left_out(twin: str, llama: Path, tmp_path: Path) -> None:
    path = changed(llama, tmp_path / "model", lambda w: w.update({"lm_head.weight": w[twin].clone()}))
    as_teacher(path, tmp_path / "work")
    as_teacher(llama, tmp_path / "work")


def test_every_kind_of_model_that_is_whole_is_taken(tmp_path: Path) -> None:
    tiny_bert(tmp_path / "classifier")
    tiny_bert(tmp_path / "masked", masked=True)
    tiny_t5(tmp_path / "t5")
    tiny_family(tmp_path / "untied", "qwen2", tie_word_embeddings=False)
    tiny_family(tmp_path / "gemma", "gemma3_text")
    for name in ("classifier", "masked", "t5", "untied", "gemma"):
        as_checkpoint(tmp_path / name, tmp_path / "work")
        assert model_facts(tmp_path / name).parameters > 10_000


def zeros(**shapes: tuple[int, ...]) -> Tensors:
    return {name.replace("__", "."): torch.zeros(shape) for name, shape in shapes.items()}


def old_names(weights: Tensors) -> None:
    for name in list(weights):
        weights[name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta")] = weights.pop(name)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("masked", lambda w: w.update({"bert.embeddings.position_ids": torch.arange(128)[None]})),
        ("masked", lambda w: w.update(zeros(cls__seq_relationship__weight=(2, 64), bert__pooler__dense__bias=(64,)))),
        ("masked", old_names),
        ("llama", lambda w: w.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)})),
        ("t5", lambda w: w.update({f"{name}.weight": w["shared.weight"].clone()
                                   for name in ("lm_head", "encoder.embed_tokens", "decoder.embed_tokens")})),
    ],
)  # fmt: skip
def test_what_older_checkpoints_carry_is_taken(kind: str, change: Any, llama: Path, tmp_path: Path) -> None:
    make = {"masked": lambda path: tiny_bert(path, masked=True), "t5": tiny_t5, "llama": tiny_llama}[kind]
    model = make(tmp_path / "model")
    as_checkpoint(changed(tmp_path / "model", tmp_path / "old", change), tmp_path / "work")
    loaded = load_checkpoint(type(model), tmp_path / "work" / "model").state_dict()
    assert all(torch.equal(value, loaded[name]) for name, value in model.state_dict().items())


def test_a_config_that_contradicts_itself_is_refused_when_it_is_loaded(tmp_path: Path) -> None:
    tiny_family(tmp_path, "gemma3_text")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sliding_window": None}))
    with pytest.raises(UserError, match="no text can be read with its config"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="no text can be read with its config"):
        as_runtime(tmp_path, tmp_path)


def sharded(source: Path, target: Path) -> tuple[Path, dict[str, Any]]:
    shutil.copytree(source, target)
    (target / "model.safetensors").unlink()
    load_model(source).save_pretrained(target, max_shard_size="60KB")
    return target, json.loads((target / "model.safetensors.index.json").read_text())


@pytest.mark.parametrize("lie", ["other file", "not there", "left out", "no table", "path", "number"])
def test_an_index_that_lies_is_refused(lie: str, llama: Path, tmp_path: Path) -> None:
    path, index = sharded(llama, tmp_path / "model")
    as_teacher(path, tmp_path / "work")
    table = index["weight_map"]
    if lie == "other file":
        table[UP] = next(file for file in table.values() if file != table[UP])
    elif lie == "not there":
        table["model.layers.9.mlp.up_proj.weight"] = table[UP]
    elif lie == "left out":
        del table[UP]
    elif lie == "no table":
        index["weight_map"] = []
    else:
        table[UP] = "../other.safetensors" if lie == "path" else 7
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"index\.json"):
        as_teacher(path, tmp_path / "work")


def test_a_new_head_is_random_and_nothing_else_is(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    from distill2edge.student.head import with_head

    tiny_bert(tmp_path / "whole", masked=True)
    assert with_head(tmp_path / "whole", ["a", "b"], tmp_path / "out", 0, "student.init.model")
    layer = "bert.encoder.layer.1.output.dense.weight"
    less = changed(tmp_path / "whole", tmp_path / "less", lambda w: w.pop(layer))
    with pytest.raises(UserError, match=layer):
        with_head(less, ["a", "b"], tmp_path / "out", 0, "student.init.model")
    with pytest.raises(UserError, match="classifier"):
        load_checkpoint(AutoModelForSequenceClassification, tmp_path / "whole")


def test_an_adapter_that_lacks_a_tensor_is_refused(llama: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    base = load_model(llama)
    get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    load_adapter(load_model(llama), tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    lost = weights.pop(sorted(weights)[0])
    assert lost is not None
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not the adapter's"):
        load_adapter(load_model(llama), tmp_path / "adapter")


# --- GGUF ---------------------------------------------------------------------


@pytest.fixture(scope="module", params=["llama", "qwen2", "qwen3", "gemma3_text"])
def gguf(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from distill2edge.export.gguf import export_gguf
    from distill2edge.quantize.schemes import parse_scheme

    work = tmp_path_factory.mktemp("gguf")
    tiny_family(work / "hf", request.param)
    export_gguf(work / "hf", parse_scheme("gguf:F16"), {"name": "tiny"}, work / "out", SilentProgress())
    return next((work / "out").glob("*.gguf"))


def rewritten(source: Path, target: Path, drop: str | None = None, **fields: int) -> Path:
    """The same file without a tensor, or with whole-number fields (`block_count=3`) of another value."""
    import gguf as library

    reader = library.GGUFReader(source)
    file = read_gguf(source)
    writer = library.GGUFWriter(target, file.architecture)
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        value = fields.get(key.rpartition(".")[2], field.contents())
        writer.add_key_value(key, value, field.types[0], sub_type=field.types[-1] if len(field.types) > 1 else None)
    for tensor in reader.tensors:
        if tensor.name != drop:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def test_a_gguf_without_any_one_of_its_tensors_is_refused(gguf: Path, tmp_path: Path) -> None:
    assert model_facts(rewritten(gguf, tmp_path / "same.gguf")).layers == 2
    names = [name for name in read_gguf(gguf).tensors if not name.startswith("blk.0.")]
    assert len(names) > 10
    for name in names:
        less = rewritten(gguf, tmp_path / "less.gguf", drop=name)
        with pytest.raises(UserError, match=r"missing|embedding") as caught:
            model_facts(less)
        assert name in str(caught.value) or name == "token_embd.weight"
    with pytest.raises(UserError, match="missing"):
        gguf_to_hf(less, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("kind", ["bert", "t5", "qwen2"])
def test_a_runtime_is_given_no_file_that_it_would_fill_in(kind: str, tmp_path: Path) -> None:
    """llama.cpp does without biases and without a classifier's head, and computes another model."""
    from distill2edge.export.gguf import export_gguf
    from distill2edge.quantize.schemes import parse_scheme

    make = {"bert": tiny_bert, "t5": tiny_t5}.get(kind) or (lambda path: tiny_family(path, "qwen2"))
    make(tmp_path / "hf")
    export_gguf(tmp_path / "hf", parse_scheme("gguf:F16"), {"name": "tiny"}, tmp_path / "out", SilentProgress())
    source = next((tmp_path / "out").glob("*.gguf"))
    open_runtime("llama.cpp", source, threads=1, context=64).close()
    dropped = {
        "bert": ["cls.weight", "cls.output.bias", "blk.1.ffn_up.bias", "token_embd_norm.bias"],
        "t5": ["dec.blk.1.cross_attn_q.weight", "enc.blk.0.attn_rel_b.weight", "enc.blk.1.ffn_gate.weight"],
        "qwen2": ["blk.1.attn_q.bias", "blk.0.attn_norm.weight"],
    }[kind]
    for name in dropped:
        with pytest.raises(UserError, match=f"missing: {name}"):
            open_runtime("llama.cpp", rewritten(source, tmp_path / "less.gguf", drop=name), threads=1, context=64)


@pytest.mark.parametrize(
    ("field", "value"),
    [("block_count", 3), ("block_count", 1), ("block_count", 4_000_000_000), ("embedding_length", 32),
     ("feed_forward_length", 127), ("head_count", 2), ("head_count_kv", 1), ("head_count_kv", 3), ("key_length", 8)],
)  # fmt: skip
def test_a_gguf_whose_metadata_and_tensors_differ_is_refused(
    field: str, value: int, gguf: Path, tmp_path: Path
) -> None:
    other = rewritten(gguf, tmp_path / "other.gguf", **{field: value})
    for load in (model_facts, lambda path: gguf_to_hf(path, tmp_path / "back")):
        with pytest.raises(UserError) as caught:
            load(other)
        assert str(other) in caught.value.where


@pytest.mark.parametrize("kind", [name for name, row in GGML_TYPES.items() if row.halves])
def test_a_scale_that_is_no_number_is_found_in_every_type(kind: str, tmp_path: Path) -> None:
    """As the library that defines the types reads them: a block of zeros with one scale undefined is undefined."""
    import gguf as library

    type_ = library.GGMLQuantizationType[kind]
    size = library.GGML_QUANT_SIZES[type_][1]
    for at in GGML_TYPES[kind].halves:
        for bad in (b"\x00\x7e", b"\x00\x7c", b"\x00\xfc"):
            blocks = np.zeros((3, size), dtype=np.uint8)
            writer = library.GGUFWriter(tmp_path / "x.gguf", "llama")
            writer.add_tensor("fine", blocks.copy(), raw_dtype=type_)
            blocks[2, at : at + 2] = np.frombuffer(bad, dtype=np.uint8)
            writer.add_tensor("bad", blocks, raw_dtype=type_)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            with pytest.raises(UserError, match="tensor bad holds infinite or undefined"):
                check_finite(read_gguf(tmp_path / "x.gguf"))
            with contextlib.suppress(NotImplementedError), np.errstate(all="ignore"):
                if kind not in ("Q8_1",):
                    assert not np.isfinite(library.quants.dequantize(blocks, type_)).all()


def test_chat_answers_by_no_file_whose_weights_are_no_numbers(gguf: Path, tmp_path: Path) -> None:
    from distill2edge.running.opening import open_model

    info = read_gguf(gguf).tensors["blk.1.ffn_up.weight"]
    raw = bytearray(gguf.read_bytes())
    raw[info.offset + info.size - 2 : info.offset + info.size] = b"\x00\x7e"
    (tmp_path / "bad.gguf").write_bytes(raw)
    with pytest.raises(UserError, match=r"blk.1.ffn_up.weight holds infinite or undefined"):
        open_model(tmp_path / "bad.gguf")
    with pytest.raises(UserError, match=r"blk.1.ffn_up.weight holds infinite or undefined"):
        gguf_to_hf(tmp_path / "bad.gguf", tmp_path / "back", weights=False)


def test_chat_answers_by_no_directory_whose_weights_are_no_numbers(llama: Path, tmp_path: Path) -> None:
    def undefined(weights: Tensors) -> None:
        weights["model.embed_tokens.weight"][5] = float("nan")

    from distill2edge.running.opening import open_model

    speaker = open_model(changed(llama, tmp_path / "bad", undefined))
    with pytest.raises(UserError, match="infinite or undefined"):
        list(speaker.generate([1, 5, 7], 2, 0.0))
    speaker.runtime.close()
