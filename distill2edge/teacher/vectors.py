"""Writes the embeddings signal: a teacher's vectors of texts, in resumable shards (see `distill.label_cache`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.placement import WHOLE, Placement, on_device
from distill2edge.models.pooling import pooling_of
from distill2edge.teacher.labels import SHARD_ROWS, LoadedOnce, Score, scores_of
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.data.examples import Encoded

STEM = "vectors"
_BATCH = 32


def cache_vectors(
    model_dir: Path,
    encoded: Sequence[Encoded],
    work: Path,
    progress: Progress,
    *,
    placement: Placement = WHOLE,
    shard_rows: int = SHARD_ROWS,
) -> dict[str, Any]:
    """Write the vectors of `encoded` as shards, and `signal.json`. Shards of an earlier try are kept.

    Args:
        model_dir: the teacher, an embedder.
        encoded: texts in the teacher's tokens; the same text is run once.

    Returns:
        facts: texts, dimensions, shards, bytes, seconds, texts_per_s.

    Raises:
        UserError: no texts, or a teacher whose vectors are not finite.
    """
    score: Score = partial(_pooled, LoadedOnce(model_dir, placement))
    scored = scores_of(encoded, score, work, progress, stem=STEM, shard_rows=shard_rows, reads=[model_dir])
    facts = {
        "schema_version": 1,
        "kind": "embeddings",
        "texts": len(scored.ids),
        "dimensions": scored.scores.shape[1],
        **scored.facts,
    }
    write_json(work / "signal.json", facts)
    return facts


def vectors_of(model: Any, rows: Sequence[Encoded], done: Callable[[int], None]) -> Tensor:
    """[n, D] float32: an embedder's vectors of texts, in batches of like length; `done` is told of each batch."""
    import torch

    from distill2edge.distill.taught_texts import collate_texts

    pooling = pooling_of(model.config)
    assert pooling is not None
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].ids))
    found = torch.empty(len(rows), model.config.hidden_size)
    for at in range(0, len(order), _BATCH):
        part = order[at : at + _BATCH]
        batch = collate_texts([{"ids": rows[i].ids, "label": 0} for i in part], model.config.pad_token_id or 0)
        del batch["labels"]
        batch = on_device(batch, model)
        with torch.inference_mode():
            found[part] = pooling.of(model(**batch).last_hidden_state.float(), batch["attention_mask"]).cpu()
        done(len(part))
    return found


def _pooled(load: LoadedOnce, shard: Sequence[Encoded], done: Callable[[int], None]) -> Tensor:
    """As `Score`: the vectors of an embedder.

    Raises:
        UserError: vectors that are not finite.
    """
    import torch

    vectors = vectors_of(load(), shard, done)
    if not torch.isfinite(vectors).all():
        raise UserError("the teacher gives vectors that are not numbers", where="teacher.model",
                        fix="take another teacher")  # fmt: skip
    return vectors
