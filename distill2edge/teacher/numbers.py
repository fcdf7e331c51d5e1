"""Writes the numbers signal: a teacher's number of each text, in resumable shards (see `distill.label_cache`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.models.placement import WHOLE, Placement
from distill2edge.teacher.labels import by_head, scores_of
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded


def cache_numbers(
    model_dir: Path, encoded: Sequence[Encoded], work: Path, progress: Progress, placement: Placement = WHOLE
) -> dict[str, Any]:
    """Write the numbers of `encoded` as shards, and `signal.json`. Shards of an earlier try are kept.

    Args:
        model_dir: the teacher, a regressor.
        encoded: texts in the teacher's tokens; the same text is run once.

    Returns:
        facts: texts, shards, bytes, mae (of the teacher on those of these texts that have a number; None without any),
        seconds, texts_per_s.

    Raises:
        UserError: no texts, or a teacher whose numbers are not finite.
    """
    scored = scores_of(encoded, by_head(model_dir, placement), work, progress, reads=[model_dir])
    said = dict(zip(scored.ids, scored.scores[:, 0].tolist(), strict=True))
    errors = [abs(said[row.id] - row.number) for row in encoded if row.number is not None]
    mae = round(sum(errors) / len(errors), 6) if errors else None
    facts = {"schema_version": 1, "kind": "numbers", "texts": len(scored.ids), "mae": mae, **scored.facts}
    write_json(work / "signal.json", facts)
    return facts
