"""Tiny random encoders of each family, with a tokenizer of its kind: its special tokens, positions and type ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tiny import corpus, tiny_wordpiece

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Family:
    """One of them.

    Attributes:
        tokens: what it cuts a text by: `wordpiece`, `bytes` or `unigram`.
        around: the special tokens before and after a text.
        between: how many of the last stand between two texts.
        inputs: of its graph.
        room: positions of 64 that a text cannot have.
        changes: fields of its configuration that others lack, or call otherwise.
        gguf: whether a classifier of it goes out as GGUF.
    """

    tokens: str
    around: tuple[str, str] = ("[CLS]", "[SEP]")
    between: int = 1
    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    room: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)
    gguf: bool = False


_TYPES = ("input_ids", "attention_mask", "token_type_ids")
_S = ("<s>", "</s>")
FAMILIES: Mapping[str, Family] = {
    "bert": Family("wordpiece", inputs=_TYPES, gguf=True),
    "distilbert": Family("wordpiece", changes={"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}),
    "electra": Family("wordpiece", inputs=_TYPES, changes={"embedding_size": 16}),
    "mpnet": Family("wordpiece", _S, 2, room=2),
    "roberta": Family("bytes", _S, 2, room=2, changes={"type_vocab_size": 1}),
    "xlm-roberta": Family("unigram", _S, 2, room=2, changes={"type_vocab_size": 1}),
    "deberta-v2": Family(
        "unigram",
        changes={
            "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False,
            "type_vocab_size": 0, "pooler_hidden_size": 32, "max_relative_positions": -1, "norm_rel_ebd": "layer_norm",
            "share_att_key": True, "position_buckets": 16,
        },
    ),
    "modernbert": Family("bytes", changes={"global_attn_every_n_layers": 2, "local_attention": 8}),
}  # fmt: skip


def tiny_encoder(
    directory: Path, name: str, labels: tuple[str, ...] = ("a", "b", "c"), seed: int = 0, *, tagger: bool = False
) -> PreTrainedModel:
    """Save a random classifier of a family, of texts or with `tagger` of their words, and its tokenizer.

    Returns:
        the model (float32, eval mode); norms and biases are random too, so that a lost one shows.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoModelForTokenClassification

    family = FAMILIES[name]
    ids = _tokenizer(directory, family)
    fields = {
        "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.2,
        "id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)},
        **ids, **family.changes,
    }  # fmt: skip
    torch.manual_seed(seed)
    kind = AutoModelForTokenClassification if tagger else AutoModelForSequenceClassification
    model = kind.from_config(AutoConfig.for_model(name, **fields)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(directory)
    return model


def _tokenizer(directory: Path, family: Family) -> dict[str, int]:
    """Save it; returns the ids that the configuration has to name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    first, last = family.around
    pad, unknown = ("[PAD]", "[UNK]") if first == "[CLS]" else ("<pad>", "<unk>")
    special = [first, pad, last, unknown] if first == "<s>" else [pad, first, last, unknown]
    if family.tokens == "wordpiece" and first == "[CLS]":
        tiny_wordpiece(directory)
        return {"pad_token_id": 0}
    if family.tokens == "wordpiece":
        made = Tokenizer(models.WordPiece(unk_token=unknown))
        made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    elif family.tokens == "bytes":
        made = Tokenizer(models.BPE())
        made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        made = Tokenizer(models.Unigram())
        made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=300, special_tokens=special, unk_token=unknown, show_progress=False
        )
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=" ".join([first, "$A", *[last] * family.between, "$B:1", f"{last}:1"]),
        special_tokens=[(token, made.token_to_id(token)) for token in (first, last)],
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=made, cls_token=first, sep_token=last, pad_token=pad, unk_token=unknown
    )
    fast.save_pretrained(directory)
    return {f"{use}_token_id": made.token_to_id(token) for use, token in (("pad", pad), ("bos", first), ("eos", last),
                                                                           ("cls", first), ("sep", last))}  # fmt: skip
