"""Writes the labels signal of sets: a logit for each label of a text, in resumable shards (`distill.label_cache`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.models.placement import WHOLE, Placement
from distill2edge.teacher.labels import Scored, by_head, scores_of
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded


def cache_sets(
    model_dir: Path, encoded: Sequence[Encoded], work: Path, progress: Progress, placement: Placement = WHOLE
) -> dict[str, Any]:
    """As `cache_labels`, of a multi-label classifier.

    Returns:
        as `set_facts`.
    """
    scored = scores_of(encoded, by_head(model_dir, placement), work, progress, reads=[model_dir])
    return set_facts(scored, {row.id: row.labels for row in encoded if row.labels is not None}, work)


def set_facts(scored: Scored, truth: Mapping[str, Sequence[int]], work: Path, **more: Any) -> dict[str, Any]:
    """Write `signal.json`, and return what it holds.

    Args:
        scored: logits [n, C] of the labels.
        truth: labels by id, of the texts that have a set, which may be empty.

    Returns:
        as `teacher.labels.cache_labels`; accuracy: share of the texts whose whole set is right; f1: micro, over all
        labels.
    """
    said = {name: set(row.nonzero()[:, 0].tolist()) for name, row in zip(scored.ids, scored.scores > 0, strict=True)}
    right = sum(said[name] == set(labels) for name, labels in truth.items())
    hits = sum(len(said[name] & set(labels)) for name, labels in truth.items())
    either = sum(len(said[name]) + len(labels) for name, labels in truth.items())
    facts = {
        "schema_version": 1,
        "kind": "labels",
        "texts": len(scored.ids),
        "classes": scored.scores.shape[1],
        "accuracy": round(right / len(truth), 6) if truth else None,
        "f1": round(2 * hits / either, 6) if either else None,
        **scored.facts,
        **more,
    }
    write_json(work / "signal.json", facts)
    return facts
