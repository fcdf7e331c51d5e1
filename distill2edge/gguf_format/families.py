"""The model families that are converted between Hugging Face and GGUF: tensor names and weight layouts.

A family states facts of the two formats. ggml rotates neighbouring pairs of a head's rows for the `llama`
architecture, Hugging Face rotates halves, hence the permutation of query and key rows. Gemma stores its RMS norms
minus one; GGUF stores the factor itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError

if TYPE_CHECKING:
    import numpy as np

# Per block: GGUF name -> Hugging Face name, without `blk.N.` and `model.layers.N.`.
_CORE = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_PRE_NORM = {**_CORE, "ffn_norm": "post_attention_layernorm"}
_QK_NORM = {"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm"}
_SANDWICH = {
    **_CORE,
    **_QK_NORM,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_BERT = {
    "attn_q": "attention.self.query",
    "attn_k": "attention.self.key",
    "attn_v": "attention.self.value",
    "attn_output": "attention.output.dense",
    "attn_output_norm": "attention.output.LayerNorm",
    "ffn_up": "intermediate.dense",
    "ffn_down": "output.dense",
    "layer_output_norm": "output.LayerNorm",
}
# llama.cpp's rank pooling of `bert`: tanh(cls x first token + bias), then cls.output: BERT's pooler and classifier.
_BERT_TOP = {
    "token_embd": "bert.embeddings.word_embeddings",
    "position_embd": "bert.embeddings.position_embeddings",
    "token_types": "bert.embeddings.token_type_embeddings",
    "token_embd_norm": "bert.embeddings.LayerNorm",
    "cls": "bert.pooler.dense",
    "cls.output": "classifier",
}


@dataclass(frozen=True)
class Family:
    """One architecture in both formats.

    Attributes:
        block: GGUF name -> Hugging Face name within a block.
        permuted: query and key rows are reordered.
        norm_shift: what GGUF adds to a norm's weights.
        top: the same names for tensors outside the blocks.
        layer: Hugging Face name of the list of blocks.
        classifier: an encoder with a sequence-classification head; written only.
    """

    architecture: str
    model_types: tuple[str, ...]
    label: str
    block: dict[str, str]
    permuted: bool = False
    norm_shift: float = 0.0
    top: dict[str, str] = field(default_factory=lambda: dict(_TOP))
    layer: str = "model.layers"
    classifier: bool = False

    def names(self, layers: int) -> dict[str, str]:
        """GGUF tensor name -> Hugging Face tensor name, for every tensor such a model may have."""
        parts = ("weight", "bias") if self.classifier else ("weight",)
        pairs = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in self.top.items() for part in parts}
        for layer in range(layers):
            for ours, theirs in self.block.items():
                for part in ("weight", "bias"):
                    pairs[f"blk.{layer}.{ours}.{part}"] = f"{self.layer}.{layer}.{theirs}.{part}"
        return pairs

    def to_gguf(self, name: str, weight: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
        """A Hugging Face weight in GGUF's layout; `name` is the GGUF name."""
        count = self._permuted_heads(name, heads, kv_heads)
        if count:
            half = weight.shape[0] // count // 2
            return weight.reshape(count, 2, half, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        if self.norm_shift and name.endswith("norm.weight"):
            return weight + weight.dtype.type(self.norm_shift)
        return weight

    def to_hf(self, name: str, weight: np.ndarray, heads: int, kv_heads: int) -> np.ndarray:
        """The inverse of `to_gguf`."""
        count = self._permuted_heads(name, heads, kv_heads)
        if count:
            half = weight.shape[0] // count // 2
            return weight.reshape(count, half, 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
        if self.norm_shift and name.endswith("norm.weight"):
            return weight - weight.dtype.type(self.norm_shift)
        return weight

    def _permuted_heads(self, name: str, heads: int, kv_heads: int) -> int:
        if not self.permuted:
            return 0
        part = name.split(".")[-2]
        return {"attn_q": heads, "attn_k": kv_heads}.get(part, 0)


FAMILIES = (
    Family("llama", ("llama", "mistral"), "Llama, SmolLM and Mistral", _PRE_NORM, permuted=True),
    Family("qwen2", ("qwen2",), "Qwen2 and Qwen2.5", _PRE_NORM),
    Family("qwen3", ("qwen3",), "Qwen3", {**_PRE_NORM, **_QK_NORM}),
    Family("gemma3", ("gemma3_text",), "Gemma 3 (text)", _SANDWICH, norm_shift=1.0),
    Family("bert", ("bert",), "BERT classifiers", _BERT, top=_BERT_TOP, layer="bert.encoder.layer", classifier=True),
)


def supported() -> str:
    """The families in words, for messages."""
    return ", ".join(f"{family.label} ({'/'.join(family.model_types)})" for family in FAMILIES)


def by_model_type(model_type: str) -> Family | None:
    """The family of a Hugging Face `model_type`."""
    return next((family for family in FAMILIES if model_type in family.model_types), None)


def by_architecture(architecture: str) -> Family | None:
    """The family of a GGUF `general.architecture` that can be read back (decoders)."""
    return next((family for family in FAMILIES if family.architecture == architecture and not family.classifier), None)


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray:
    """Divisors of the rotary frequencies under Llama 3.1's scaling, [head_dim / 2] float32.

    Wavelengths beyond original_context / low_freq_factor are stretched by `factor`, those below
    original_context / high_freq_factor are kept, those between are interpolated (Llama 3.1's published scheme).
    """
    import numpy as np

    base, factor = float(rope["rope_theta"]), float(rope["factor"])
    low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
    context = float(rope["original_max_position_embeddings"])
    frequency = 1.0 / (np.float32(base) ** (np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)))
    wavelength = (2 * np.pi / frequency).astype(np.float32)
    smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)


def refuse(model_type: str, where: str) -> UserError:
    """The error for an architecture that no family covers."""
    return UserError(
        f"architecture {model_type!r} has no GGUF writer here; supported: {supported()}",
        where=where,
        fix="choose a supported model, or give --converter PATH (convert_hf_to_gguf.py of a llama.cpp checkout)",
    )
