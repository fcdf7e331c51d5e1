"""A randomly initialised student: random weights and the teacher's tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

from distill2edge.intake.random_models import CONTEXT, emptied, write_weights
from distill2edge.models.loading import copy_tokenizer
from distill2edge.recipe.scratch import Scratch


def scratch_checkpoint(model: Scratch, teacher_dir: Path, work: Path, seed: int) -> Path:
    """Write the untrained student.

    Args:
        teacher_dir: whose tokenizer it takes, so that every token has the same id; and whose context, where longer.

    Returns:
        `work/model`, a Hugging Face directory.
    """
    out = emptied(work / "model")
    copy_tokenizer(teacher_dir, out)
    config = json.loads((teacher_dir / "config.json").read_text(encoding="utf-8"))
    write_weights(model, out, seed, max(CONTEXT, int(config.get("max_position_embeddings") or 0)))
    return out
