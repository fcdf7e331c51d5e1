"""What the fields of a config.json and its neighbours may hold, and what they say of a model's length.

They are checked before a library allocates by them. The rules go by name, and hold in nested configurations too. A
field that no rule knows may hold anything but NaN and numbers that no library could mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError

MAX_SIZE = 1 << 24
"""Rows or columns of a weight; the largest vocabularies have 2^18."""
MAX_COUNT = 1 << 12
"""Layers, heads, experts."""
MAX_POSITIONS = 1 << 31
MAX_LABELS = 1 << 16
MAX_NAME = 256
_MAX_DEPTH, _MAX_ITEMS = 16, 1 << 20
EMBEDDER = "sentence_embedding"
"""The field of an embedder's configuration, which may have no layers."""

_COUNT = re.compile(r"(num_\w*(layers|heads|experts|blocks|per_tok)|n_(layers?|heads?)|(en|de)coder_layers)$")
_SIZE = re.compile(
    r"((\w+_)?(vocab_size|hidden_size|intermediate_size|embedding_size|head_dim|hidden_dim|ffn_dim)|type_vocab_size|"
    r"d_(model|ff|kv)|dim|n_(embd|inner)|sliding_window|relative_attention_\w+|max_window_layers)$"
)
_POSITIONS = re.compile(r"((original_)?max_position_embeddings|n_positions|n_ctx|max_sequence_length)$")
_POSITIVE = re.compile(r"(factor|low_freq_factor|high_freq_factor|beta_fast|beta_slow|rope_theta|rope_local_base_freq|"
                       r"query_pre_attn_scalar|(\w+_)?softcapping)$")  # fmt: skip
_FRACTION = re.compile(r"(\w*(dropout|dropout_prob|pdrop|dropout_rate|norm_eps|norm_epsilon|_eps)|"
                       r"initializer_range|partial_rotary_factor)$")  # fmt: skip
_FLAG = re.compile(r"(tie_word_embeddings|is_(encoder_decoder|decoder|gated_act)|use_cache|use_sliding_window|\w+_bias|"
                   r"tie_encoder_decoder|add_cross_attention|output_(hidden_states|attentions))$")  # fmt: skip
_NAME = re.compile(r"(model_type|hidden_act|hidden_activation|torch_dtype|dtype|position_embedding_type|"
                   r"feed_forward_proj|activation(_function)?|rope_type|problem_type|tokenizer_class)$")  # fmt: skip
_MAY_BE_ZERO = (
    "type_vocab_size", "max_window_layers", "num_local_experts", "num_experts", "sliding_window",
    "num_kv_shared_layers",
)  # fmt: skip
_TOKEN = re.compile(r"\w*token_ids?$")
# Where null stands for a default, or for none.
_NULLABLE = re.compile(r"(num_(\w+_)?(key_value_heads|experts)|num_(decoder_layers|labels)|n_inner|"
                       r"(\w+_)?(intermediate_size|head_dim)|"
                       r"sliding_window|\w*softcapping|max_window_layers|\w*act\w*|\w*dtype|problem_type|"
                       r"\w*classifier_dropout|rope_theta|rope_local_base_freq|beta_fast|beta_slow|"
                       r"partial_rotary_factor|tokenizer_class|num_experts_per_tok|num_local_experts|"
                       r"embedding_size)$")  # fmt: skip


# Their positions begin after the padding token's id: so many fewer tokens fit than max_position_embeddings says.
_OFFSET_POSITIONS = {
    "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer", "luke", "markuplm", "mpnet", "roberta",
    "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
}  # fmt: skip


def knows_segments(config: Any) -> bool:
    """Whether an encoder tells two texts apart by segment ids (`token_type_ids`): BERT and ELECTRA do, RoBERTa has one
    segment alone, MPNet and ModernBERT none. `config`: as `config.json`, or of transformers."""
    count = config.get("type_vocab_size") if isinstance(config, Mapping) else getattr(config, "type_vocab_size", None)
    return isinstance(count, int) and count > 1


def usable_positions(config: Mapping[str, Any] | Any) -> int | None:
    """Tokens that a model reads at most; None where its positions have no end.

    Args:
        config: the content of a config.json, or a configuration of transformers.
    """

    def read(*names: str) -> Any:
        values = (config.get(name) if isinstance(config, Mapping) else getattr(config, name, None) for name in names)
        return next((value for value in values if value is not None), None)

    limit = read("max_position_embeddings", "n_positions")
    kind = read("model_type")
    if limit is None or kind in ("t5", "mt5"):  # n_positions of a T5 is the length that it was trained at
        return None
    if kind not in _OFFSET_POSITIONS:
        return int(limit)
    padding = 1 if kind == "mpnet" else read("pad_token_id")
    return int(limit) - (1 if padding is None else int(padding)) - 1


