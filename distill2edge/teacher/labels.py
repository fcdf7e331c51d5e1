"""Writes the labels signal: class logits of a teacher over texts, in resumable shards (see `distill.label_cache`)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.loading import load_model
from distill2edge.util.files import replacing, write_json
from distill2edge.util.progress import Progress, Task

if TYPE_CHECKING:
    from distill2edge.data.encode import Encoded

SHARD_ROWS = 2048
_BATCH = 32


def cache_labels(
    model_dir: Path, encoded: Sequence[Encoded], work: Path, progress: Progress, *, shard_rows: int = SHARD_ROWS
) -> dict[str, Any]:
    """Write the class logits of `encoded` as shards, and `signal.json`. Shards of an earlier try are kept.

    Args:
        model_dir: the teacher, a classifier.
        encoded: texts in the teacher's tokens; the same text is run once.

    Returns:
        facts: texts, classes, shards, bytes, accuracy (of the teacher on these texts), seconds, texts_per_s.

    Raises:
        UserError: no texts, or a teacher whose logits are not finite.
    """
    import torch
    from safetensors.torch import load_file

    from distill2edge.util.threads import available_threads

    if not encoded:
        raise UserError("no rows to run the teacher on", where="data", fix="check data.filter")
    work.mkdir(parents=True, exist_ok=True)
    texts = list({row.id: row for row in encoded}.values())
    shards = [texts[at : at + shard_rows] for at in range(0, len(texts), shard_rows)]
    for stale in sorted(work.glob("labels-*.safetensors"))[len(shards) :]:
        stale.unlink()
    torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
    model: Any = None
    seconds, ran, right, size, classes = 0.0, 0, 0, 0, 0
    with progress.task("teacher labels", len(texts)) as task:
        for number, shard in enumerate(shards):
            path = work / f"labels-{number:05d}.safetensors"
            if not _complete(path, shard):
                if model is None:
                    model = load_model(model_dir, dtype=torch.float32).eval()
                begin = time.monotonic()
                _write_shard(path, shard, model, task)
                seconds, ran = seconds + time.monotonic() - begin, ran + len(shard)
            found = load_file(path)["logits"]
            classes, size = found.shape[1], size + path.stat().st_size
            right += int((found.argmax(-1) == torch.tensor([row.label for row in shard])).sum())
    facts = {
        "schema_version": 1,
        "kind": "labels",
        "texts": len(texts),
        "classes": classes,
        "shards": len(shards),
        "bytes": size,
        "accuracy": round(right / len(texts), 6),
        "seconds": round(seconds, 3),
        "texts_per_s": round(ran / seconds, 1) if seconds else None,
    }
    write_json(work / "signal.json", facts)
    return facts


def _write_shard(path: Path, shard: Sequence[Encoded], model: Any, task: Task) -> None:
    """The class logits of some texts, in batches of like length.

    Raises:
        UserError: logits that are not finite.
    """
    import torch
    from safetensors.torch import save_file

    from distill2edge.distill.classifier_model import collate_texts

    order = sorted(range(len(shard)), key=lambda index: len(shard[index].ids))
    logits = torch.empty(len(shard), model.config.num_labels)
    for at in range(0, len(order), _BATCH):
        part = order[at : at + _BATCH]
        batch = collate_texts([{"ids": shard[i].ids, "label": 0} for i in part], model.config.pad_token_id or 0)
        del batch["labels"]
        with torch.inference_mode():
            logits[part] = model(**batch).logits.float()
        task.advance(len(part))
    if not torch.isfinite(logits).all():
        raise UserError("the teacher gives logits that are not numbers", where="teacher.model",
                        fix="lower teacher.fit.learning_rate, or take another teacher")  # fmt: skip
    with replacing(path) as temporary:
        save_file({"logits": logits}, temporary, {"ids": json.dumps([row.id for row in shard])})


def _complete(path: Path, shard: Sequence[Encoded]) -> bool:
    """Whether a shard is there, whole, and of these texts."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool(json.loads((file.metadata() or {}).get("ids", "[]")) == [row.id for row in shard])
    except (SafetensorError, OSError, ValueError):
        return False
