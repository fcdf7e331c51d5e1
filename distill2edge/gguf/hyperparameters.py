"""A family's hyper-parameters in both formats: GGUF key-values and Hugging Face configuration."""

from __future__ import annotations

from typing import Any, Literal

from distill2edge.errors import UserError
from distill2edge.gguf.families import Family, llama3_factors
from distill2edge.gguf.fields import bad, number, text, whole
from distill2edge.gguf.reader import GgufFile
from distill2edge.models.config import MAX_COUNT, MAX_POSITIONS, MAX_SIZE
from distill2edge.models.kinds import start_token_id
from distill2edge.models.pooling import Mode, pooling_of

Kind = Literal["uint32", "float32", "string", "bool", "bools", "strings"]
MAX_BASE = 1e12
"""Of rotary frequencies."""
Field = tuple[str, Kind, Any]

# llama.cpp's own default for Gemma 3: every sixth layer looks at the whole context.
_GEMMA_PATTERN = 6


def head_dim(config: Any) -> int:
    """Width of one attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def rope_of(config: Any) -> dict[str, Any]:
    """Rotary parameters of the full-attention layers: rope_type, rope_theta, ..."""
    rope = dict(config.rope_parameters)
    return dict(rope.get("full_attention", rope))


def fields_of(config: Any, family: Family) -> list[Field]:
    """The architecture's key-values of a Hugging Face configuration, in the order they are written.

    What llama.cpp does not compute for this architecture is refused before (`export.support`).
    """

    if family.classifier or family.embedder:
        return _encoder_fields(config, family)
    if family.seq2seq:
        return _seq2seq_fields(config, family.architecture)
    arch, width = family.architecture, head_dim(config)
    fields: list[Field] = [
        (f"{arch}.block_count", "uint32", config.num_hidden_layers),
        (f"{arch}.context_length", "uint32", config.max_position_embeddings),
        (f"{arch}.embedding_length", "uint32", config.hidden_size),
        (f"{arch}.feed_forward_length", "uint32", config.intermediate_size),
        (f"{arch}.attention.head_count", "uint32", config.num_attention_heads),
        (f"{arch}.attention.head_count_kv", "uint32", config.num_key_value_heads),
        (f"{arch}.attention.layer_norm_rms_epsilon", "float32", config.rms_norm_eps),
        (f"{arch}.attention.key_length", "uint32", width),
        (f"{arch}.attention.value_length", "uint32", width),
    ]
    fields += _rope_fields(arch, rope_of(config))
    if arch == "llama":
        fields.append((f"{arch}.vocab_size", "uint32", config.vocab_size))
        fields.append((f"{arch}.rope.dimension_count", "uint32", width))
    if arch == "gemma3":
        fields += _gemma_fields(config)
    return fields


# llama.cpp's numbers (`enum llama_pooling_type` in llama.h): of the pooling that runs a classification head, and of
# those that make one vector.
POOLING_RANK = 4
POOLINGS: dict[Mode, int] = {"mean": 1, "cls": 2}
NORMALIZE = "distill2edge.normalize"
"""False in the file of an embedder whose vectors have lengths of their own: llama.cpp has no key for it."""


def _encoder_fields(config: Any, family: Family) -> list[Field]:
    arch = family.architecture
    fields: list[Field] = [
        (f"{arch}.block_count", "uint32", config.num_hidden_layers),
        (f"{arch}.context_length", "uint32", config.max_position_embeddings),
        (f"{arch}.embedding_length", "uint32", config.hidden_size),
        (f"{arch}.feed_forward_length", "uint32", config.intermediate_size),
        (f"{arch}.attention.head_count", "uint32", config.num_attention_heads),
        (f"{arch}.attention.layer_norm_epsilon", "float32", config.layer_norm_eps),
        (f"{arch}.attention.causal", "bool", False),
        ("tokenizer.ggml.token_type_count", "uint32", config.type_vocab_size),
    ]
    pooling = pooling_of(config)
    if family.classifier or pooling is None:
        labels = [config.id2label[index] for index in range(config.num_labels)]
        return [*fields, (f"{arch}.pooling_type", "uint32", POOLING_RANK),
                (f"{arch}.classifier.output_labels", "strings", labels)]  # fmt: skip
    fields.append((f"{arch}.pooling_type", "uint32", POOLINGS[pooling.mode]))
    return fields if pooling.normalize else [*fields, (NORMALIZE, "bool", False)]


def _seq2seq_fields(config: Any, arch: str) -> list[Field]:
    return [
        (f"{arch}.context_length", "uint32", int(getattr(config, "n_positions", None) or 512)),
        (f"{arch}.embedding_length", "uint32", config.d_model),
        (f"{arch}.feed_forward_length", "uint32", config.d_ff),
        (f"{arch}.block_count", "uint32", config.num_layers),
        (f"{arch}.decoder_block_count", "uint32", config.num_decoder_layers),
        (f"{arch}.attention.head_count", "uint32", config.num_heads),
        (f"{arch}.attention.key_length", "uint32", config.d_kv),
        (f"{arch}.attention.value_length", "uint32", config.d_kv),
        (f"{arch}.attention.layer_norm_epsilon", "float32", config.layer_norm_epsilon),
        (f"{arch}.attention.layer_norm_rms_epsilon", "float32", config.layer_norm_epsilon),
        (f"{arch}.attention.relative_buckets_count", "uint32", config.relative_attention_num_buckets),
        (f"{arch}.decoder_start_token_id", "uint32", start_token_id(config)),
    ]


def _rope_fields(arch: str, rope: dict[str, Any]) -> list[Field]:
    kind = rope.get("rope_type", "default")
    fields: list[Field] = [(f"{arch}.rope.freq_base", "float32", rope["rope_theta"])]
    if kind == "linear":
        fields.append((f"{arch}.rope.scaling.type", "string", "linear"))
        fields.append((f"{arch}.rope.scaling.factor", "float32", rope["factor"]))
    elif kind == "yarn":
        fields += [
            (f"{arch}.rope.scaling.type", "string", "yarn"),
            (f"{arch}.rope.scaling.factor", "float32", rope["factor"]),
            (f"{arch}.rope.scaling.original_context_length", "uint32", rope["original_max_position_embeddings"]),
        ]
    return fields


def _gemma_fields(config: Any) -> list[Field]:
    local = config.rope_parameters.get("sliding_attention", {})
    sliding = [kind == "sliding_attention" for kind in config.layer_types]
    fields: list[Field] = []
    if any(sliding):  # else llama.cpp stops: a file with a window has layers that keep to it
        fields.append(("gemma3.attention.sliding_window", "uint32", config.sliding_window))
    fields.append(("gemma3.rope.freq_base_swa", "float32", local.get("rope_theta", 10_000.0)))
    if config.final_logit_softcapping:
        fields.append(("gemma3.final_logit_softcapping", "float32", config.final_logit_softcapping))
    if any(sliding) and sliding != [(layer + 1) % _GEMMA_PATTERN != 0 for layer in range(len(sliding))]:
        # A student of fewer layers keeps each layer's own kind of attention.
        fields.append(("gemma3.attention.sliding_window_pattern", "bools", sliding))
    return fields


def config_of(file: GgufFile, family: Family, vocab_size: int) -> dict[str, Any]:
    """Keyword arguments of the Hugging Face configuration of a GGUF.

    Raises:
        UserError: a field is missing, or rotary factors that are not Llama 3.1's.
    """
    heads = whole(file, ".attention.head_count", 1, MAX_COUNT)
    hidden = whole(file, ".embedding_length", 1, MAX_SIZE)
    rotary = whole(file, ".rope.dimension_count", 1, MAX_SIZE, hidden // heads or 1)
    width = whole(file, ".attention.key_length", 1, MAX_SIZE, rotary)
    for key, default in ((".attention.value_length", width), (".rope.dimension_count", width)):
        if whole(file, key, 1, MAX_SIZE, default) != width:
            raise bad(file, key, f"{file.get(key)} where the heads' keys have {width}: that cannot be loaded here")
    if whole(file, ".vocab_size", 1, MAX_SIZE, vocab_size) != vocab_size:
        raise bad(file, ".vocab_size", f"{file.get('.vocab_size')}, but the embedding has {vocab_size} rows")
    shared = whole(file, ".attention.head_count_kv", 1, heads, heads)
    if heads % shared:
        raise bad(file, ".attention.head_count_kv", f"{shared} key-value heads do not divide {heads} heads")
    if width % 2:
        raise bad(file, ".attention.key_length", f"{width} is odd: rotary positions turn pairs")
    layers = whole(file, ".block_count", 1, MAX_COUNT)
    config: dict[str, Any] = {
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": whole(file, ".feed_forward_length", 1, MAX_SIZE),
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": shared,
        "head_dim": width,
        "max_position_embeddings": whole(file, ".context_length", 1, MAX_POSITIONS),
        "rms_norm_eps": _short(number(file, ".attention.layer_norm_rms_epsilon", 0, 1)),
        "tie_word_embeddings": "output.weight" not in file.tensors,
    }
    rope = _rope_of_gguf(file, width)
    config["rope_parameters"] = rope
    if family.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_up.bias" in file.tensors
    elif family.architecture == "qwen3":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
    elif family.architecture == "gemma3":
        pattern = _pattern(file, layers)
        config["layer_types"] = ["sliding_attention" if local else "full_attention" for local in pattern]
        config["sliding_window"] = whole(file, ".attention.sliding_window", 1, MAX_SIZE, 4096)
        config["query_pre_attn_scalar"] = hidden // heads if layers == 62 else width
        capped = file.get(".final_logit_softcapping") is not None
        config["final_logit_softcapping"] = number(file, ".final_logit_softcapping", 0, 1e6) if capped else None
        base = number(file, ".rope.freq_base_swa", 0, MAX_BASE, 10_000.0)
        local = {"rope_type": "default", "rope_theta": _short(base)}
        config["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    return config


def _pattern(file: GgufFile, layers: int) -> list[bool]:
    """Which layers of a Gemma look at a window alone."""
    key = ".attention.sliding_window_pattern"
    if file.get(".attention.sliding_window") is None:
        return [False] * layers
    if isinstance(file.get(key), list):
        return _flags(file, key, layers)
    every = whole(file, key, 1, MAX_COUNT, _GEMMA_PATTERN)
    return [(layer + 1) % every != 0 for layer in range(layers)]


def _flags(file: GgufFile, key: str, count: int) -> list[bool]:
    value = file.get(key)
    if len(value) != count or not all(isinstance(each, bool | int) and each in (0, 1) for each in value):
        raise bad(file, key, f"is no list of {count} true or false")
    return [bool(each) for each in value]


def _rope_of_gguf(file: GgufFile, width: int) -> dict[str, Any]:
    import numpy as np

    base = number(file, ".rope.freq_base", 0, MAX_BASE, 10_000.0)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": _short(base)}
    kind = text(file, ".rope.scaling.type", "none")
    if kind in ("linear", "yarn"):
        rope |= {"rope_type": kind, "factor": _short(number(file, ".rope.scaling.factor", 0, 1e6))}
        if kind == "yarn":
            original = whole(file, ".rope.scaling.original_context_length", 1, MAX_POSITIONS)
            rope["original_max_position_embeddings"] = original
    elif kind != "none":
        raise bad(file, ".rope.scaling.type", f"rotary scaling {kind[:40]!r} is not supported")
    for key in (".rope.scale_linear", ".rope.scaling.attn_factor"):
        if number(file, key, 0, 1e6, 1.0) != 1.0:
            raise bad(file, key, "a rotary scaling of this kind is not supported")
    if "rope_freqs.weight" in file.tensors:
        factors = file.tensor("rope_freqs.weight")
        if factors.shape != (width // 2,) or not np.isfinite(factors).all() or factors.min() < 1:
            raise UserError("tensor rope_freqs.weight is not one factor of 1 or more for each pair of a head",
                            where=str(file.path), fix="use the model's Hugging Face directory")  # fmt: skip
        rope |= {
            "rope_type": "llama3",
            "factor": float(factors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        if abs(llama3_factors(rope, width) / factors - 1).max() > 1e-3:
            raise UserError("its rotary factors are not those of Llama 3.1", where=str(file.path),
                            fix="use the model's Hugging Face directory")  # fmt: skip
    return rope


def _short(value: float) -> float:
    """The shortest decimal that is the same float32: 1e-05 instead of 9.999999747378752e-06."""
    import numpy as np

    return float(str(np.float32(value)))
