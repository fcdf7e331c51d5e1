"""Families and variants that the exports are tried on: one table for the fast and the slow matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Variant:
    """A tiny model.

    Attributes:
        family: `model_type`.
        changes: fields of its configuration.
        onnx, gguf: whether the format carries it; what it does not carry is refused by the table.
        fast: part of the fast suite.
        differs: GGUF fields that make llama.cpp another model if it is let through.
    """

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    onnx: bool = True
    gguf: bool = False
    fast: bool = False


def rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **more}}


_LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
_YARN = {"factor": 4.0, "original_max_position_embeddings": 64}
_LONG = {"short_factor": [1 + 0.1 * n for n in range(8)], "long_factor": [2 + 0.3 * n for n in range(8)],
         "original_max_position_embeddings": 64}  # fmt: skip
_SHORT = {"max_position_embeddings": 256}

VARIANTS: Mapping[str, Variant] = {
    "llama": Variant("llama", gguf=True),
    "llama untied": Variant("llama", {"tie_word_embeddings": False}, gguf=True),
    "llama biases": Variant("llama", {"attention_bias": True, "mlp_bias": True}, gguf=True),
    "llama wide heads": Variant("llama", {"head_dim": 32}, gguf=True),
    "llama 48 wide heads": Variant("llama", {"head_dim": 48}, gguf=True),
    "llama one head each": Variant("llama", {"num_key_value_heads": 4}, gguf=True),
    "llama one shared head": Variant("llama", {"num_key_value_heads": 1}, gguf=True),
    "llama odd width": Variant("llama", {"hidden_size": 84, "head_dim": 16}, gguf=True),
    "llama padded": Variant("llama", {"vocab_size": 448}, gguf=True),
    "llama gelu": Variant("llama", {"hidden_act": "gelu"}),
    "llama linear": Variant("llama", rope("linear", factor=4.0), gguf=True, fast=True),
    "llama dynamic": Variant("llama", {**rope("dynamic", factor=4.0), **_SHORT}),
    "llama yarn": Variant("llama", {**rope("yarn", **_YARN), **_SHORT}, gguf=True, fast=True),
    "llama yarn own": Variant("llama", {**rope("yarn", **_YARN, beta_fast=2.0), **_SHORT}),
    "llama yarn attention": Variant("llama", {**rope("yarn", **_YARN, attention_factor=1.3), **_SHORT}),
    "llama llama3": Variant("llama", rope("llama3", **_LLAMA3), gguf=True, fast=True),
    "llama longrope": Variant("llama", {**rope("longrope", **_LONG), **_SHORT}),
    "mistral": Variant("mistral", {"sliding_window": None}, gguf=True),
    "mistral window": Variant("mistral", {"sliding_window": 16}, fast=True),
    "mistral far window": Variant("mistral", {"sliding_window": 400}),
    "mistral yarn": Variant("mistral", {**rope("yarn", **_YARN), **_SHORT, "sliding_window": None}, gguf=True),
    "qwen2": Variant("qwen2", gguf=True),
    "qwen2 yarn": Variant("qwen2", {**rope("yarn", **_YARN), **_SHORT}, gguf=True, fast=True),
    "qwen2 window": Variant("qwen2", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen3": Variant("qwen3", gguf=True),
    "qwen3 biases": Variant("qwen3", {"attention_bias": True}),
    "qwen3 dynamic": Variant("qwen3", {**rope("dynamic", factor=2.0), **_SHORT}),
    "gemma": Variant("gemma", {"hidden_size": 84}),
    "gemma2": Variant("gemma2", {"hidden_size": 84, "attn_logit_softcapping": 0.4, "final_logit_softcapping": 2.0},
                      fast=True),
    "gemma2 scale": Variant("gemma2", {"query_pre_attn_scalar": 5}),
    "gemma3": Variant("gemma3_text", {"num_hidden_layers": 7}, gguf=True, fast=True),
    "gemma3 two layers": Variant("gemma3_text", {"layer_types": ["full_attention", "sliding_attention"]}, gguf=True),
    "gemma3 no window": Variant("gemma3_text", {"layer_types": ["full_attention"] * 2}, gguf=True),
    "gemma3 capped": Variant("gemma3_text", {"final_logit_softcapping": 2.0}, gguf=True),
    "gemma3 scale": Variant("gemma3_text", {"query_pre_attn_scalar": 5}),
    "phi": Variant("phi", {"partial_rotary_factor": 0.5, "tie_word_embeddings": False}),
    "phi3": Variant("phi3", {"original_max_position_embeddings": 512}),
    "phi3 window": Variant("phi3", {"original_max_position_embeddings": 512, "sliding_window": 24}),
    "phi3 longrope": Variant("phi3", {**rope("longrope", **_LONG), **_SHORT, "original_max_position_embeddings": 64},
                             fast=True),
    "smollm3": Variant("smollm3", {"num_hidden_layers": 4}, fast=True),
    "granite": Variant("granite", {"embedding_multiplier": 2.0, "attention_multiplier": 0.3,
                                   "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "olmo": Variant("olmo", fast=True),
    "olmo clipped": Variant("olmo", {"clip_qkv": 0.5}, onnx=False),
    "ernie": Variant("ernie4_5"),
    "nemotron": Variant("nemotron", fast=True),
    "hunyuan": Variant("hunyuan_v1_dense"),
}  # fmt: skip
