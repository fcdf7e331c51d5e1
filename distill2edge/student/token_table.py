"""A student without layers: a table of token vectors, whose mean is the vector of a text.

The table is made as model2vec makes it (Tulkens and van Dongen 2024): a token's vector is the teacher's vector of that
token alone, moved so that the mean over the vocabulary is 0, in fewer dimensions by principal components where fewer
are wanted, and weighed by a / (a + p), p being the token's share of the training texts (SIF, Arora et al. 2017).

It is a BERT of no layers, so that everything that reads a BERT reads it. What a BERT adds to a token's vector is
taken out: positions and types are 0, and LayerNorm is all but the identity. It divides by sqrt(variance + epsilon):
with an epsilon of 1, beside which the variance of a vector's numbers is small (1/384 for one of unit length in 384
dimensions), it leaves a vector as it is, but for the mean of its numbers, which it takes off.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.encode_texts import around
from distill2edge.data.examples import Encoded
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.loading import copy_tokenizer, load_model
from distill2edge.teacher.vectors import vectors_of
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

SIF = 1e-3
"""a of the weights: the share of a token that is weighed by half (Arora et al. 2017)."""
EPSILON = 1.0
"""Of a LayerNorm that is all but the identity; the largest that a configuration may state."""


def init_table(
    teacher_dir: Path, rows: Sequence[Encoded], width: int | None, work: Path, progress: Progress
) -> dict[str, Any]:
    """Write `work/model` (the table, not trained yet) and `work/student.json`.

    Args:
        teacher_dir: an embedder.
        rows: training texts in its tokens, whose shares weigh the tokens.
        width: dimensions of the table's vectors, fewer than the teacher's: its principal components; None: all, where
            the teacher has them, so that its vectors and the table's can be compared.

    Returns:
        what student.json holds: source, layers kept (none), parameters, share of the variance that is kept.
    """
    import torch

    from distill2edge.util.threads import available_threads

    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
    teacher: Any = load_model(teacher_dir, dtype=torch.float32).eval()
    table, explained = _alone(teacher, teacher_dir, progress), 1.0
    specials = sorted(set(load_tokenizer(teacher_dir).all_special_ids))
    words = torch.ones(len(table), dtype=torch.bool)
    words[specials] = False
    table -= table[words].mean(0)
    if width is not None and width < table.shape[1]:
        table, explained = principal(table, words, width)
    table *= sif_weights(rows, len(table))[:, None]
    table[specials] = 0  # they stand in every text, and say nothing of it
    parameters = _write(table, teacher, work / "model")
    copy_tokenizer(teacher_dir, work / "model")
    facts = {
        "schema_version": 1, "source": "teacher", "select": "tokens", "layers": [],
        "of": teacher.config.num_hidden_layers, "dropped": [], "parameters": parameters,
        "explained_variance": explained,
    }  # fmt: skip
    write_json(work / "student.json", facts)
    return facts


def sif_weights(rows: Sequence[Encoded], size: int) -> Tensor:
    """[size] a / (a + p) of each token; p is its share of the texts' tokens, each token counted once more."""
    import torch

    counts = Counter(token for row in rows for token in row.ids)
    seen = torch.ones(size)
    for token, count in counts.items():
        seen[token] += count
    return SIF / (SIF + seen / seen.sum())


def principal(table: Tensor, words: Tensor, width: int) -> tuple[Tensor, float]:
    """Vectors [V, D] in their first `width` principal components [V, width], and the share of variance in these.

    Args:
        words: [V] which rows the components are those of; their mean is 0.
    """
    import torch

    values, axes = torch.linalg.eigh(table[words].T.double() @ table[words].double())
    kept = axes[:, -width:].flip(1)
    return table @ kept.to(table.dtype), float(values[-width:].sum() / values.sum())


def _alone(teacher: Any, teacher_dir: Path, progress: Progress) -> Tensor:
    """[V, D] the teacher's vector of each token alone, between what begins and ends a text."""
    before, after = around(load_tokenizer(teacher_dir))
    size = int(teacher.config.vocab_size)
    rows = [Encoded(str(token), [*before, token, *after], []) for token in range(size)]
    with progress.task("read tokens", size) as task:
        return vectors_of(teacher, rows, task.advance)


def _write(table: Tensor, teacher: Any, target: Path) -> int:
    """A BERT of no layers around a table [V, D]; returns its parameters."""
    import torch
    from transformers import BertConfig, BertModel

    size, width = table.shape
    config = BertConfig(
        vocab_size=size,
        hidden_size=width,
        num_hidden_layers=0,
        num_attention_heads=1,
        intermediate_size=width,
        hidden_dropout_prob=0.0,
        max_position_embeddings=teacher.config.max_position_embeddings,
        type_vocab_size=2,
        layer_norm_eps=EPSILON,
        pad_token_id=teacher.config.pad_token_id,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    parts = model.embeddings
    with torch.no_grad():
        parts.word_embeddings.weight.copy_(table)
        parts.position_embeddings.weight.zero_()
        parts.token_type_embeddings.weight.zero_()
        parts.LayerNorm.weight.fill_(1.0)
        parts.LayerNorm.bias.zero_()
    model.save_pretrained(target)
    return int(model.num_parameters())


def is_table(config: Any) -> bool:
    """Whether a model of this configuration is a table of token vectors."""
    return getattr(config, "num_hidden_layers", None) == 0
