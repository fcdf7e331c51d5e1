"""The model families that are converted between Hugging Face and GGUF: tensor names and weight layouts.

A family states facts of the two formats. ggml rotates neighbouring pairs of a head's rows for the `llama`
architecture, Hugging Face rotates halves, hence the permutation of query and key rows. Gemma stores its RMS norms
minus one; GGUF stores the factor itself.
"""

from __future__ import annotations

from collections.abc import Collection
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
_BODY_TOP = {
    ours: theirs.removeprefix("bert.") for ours, theirs in _BERT_TOP.items() if ours not in ("cls", "cls.output")
}


_T5_ATTENTION = {f"attn_{part}": f"SelfAttention.{part}" for part in "qkvo"}
_T5_CROSS = {f"cross_attn_{part}": f"EncDecAttention.{part}" for part in "qkvo"}
_T5_TOP = {
    "token_embd": "shared",
    "output": "lm_head",
    "enc.output_norm": "encoder.final_layer_norm",
    "dec.output_norm": "decoder.final_layer_norm",
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
        embedder: an encoder whose hidden states are pooled; written only.
        seq2seq: an encoder and a decoder; written only.
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
    embedder: bool = False
    seq2seq: bool = False

    def names_of(self, config: Any) -> dict[str, str]:
        """`names` for a configuration."""
        return self.names(config.num_hidden_layers)

    def tied(self, config: Any, names: Collection[str]) -> bool:
        """Whether the head is the embedding; `names` are those of the stored weights."""
        return bool(config.tie_word_embeddings)

    def names(self, layers: int) -> dict[str, str]:
        """GGUF tensor name -> Hugging Face tensor name, for every tensor such a model may have."""
        parts = ("weight", "bias") if self.classifier or self.embedder else ("weight",)
        pairs = {f"{ours}.{part}": f"{theirs}.{part}" for ours, theirs in self.top.items() for part in parts}
        for layer in range(layers):
            for ours, theirs in self.block.items():
                for part in ("weight", "bias"):
                    pairs[f"blk.{layer}.{ours}.{part}"] = f"{self.layer}.{layer}.{theirs}.{part}"
        return pairs

    def row_order(self, name: str, rows: int, heads: int, kv_heads: int) -> np.ndarray | None:
        """The number of the Hugging Face row that each row of a GGUF tensor is; None: the same order."""
        import numpy as np

        return (
            self.to_gguf(name, np.arange(rows), heads, kv_heads)
            if self._permuted_heads(name, heads, kv_heads)
            else None
        )

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


@dataclass(frozen=True)
class T5Family(Family):
    """T5: an encoder and a decoder of their own depths, in Hugging Face's sublayers 0, (1,) and 1 or 2."""

    def names_of(self, config: Any) -> dict[str, str]:
        """GGUF tensor name -> Hugging Face tensor name."""
        pairs = {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in self.top.items()}
        for half, depth in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
            short = half[:3]
            for layer in range(depth):
                for ours, theirs in self._block(half == "decoder", bool(config.is_gated_act)).items():
                    pairs[f"{short}.blk.{layer}.{ours}.weight"] = f"{half}.block.{layer}.layer.{theirs}.weight"
            # The first block's position bias serves the whole half.
            bias = f"{half}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
            pairs[f"{short}.blk.0.attn_rel_b.weight"] = bias
        return pairs

    def tied(self, config: Any, names: Collection[str]) -> bool:
        """As `Family.tied`: a T5's configuration always says so; whether it is, its weights say."""
        return "lm_head.weight" not in names

    @staticmethod
    def _block(decoder: bool, gated: bool) -> dict[str, str]:
        found = {"attn_norm": "0.layer_norm"} | {ours: f"0.{theirs}" for ours, theirs in _T5_ATTENTION.items()}
        if decoder:
            found |= {"cross_attn_norm": "1.layer_norm"} | {ours: f"1.{theirs}" for ours, theirs in _T5_CROSS.items()}
        last = 2 if decoder else 1
        dense = (
            {"ffn_gate": "wi_0", "ffn_up": "wi_1", "ffn_down": "wo"} if gated else {"ffn_up": "wi", "ffn_down": "wo"}
        )
        found |= {ours: f"{last}.DenseReluDense.{theirs}" for ours, theirs in dense.items()}
        return found | {"ffn_norm": f"{last}.layer_norm"}


FAMILIES = (
    Family("llama", ("llama", "mistral"), "Llama, SmolLM and Mistral", _PRE_NORM, permuted=True),
    Family("qwen2", ("qwen2",), "Qwen2 and Qwen2.5", _PRE_NORM),
    Family("qwen3", ("qwen3",), "Qwen3", {**_PRE_NORM, **_QK_NORM}),
    Family("gemma3", ("gemma3_text",), "Gemma 3 (text)", _SANDWICH, norm_shift=1.0),
    Family("bert", ("bert",), "BERT classifiers", _BERT, top=_BERT_TOP, layer="bert.encoder.layer", classifier=True),
    Family("bert", ("bert",), "BERT embedders", _BERT, top=_BODY_TOP, layer="encoder.layer", embedder=True),
    T5Family("t5", ("t5",), "T5", {}, top=_T5_TOP, seq2seq=True),
)


def supported(*, loadable: bool = False) -> str:
    """The families in words, for messages; with `loadable` those alone that can be read back."""
    families = FAMILIES if not loadable else tuple(f for f in FAMILIES if by_architecture(f.architecture))
    return ", ".join(f"{family.label} ({'/'.join(family.model_types)})" for family in families)


def by_model_type(model_type: str, *, embedder: bool = False) -> Family | None:
    """The family of a Hugging Face `model_type`; of an embedder, whose weights have other names."""
    found = (family for family in FAMILIES if model_type in family.model_types and family.embedder == embedder)
    return next(found, None)


def by_architecture(architecture: str) -> Family | None:
    """The family of a GGUF `general.architecture` that can be read back (decoders)."""
    decoders = (family for family in FAMILIES if not (family.classifier or family.embedder or family.seq2seq))
    return next((family for family in decoders if family.architecture == architecture), None)


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
