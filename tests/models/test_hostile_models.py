"""Models whose files say what no model could mean: refused with file and field, before anything is allocated."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_bert, tiny_llama

from distill2edge.errors import UserError
from distill2edge.intake.obtain import fetch_model
from distill2edge.models.config import check_fields
from distill2edge.models.directory import read_directory
from distill2edge.util.files import read_object
from distill2edge.util.progress import SilentProgress


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    tiny_llama(root / "llama")
    tiny_bert(root / "bert")
    return {"llama": root / "llama", "bert": root / "bert"}


def edited(source: Path, target: Path, file: str, **changes: Any) -> Path:
    shutil.copytree(source, target)
    path = target / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return target


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_hidden_layers", 10**9), ("num_hidden_layers", "2"), ("num_hidden_layers", None),
        ("num_hidden_layers", 2.0), ("num_hidden_layers", True), ("num_hidden_layers", -1),
        ("num_hidden_layers", [2]), ("hidden_size", 10**7),
        ("hidden_size", 0), ("vocab_size", 10**12), ("vocab_size", 401), ("intermediate_size", 1 << 23),
        ("num_key_value_heads", 3), ("num_key_value_heads", 0), ("num_labels", 10**9),
        ("max_position_embeddings", -1), ("rms_norm_eps", float("inf")), ("rms_norm_eps", "1e-6"), ("rms_norm_eps", -1),
        ("eos_token_id", 400), ("eos_token_id", "2"), ("bos_token_id", -1), ("eos_token_id", [1, 10**6]),
        ("tie_word_embeddings", "yes"), ("hidden_act", 3), ("hidden_act", "x" * 1000), ("model_type", None),
        ("id2label", {str(n): "x" for n in range(70_000)}), ("id2label", ["a"]), ("id2label", {"a": "b"}),
        ("architectures", "LlamaForCausalLM"), ("layer_types", [1]),
    ],
)  # fmt: skip
def test_a_field_of_config_json_that_no_model_could_mean(
    field: str, value: Any, sources: dict[str, Path], tmp_path: Path
) -> None:
    path = edited(sources["llama"], tmp_path / "model", "config.json", **{field: value})
    with pytest.raises(UserError) as caught:
        read_directory(path)
    assert caught.value.where == f"{path / 'config.json'}: {field}"
    assert caught.value.fix


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("config.json", {"model_type": "nonsense"}, "config.json.*not a model that transformers knows"),
        ("config.json", {"hidden_act": "nonsense"}, "model: its weights can't be read with its config.*nonsense"),
        ("config.json", {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1e4}}, "nonsense"),
        ("config.json", {"architectures": ["GenerationConfig"]}, "config.json: architectures"),
        ("config.json", {"num_attention_heads": 2, "head_dim": None}, "num_attention_heads|shape"),
        ("config.json", {"head_dim": 1 << 23}, "shape"),
        ("config.json", {"max_position_embeddings": 1 << 40}, "config.json: max_position_embeddings"),
        ("generation_config.json", {"eos_token_id": 400}, "generation_config.json: eos_token_id"),
        ("tokenizer_config.json", {"eos_token": 7}, "tokenizer_config.json: eos_token"),
        ("tokenizer_config.json", {"eos_token": "<|new|>"}, "eos token has the id 400, the embedding 400 rows"),
        ("tokenizer_config.json", {"model_max_length": "x"}, "tokenizer_config.json: model_max_length"),
        ("tokenizer_config.json", {"padding_side": "up"}, "tokenizer_config.json: padding_side"),
        ("tokenizer.json", {"model": None}, "tokenizer.json"),
        ("tokenizer.json", {"padding": {"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_to_multiple_of": None,
                                        "pad_id": 0, "pad_type_id": 0, "pad_token": "x"}}, "tokenizer.json"),
        ("tokenizer.json", {"normalizer": {"type": "Replace", "pattern": {"Regex": "("}, "content": ""}}, "tokenizer"),
        ("tokenizer.json", {"truncation": {"max_length": 0, "strategy": "LongestFirst", "stride": 9,
                                           "direction": "Right"}}, "tokenizer"),
    ],
)  # fmt: skip
def test_files_that_a_library_would_stumble_over(
    file: str, changes: dict[str, Any], words: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    path = edited(sources["llama"], tmp_path / "model", file, **changes)
    begin = time.process_time()
    with pytest.raises(UserError, match=words) as caught:
        fetch_model(str(path), None, tmp_path / "work", SilentProgress(), where="student.init.model")
    assert caught.value.fix
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b'{"a":' * 20_000, b"NaN"])
def test_a_json_file_that_is_none(name: str, raw: bytes, sources: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(sources["bert"], tmp_path / "model"))
    (path / name).write_bytes(raw)
    with pytest.raises(UserError, match=name):
        fetch_model(str(path), None, tmp_path / "work", SilentProgress(), where="student.init.model")


def test_a_json_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(" " * 100)
    with pytest.raises(UserError, match="too many"):
        read_object(path, limit=99)
    path.write_text('{"a": NaN}')
    with pytest.raises(UserError, match="NaN"):
        read_object(path)
    path.write_text('{"a": ' + "9" * 5000 + "}")
    with pytest.raises(UserError, match="not readable JSON"):
        read_object(path)
    path.write_text('{"a": [1, Infinity]}')
    assert read_object(path) == {"a": [1, float("inf")]}


@pytest.mark.parametrize("template", ["{% for", "{{ 'a' * 10**10 }}", "{% for i in range(10**9) %}x{% endfor %}"])
def test_a_hostile_chat_template(template: str, sources: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copytree(sources["llama"], tmp_path / "model"))
    (path / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match="chat template"):
        fetch_model(str(path), None, tmp_path / "work", SilentProgress(), where="student.init.model")


FAMILIES = (
    "albert bart bert camembert deberta-v2 distilbert electra gemma gemma2 gemma3 gemma3_text gpt2 gpt_neo gpt_neox "
    "gpt_oss granite llama mistral mixtral modernbert mpnet mpt mt5 olmo2 opt phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe "
    "roberta smollm3 stablelm t5 xlm-roberta"
)


def test_what_transformers_says_itself_is_taken() -> None:
    from transformers import AutoConfig

    for name in FAMILIES.split():
        config = json.loads(AutoConfig.for_model(name).to_json_string(use_diff=False))
        check_fields(config, Path("config.json"), vocabulary=config.get("text_config", config).get("vocab_size"))


@pytest.mark.parametrize(
    "fields",
    [
        {"moe_intermediate_size": None, "global_head_dim": None, "num_global_key_value_heads": None},  # Gemma 4
        {"num_kv_shared_layers": 0, "num_experts": None},
    ],
)
def test_a_part_that_a_model_does_without_is_no_damage(fields: dict[str, Any], tmp_path: Path) -> None:
    check_fields({"model_type": "gemma4_text", "num_hidden_layers": 2, **fields}, tmp_path / "config.json")
