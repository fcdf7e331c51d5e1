"""Writes the labels signal of words: a teacher's logits of their tags, in resumable shards (`distill.label_cache`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.placement import WHOLE, Placement, on_device
from distill2edge.teacher.labels import SHARD_ROWS, LoadedOnce, scores_of
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.data.examples import Encoded

_BATCH = 32


def cache_tags(
    model_dir: Path,
    encoded: Sequence[Encoded],
    work: Path,
    progress: Progress,
    *,
    placement: Placement = WHOLE,
    shard_rows: int = SHARD_ROWS,
) -> dict[str, Any]:
    """Write the logits of the tags of every word as shards, and `signal.json`. Shards of an earlier try are kept.

    A word without a token of its own has NaN.

    Args:
        model_dir: the teacher, a token classifier.
        encoded: texts in the teacher's tokens; the same text is run once.

    Returns:
        facts: texts, words, classes, accuracy (of the teacher on words that have a tag; None without any), shards,
        bytes, seconds, texts_per_s.

    Raises:
        UserError: no texts, or a teacher whose logits are not finite.
    """
    scored = scores_of(
        encoded,
        partial(_by_word, LoadedOnce(model_dir, placement)),
        work,
        progress,
        shard_rows=shard_rows,
        counted=lambda row: len(row.places),
        reads=[model_dir],
    )
    rows = {row.id: row for row in encoded}
    predicted = iter(scored.scores.argmax(-1).tolist())
    right = known = 0
    for name in scored.ids:
        row = rows[name]
        said = [next(predicted) for _ in row.places]
        if row.tags is not None:
            pairs = [(tag, own) for tag, own, at in zip(row.tags, said, row.places, strict=False) if at >= 0]
            right, known = right + sum(tag == own for tag, own in pairs), known + len(pairs)
    facts = {
        "schema_version": 1,
        "kind": "labels",
        "texts": len(scored.ids),
        "words": len(scored.scores),
        "classes": scored.scores.shape[1],
        "accuracy": round(right / known, 6) if known else None,
        **scored.facts,
    }
    write_json(work / "signal.json", facts)
    return facts


def _by_word(load: LoadedOnce, shard: Sequence[Encoded], done: Callable[[int], None]) -> Tensor:
    """As `Score`: logits of the words of texts, one after another.

    Raises:
        UserError: logits that are not finite.
    """
    import torch

    from distill2edge.distill.taught_texts import collate_texts

    model = load()
    order = sorted(range(len(shard)), key=lambda index: len(shard[index].ids))
    found: list[Tensor] = [torch.empty(0)] * len(shard)
    for at in range(0, len(order), _BATCH):
        part = order[at : at + _BATCH]
        batch = collate_texts([{"ids": shard[i].ids, "label": 0} for i in part], model.config.pad_token_id or 0)
        del batch["labels"]
        with torch.inference_mode():
            logits = model(**on_device(batch, model)).logits.float().cpu()
        if not torch.isfinite(logits[batch["attention_mask"] > 0]).all():
            raise UserError("the teacher gives logits that are not numbers", where="teacher.model",
                            fix="lower teacher.fit.learning_rate, or take another teacher")  # fmt: skip
        for row, index in enumerate(part):
            places = torch.tensor(shard[index].places, dtype=torch.int64)
            words = logits[row, places.clamp(min=0)]
            found[index] = words.masked_fill((places < 0)[:, None], torch.nan)
        done(len(part))
    return torch.cat(found)
