"""The table of what each format carries: its defaults are transformers', its words name the reason; no weights."""

from __future__ import annotations

from typing import Any

import pytest

from distill2edge.errors import UserError
from distill2edge.export import converted
from distill2edge.export.support import GGUF, ONNX_DECODERS, refusals, refuse, window_of
from distill2edge.models.kinds import DECODER, ENCODER_DECODER, kind_of
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.tasks import TASKS

ROPE = {"rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}


def reasons(config: dict[str, Any], *schemes: str, task: str = "causal-lm", **more: Any) -> dict[str, str]:
    found = refusals(
        config, TASKS[task].exported(kind_of(config)), [parse_scheme(scheme) for scheme in schemes], **more
    )
    return {str(refusal.scheme): refusal.reason for refusal in found}


@pytest.mark.parametrize(("table", "family"), [(t, f) for t in (ONNX_DECODERS, GGUF) for f in t])
def test_defaults_are_those_of_transformers(table: Any, family: str) -> None:
    from transformers import AutoConfig

    config, carries = AutoConfig.for_model(family), table[family]
    for name, value in carries.defaults.items():
        actual = getattr(config, name, None)
        if name == "hidden_act":
            actual = getattr(config, "hidden_activation", None) or actual
        assert actual == value, name
    # What a bare directory says and what its loaded configuration says are refused alike.
    for scheme in ("onnx:fp32", "gguf:F32"):
        task = "seq2seq" if config.is_encoder_decoder else "causal-lm"
        assert reasons({"model_type": family}, scheme, task=task) == reasons(config.to_dict(), scheme, task=task)


@pytest.mark.parametrize("written", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_a_rotary_scaling_is_seen_however_it_is_written(written: str, key: str) -> None:
    config = {"model_type": "llama", written: {**ROPE, key: "dynamic"}, "max_position_embeddings": 128}
    assert "rotary scaling 'dynamic'" in reasons(config, "gguf:Q4_0", "onnx:int8")["gguf:Q4_0"]
    yarn = {"model_type": "qwen2", written: {**ROPE, key: "yarn"}}
    assert reasons(yarn, "gguf:Q4_0", "onnx:int8") == {}
    own = {"model_type": "qwen2", written: {**ROPE, key: "yarn", "beta_fast": 16}}
    assert "beta_fast" in reasons(own, "gguf:Q4_0", "onnx:int8")["gguf:Q4_0"]


@pytest.mark.parametrize(
    ("config", "slides"),
    [
        ({"model_type": "mistral"}, True),  # transformers' own default is 4,096
        ({"model_type": "mistral", "sliding_window": None}, False),
        ({"model_type": "mistral", "sliding_window": 16}, True),
        ({"model_type": "qwen2", "sliding_window": 16}, False),
        ({"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1,
          "num_hidden_layers": 2}, True),
        ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"]}, True),
    ],
)  # fmt: skip
def test_sliding_windows_are_seen(config: dict[str, Any], slides: bool) -> None:
    found = reasons(config, "gguf:F16", "onnx:fp32")
    assert found == ({"gguf:F16": f"sliding-window attention cannot be expressed in a {config['model_type']} GGUF"}
                     if slides else {})  # fmt: skip


def test_texts_longer_than_the_first_factors_are_refused() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [2.0], "rope_theta": 1e4}
    config = {"model_type": "phi3", "rope_scaling": rope, "max_position_embeddings": 256,
              "original_max_position_embeddings": 64}  # fmt: skip
    assert window_of(config) == 64
    assert reasons(config, "onnx:int8", length=64) == {}
    assert "end at 64" in reasons(config, "onnx:int8", length=65)["onnx:int8"]


def test_unknown_families_and_kinds() -> None:
    gpt2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
    assert "nothing writes GPT2LMHeadModel as GGUF" in reasons(gpt2, "gguf:F16")["gguf:F16"]
    assert reasons(gpt2, "gguf:F16", known={"GPT2LMHeadModel"}) == {}
    t5 = {"model_type": "bart", "is_encoder_decoder": True, "architectures": ["BartForConditionalGeneration"]}
    assert "supported: Llama" in reasons(t5, "gguf:F16", known={"BartForConditionalGeneration"})["gguf:F16"]
    assert (
        "no ONNX exporter here for a decoder of type gpt2" in reasons({"model_type": "gpt2"}, "onnx:fp32")["onnx:fp32"]
    )
    assert reasons({"model_type": "gpt2"}, "gguf:F16", known=None) == {}
    roberta = {"model_type": "roberta", "architectures": ["RobertaForMaskedLM"]}
    assert list(reasons(roberta, "gguf:F16", "onnx:int8", task="classification")) == ["gguf:F16"]
    assert list(reasons({"model_type": "llama"}, "onnx:int8-dynamic")) == ["onnx:int8-dynamic"]
    assert reasons({"model_type": "bert"}, "gguf:F16", "onnx:int8-dynamic", task="classification") == {}
    with pytest.raises(UserError, match="gguf:F16: rotary scaling") as caught:
        refuse({"model_type": "qwen3", "rope_parameters": {"rope_type": "llama3"}}, DECODER,
               parse_scheme("gguf:F16"), "teacher/config.json")  # fmt: skip
    assert "--converter" in caught.value.fix


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"model_type": "phi", "num_attention_heads": 4, "num_key_value_heads": 2}, "2 key-value heads for 4 heads"),
        ({"model_type": "phi", "hidden_size": 64, "intermediate_size": 128}, "intermediate_size 128"),
        ({"model_type": "phi", "hidden_size": 64, "intermediate_size": 256, "num_key_value_heads": None}, ""),
        ({"model_type": "phi"}, ""),
        ({"model_type": "smollm3", "no_rope_layers": [1, 0]}, "layer 1 (in llama.cpp every fourth layer"),
        ({"model_type": "smollm3", "no_rope_layers": [1, 1, 1, 0, 1]}, ""),
        ({"model_type": "smollm3", "no_rope_layer_interval": 2}, "every fourth layer"),
        ({"model_type": "smollm3"}, ""),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "no layer with a sliding window"),
        ({"model_type": "gemma2", "layer_types": ["sliding_attention", "full_attention"]}, ""),
        ({"model_type": "qwen3_5_text", "head_dim": 16}, "mrope_section [11, 11, 10] on heads of 16"),
        ({"model_type": "qwen3_5_text"}, ""),
    ],
)
def test_what_llama_cpp_cannot_run_of_a_converted_family_is_refused(config: dict[str, Any], said: str) -> None:
    """Each was an aborted process, or another model, in llama.cpp."""
    config = {"architectures": ["Known"], **config}
    found = reasons(config, "gguf:Q8_0", known={"Known"})
    assert bool(found) == bool(said)
    assert said in found.get("gguf:Q8_0", "")


@pytest.mark.parametrize("value", [None, 0, -1, "x", [], {}, [1], {"a": 1}, True, 1e400])
def test_nonsense_is_no_traceback(value: Any) -> None:
    """The loader says what is wrong with a directory; the table only has to live with it."""
    fields = ("architectures", "rope_parameters", "rope_scaling", "sliding_window", "layer_types", "num_hidden_layers",
              "max_position_embeddings", "num_attention_heads", "hidden_act", "head_dim", "feed_forward_proj",
              "num_decoder_layers", "max_window_layers", "query_pre_attn_scalar", "model_type")  # fmt: skip
    for family in {*ONNX_DECODERS, *GGUF}:
        for name in fields:
            config = {"model_type": family, name: value}
            refusals(config, kind_of(config), [parse_scheme("gguf:F16")], length=5)
            refusals(config, ENCODER_DECODER, [parse_scheme("onnx:fp32")], length=5)
    for family in converted.TABLE:
        for name in (*fields, "no_rope_layers", "no_rope_layer_interval", "num_key_value_heads", "intermediate_size"):
            list(converted.refused({"model_type": family, name: value}))