def check_fields(config: Mapping[str, Any], path: Path, *, vocabulary: int | None = None) -> None:
    """Refuse what no model could mean.

    Args:
        config: the content of `path`.
        path: for errors.
        vocabulary: rows of the embedding, which token ids must stay below.

    Raises:
        UserError: names the file and the field.
    """
    table = config.get("num_hidden_layers") == 0 and EMBEDDER in config  # of token vectors: no layers are read
    rest = {name: value for name, value in config.items() if not table or name != "num_hidden_layers"}
    _walk(rest, path, "", vocabulary, 0)


def _walk(value: Mapping[str, Any], path: Path, trail: str, vocabulary: int | None, depth: int) -> None:
    if depth > _MAX_DEPTH or len(value) > _MAX_ITEMS:
        raise UserError("is nested too deeply or too long", where=f"{path}: {trail or 'the file'}", fix="get it again")
    for name, entry in value.items():
        place = f"{trail}.{name}" if trail else name
        words = _refusal(name, entry, vocabulary)
        if words:
            raise UserError(f"{_shown(entry)} {words}", where=f"{path}: {place}", fix="get the file again, as it was")
        if isinstance(entry, Mapping):
            _walk(entry, path, place, vocabulary, depth + 1)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refusal(name: str, value: Any, vocabulary: int | None) -> str | None:
    """What is wrong with a value, in words that follow it; None where nothing is."""
    if value is None:
        ruled = any(rule.match(name) for rule in (_COUNT, _SIZE, _POSITIONS, _POSITIVE, _FRACTION, _FLAG, _NAME))
        return "is none of its values" if ruled and not _NULLABLE.match(name) else None
    if _TOKEN.match(name):
        return _token_refusal(name, value, vocabulary)
    for rule, low, high in ((_COUNT, 1, MAX_COUNT), (_SIZE, 1, MAX_SIZE), (_POSITIONS, 1, MAX_POSITIONS)):
        if rule.match(name):
            low = 0 if name in _MAY_BE_ZERO else low
            good = _whole(value) and low <= value <= high
            lists = isinstance(value, list) and not name.endswith(
                ("layers", "layer")
            )  # some have a width for each layer
            good = good or (lists and all(_whole(each) and low <= each <= high for each in value))
            return None if good else f"is no whole number from {low} to {high}"
    if _FRACTION.match(name):
        return None if _number(value) and 0 <= value <= 1 else "is no number from 0 to 1"
    if _POSITIVE.match(name):
        return None if _number(value) and 0 < value < 1e12 else "is no positive number"
    if _FLAG.match(name):
        return None if isinstance(value, bool) else "is neither true nor false"
    if _NAME.match(name):
        good = isinstance(value, str) and len(value) <= MAX_NAME
        return None if good else f"is no name of at most {MAX_NAME} characters"
    if name == "num_labels":
        return None if _whole(value) and 1 <= value <= MAX_LABELS else f"is no whole number from 1 to {MAX_LABELS}"
    if name in ("id2label", "label2id"):
        return _labels_refusal(name, value)
    if name in ("architectures", "layer_types"):
        good = isinstance(value, list) and all(isinstance(each, str) and len(each) <= MAX_NAME for each in value)
        return None if good else "is no list of names"
    if isinstance(value, int) and abs(value) > 1 << 62 and name != "model_max_length":
        return "is too large a number"
    return None


def _token_refusal(name: str, value: Any, vocabulary: int | None) -> str | None:
    ids = value if isinstance(value, list) else [value]
    least = -1 if name == "pad_token_id" else 0  # -1: the first Llama's way to say that there is none
    if not ids or not all(_whole(each) and each >= least for each in ids):
        return "is no token id"
    if vocabulary is not None and max(ids) >= vocabulary:
        return f"is beyond the embedding, which has {vocabulary} rows"
    return None


def _labels_refusal(name: str, value: Any) -> str | None:
    if not isinstance(value, Mapping) or not 1 <= len(value) <= MAX_LABELS:
        return f"is no table of 1 to {MAX_LABELS} labels"
    ids = list(value) if name == "id2label" else list(value.values())
    if name == "id2label" and not all(isinstance(label, str | int) for label in value.values()):
        return "has labels that are no text"
    try:
        numbers = sorted(int(each) for each in ids)
    except (ValueError, TypeError):
        return "has ids that are no numbers"
    # Two labels of one id are one class with two names; ids must start at 0 and leave none out.
    good = numbers == list(range(len(numbers))) if name == "id2label" else min(numbers) >= 0
    return None if good else "has ids that do not count from 0"


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
