"""llama.cpp's names of byte-level BPE pre-tokenizers, and each one's equal in the `tokenizers` library.

The expressions are those the models themselves publish in their tokenizer.json. Left out: `tekken`, whose
expression in llama.cpp cuts combining marks (Hindi) otherwise than the model's own.
"""

from __future__ import annotations

from typing import Any

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Canonical name -> (expressions applied in turn, merges ignored for words that are tokens).
_TABLE: dict[str, tuple[tuple[str, ...], bool]] = {
    "smollm": ((r"\p{N}", _GPT2), False),
    "gpt-2": ((_GPT2,), False),
    "qwen2": ((_CL100K.format(digits=r"\p{N}"),), False),
    "llama-bpe": ((_CL100K.format(digits=r"\p{N}{1,3}"),), True),
    "gpt-4o": ((_O200K,), False),
}
_ALIASES = {
    "smollm": ("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"),
    "gpt-2": ("phi-2", "jina-es", "jina-de", "gigachat", "a.x-4.0", "mellum", "modern-bert", "mpt", "olmo", "jais",
              "trillion", "granite-docling", "exaone4"),
    "qwen2": ("deepseek-r1-qwen", "kormo", "f2llmv2", "stablelm2", "hunyuan", "megrez", "solar-open", "grok-2"),
    "llama-bpe": ("llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"),
    "gpt-4o": ("llama4", "kanana2", "minimax-m2"),
}  # fmt: skip
# Same pieces as llama-bpe, but words that are tokens still go through the merges.
_MERGING_TWINS = {"llama-bpe": "smaug-bpe"}

# Text on which any two entries of the table differ.
PROBE = (
    "Hello world's I'LL don't  12345 3.14 v2 x=1\n\n\tdef f(a_b):\n    return a+b  # no\r\n\r\n naïve café Ünï "
    "HTTPServer camelCase McDonald's 你好\uff0c世界 123年 🙂🙂 ... --> </s>/\n/  \n  end   "
)


def canonical(name: str) -> str | None:
    """The table's name for a `tokenizer.ggml.pre`, or None."""
    if name in _TABLE:
        return name
    found = next((key for key, names in _ALIASES.items() if name in names), None)
    return found or next((key for key, twin in _MERGING_TWINS.items() if name == twin), None)


def known() -> str:
    """The names, for messages."""
    return ", ".join(_TABLE)


def ignores_merges(name: str) -> bool:
    """Whether a word that is itself a token is taken whole, without merging."""
    key = canonical(name)
    return key is not None and name not in _MERGING_TWINS.values() and _TABLE[key][1]


def build(name: str) -> Any:
    """The `tokenizers` pre-tokenizer of a `tokenizer.ggml.pre`.

    Raises:
        KeyError: a name that is not in the table.
    """
    from tokenizers import Regex, pre_tokenizers

    key = canonical(name)
    if key is None:
        raise KeyError(name)
    splits = [pre_tokenizers.Split(Regex(expression), "isolated") for expression in _TABLE[key][0]]
    return pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def detect(pre_tokenizer: Any, ignore_merges: bool) -> str | None:
    """The name under which llama.cpp cuts text as this pre-tokenizer does, or None.

    Found by behaviour (the pieces of a probe text), so that two spellings of one expression are the same.
    """
    pieces = pre_tokenizer.pre_tokenize_str(PROBE)
    for name, (_, ignoring) in _TABLE.items():
        if build(name).pre_tokenize_str(PROBE) == pieces:
            if ignoring == ignore_merges:
                return name
            return _MERGING_TWINS.get(name) if ignoring else name
    return None
