"""What llama.cpp cannot run, or runs as another model, of families that its own converter writes: one table.

Each is a fact of the llama.cpp that is installed (`src/models/` of llama-cpp-python 0.3.36). What the table does not
say is found before training, when the student is converted and compared with PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Config = Mapping[str, Any]
Reason = tuple[str, str]
"""Why, and what to do besides using another format."""

_NOPE = 4
"""Every such layer of llama.cpp's SmolLM3 sees no positions, whatever the file says."""
OWN_HEAD = frozenset({
    "apertus", "arwkv7", "baichuan", "bailingmoe", "bailingmoe2", "codeshell", "dbrx", "dots1", "exaone-moe", "gpt-oss",
    "gptneox", "internlm2", "jais", "llada-moe", "mimo2", "minimax-m2", "nemotron", "olmo2", "olmoe", "orion", "phi2",
    "phimoe", "plamo", "qwen", "qwen2moe", "rwkv6", "rwkv7", "stablelm", "xverse",
})  # fmt: skip
"""Architectures of which llama.cpp asks for `output.weight`, also where the head is the embedding."""


def refused(config: Config) -> Iterator[Reason]:
    """Why llama.cpp does not carry a model that the converter would write."""
    check = TABLE.get(str(config.get("model_type")))
    if check is not None:
        yield from check(config)


def _phi(config: Config) -> Iterator[Reason]:
    """Of every head its own keys, and a feed-forward layer of four times the width: the converter writes no other."""
    heads, shared = config.get("num_attention_heads", 32), config.get("num_key_value_heads")
    if shared not in (None, heads):
        yield f"{shared} key-value heads for {heads} heads", ""
    width, inner = config.get("hidden_size", 2048), config.get("intermediate_size", 8192)
    if isinstance(width, int) and inner != 4 * width:
        yield f"intermediate_size {inner} (llama.cpp takes 4 x {width})", ""


def _smollm3(config: Config) -> Iterator[Reason]:
    rotates = config.get("no_rope_layers")  # which of them do see positions, says this field
    if not isinstance(rotates, list | tuple):
        every = config.get("no_rope_layer_interval", _NOPE)
        rotates = [] if every in (None, _NOPE) else [0]
    wrong = [layer for layer, on in enumerate(rotates) if bool(on) != ((layer + 1) % _NOPE != 0)]
    if wrong:
        yield (
            f"layer {wrong[0]} (in llama.cpp every fourth layer is without positions, and no other)",
            f"list student.init.layers in fours of the teacher's ({_fours(3)}), so that every fourth stays one",
        )


def _fours(last: int) -> str:
    return ", ".join(map(str, [*range(last + 1), *range(last + 9, last + 13)]))


def _windowed(config: Config) -> Iterator[Reason]:
    kinds = config.get("layer_types")
    if isinstance(kinds, list | tuple) and kinds and "sliding_attention" not in kinds:
        yield "no layer with a sliding window", "let the student keep one of the teacher's"


def _sections(config: Config) -> Iterator[Reason]:
    rope, width = config.get("rope_parameters"), config.get("head_dim", 256)
    parts = (rope if isinstance(rope, Mapping) else {}).get("mrope_section", [11, 11, 10])
    whole = isinstance(parts, list | tuple) and all(isinstance(each, int) for each in parts)
    if whole and isinstance(width, int) and sum(parts) > width:
        yield f"mrope_section {list(parts)} on heads of {width}", ""


TABLE: Mapping[str, Callable[[Config], Iterator[Reason]]] = {
    "phi": _phi,
    "smollm3": _smollm3,
    "gemma2": _windowed,
    "gemma4_text": _windowed,
    "cohere2": _windowed,
    "gpt_oss": _windowed,
    "qwen3_5_text": _sections,
}
