"""Memory and speed of a file on a device: a roofline of bytes and operations, with the seconds that a profile measured.

A token that is written reads every weight once, and the keys and values of the tokens before it; a prompt reads the
weights once for all its tokens, whose products then count. What a weight takes in each is measured for each type, since
kernels differ more than their bytes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from distill2edge.fit.decoder import Decoder
from distill2edge.fit.device_script import computed_bytes
from distill2edge.fit.profiles import Profile
from distill2edge.fit.sizes import Stored
from distill2edge.gguf.ggml_types import GGML_TYPES

PROMPT = 128
"""Tokens of the prompt whose time is predicted, where the context is as long."""
_TOKEN = 240
"""Bytes of a token, with its merges, in llama.cpp's tables: of SmolLM2's vocabulary, on the first four files of
benchmarks/fit.py."""


@dataclass(frozen=True)
class Figures:
    """What a file does on a device.

    Attributes:
        memory: bytes at the highest, with a full context.
        decode: tokens per second, in the middle of the context.
        prefill: tokens per second of a prompt.
        first: seconds from a prompt to the first token.
    """

    memory: int
    decode: float
    prefill: float
    first: float


def cache_bytes(decoder: Decoder, kind: str) -> int:
    """Of the keys and values of a token in all layers; `kind`: `f16`, `q8_0`, `q4_0`."""
    each = GGML_TYPES[kind.upper()].row_bytes(decoder.widths.head)
    return 2 * decoder.layers * decoder.widths.kv_groups * each


def figures(decoder: Decoder, file: Stored, context: int, cache: str, profile: Profile) -> Figures:
    """Predicted by a profile.

    Args:
        context: tokens that are held at most.
        cache: type of keys and values.
    """
    kept = cache_bytes(decoder, cache)
    prompt = min(PROMPT, context)
    decode = profile.decode
    head = decode.weight(file.head[0]) * file.head[1]
    token = decode.of(file.body) + head + decode.layer_s * decoder.layers + decode.cache_byte_s * kept * context / 2
    prefill = profile.prefill
    reading = prompt * prefill.of(file.body) + prefill.layer_s * decoder.layers + head
    return Figures(memory(decoder, file, context, cache, profile), 1 / token, prompt / reading, reading)


def memory(decoder: Decoder, file: Stored, context: int, cache: str, profile: Profile) -> int:
    """Bytes at the highest: the process, the weights as this device holds them, keys and values, what is computed
    between the products, the tables of the tokenizer, and the logits of a token."""
    widths = decoder.widths
    between = computed_bytes(widths.hidden, widths.feed_forward, context) + (4 + _TOKEN) * decoder.vocabulary
    held = profile.held(_shares(file))
    return round(profile.base_bytes + held * file.bytes + context * cache_bytes(decoder, cache) + between)


def _shares(file: Stored) -> Mapping[str, float]:
    """Type -> share of the bytes of matrices."""
    sizes = {kind: weights * GGML_TYPES[kind].weight_bits / 8 for kind, weights in file.body.items()}
    for kind, weights in {file.embedding, file.head}:
        sizes[kind] = sizes.get(kind, 0.0) + weights * GGML_TYPES[kind].weight_bits / 8
    total = sum(sizes.values())
    return {kind: size / total for kind, size in sizes.items()}
