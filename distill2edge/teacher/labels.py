"""Writes the labels signal: class logits of a teacher over texts, in resumable shards (see `distill.label_cache`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.errors import UserError
from distill2edge.models.loading import load_to_run
from distill2edge.models.placement import WHOLE, Placement, on_device
from distill2edge.util.files import replacing, write_json
from distill2edge.util.progress import Progress
from distill2edge.util.tensor_files import save_arrays
from distill2edge.workers.mapping import map_shards

if TYPE_CHECKING:
    from torch import Tensor

    from distill2edge.data.examples import Encoded

SHARD_ROWS = 2048
_BATCH = 32


class Text(Protocol):
    """What is scored; the same id is scored once."""

    @property
    def id(self) -> str:
        """Unique among texts of other content."""


Score = Callable[[Sequence[Any], Callable[[int], None]], "Tensor"]
"""Texts, and what is told of each that is done -> [n, C] float32. It can be pickled before the first call."""


@dataclass(frozen=True)
class Scored:
    """The scores of texts.

    Attributes:
        ids: of the texts, each once.
        scores: [n, C] float32.
        facts: shards, bytes, seconds (of this try), texts_per_s.
    """

    ids: list[str]
    scores: Tensor
    facts: dict[str, Any]


def cache_labels(
    model_dir: Path,
    encoded: Sequence[Encoded],
    work: Path,
    progress: Progress,
    *,
    placement: Placement = WHOLE,
    shard_rows: int = SHARD_ROWS,
) -> dict[str, Any]:
    """Write the class logits of `encoded` as shards, and `signal.json`. Shards of an earlier try are kept.

    Args:
        model_dir: the teacher, a classifier.
        encoded: texts in the teacher's tokens; the same text is run once.

    Returns:
        facts: texts, classes, shards, bytes, accuracy (of the teacher on those of these texts that have a label; None
        without any), seconds, texts_per_s.

    Raises:
        UserError: no texts, or a teacher whose logits are not finite.
    """
    score = by_head(model_dir, placement)
    scored = scores_of(encoded, score, work, progress, shard_rows=shard_rows, reads=[model_dir])
    return write_facts(scored, labels_by_id(encoded), work)


def labels_by_id(rows: Sequence[Encoded]) -> dict[str, int]:
    """The class of each text that has one."""
    return {row.id: row.label for row in rows if row.label >= 0}


def write_facts(scored: Scored, truth: dict[str, int], work: Path, **more: Any) -> dict[str, Any]:
    """Write `signal.json`, and return what it holds.

    Args:
        truth: class by id, of the texts that have one.
    """
    predicted = dict(zip(scored.ids, scored.scores.argmax(-1).tolist(), strict=True))
    right = sum(predicted[name] == label for name, label in truth.items())
    facts = {
        "schema_version": 1,
        "kind": "labels",
        "texts": len(scored.ids),
        "classes": scored.scores.shape[1],
        "accuracy": round(right / len(truth), 6) if truth else None,
        **scored.facts,
        **more,
    }
    write_json(work / "signal.json", facts)
    return facts


def scores_of(
    texts: Sequence[Text],
    score: Score,
    work: Path,
    progress: Progress,
    *,
    stem: str = "labels",
    shard_rows: int = SHARD_ROWS,
    counted: Callable[[Any], int] | None = None,
    reads: Sequence[Path] = (),
    again: bool = False,
) -> Scored:
    """Scores of texts, kept as shards `STEM-00000.safetensors`. Those of an earlier try of the same texts are kept.

    Args:
        counted: rows of scores of a text; None: one.
        reads: what `score` opens.
        again: as `workers.mapping.map_shards`.

    Raises:
        UserError: no texts; and what `score` raises.
    """
    import torch
    from safetensors.torch import load_file

    if not texts:
        raise UserError("no rows to run the teacher on", where="data", fix="check data.filter")
    work.mkdir(parents=True, exist_ok=True)
    unique = list({text.id: text for text in texts}.values())
    shards = [unique[at : at + shard_rows] for at in range(0, len(unique), shard_rows)]
    for stale in sorted(work.glob(f"{stem}-*.safetensors"))[len(shards) :]:
        stale.unlink()
    paths = [work / f"{stem}-{number:05d}.safetensors" for number in range(len(shards))]
    todo = [number for number, shard in enumerate(shards) if not _complete(paths[number], shard)]
    ran = sum(len(shards[number]) for number in todo)
    begin = time.monotonic()
    with progress.task("teacher labels", len(unique)) as task:
        task.advance(len(unique) - ran)
        given = ((number, shards[number]) for number in todo)
        for number, scores in map_shards(score, given, len(todo), task, reads=reads, again=again):
            counts = None if counted is None else [counted(text) for text in shards[number]]
            write_shard(paths[number], scores, [text.id for text in shards[number]], counts)
    seconds = time.monotonic() - begin if todo else 0.0
    found = [load_file(path)["logits"] for path in paths]
    size = sum(path.stat().st_size for path in paths)
    facts = {
        "shards": len(shards),
        "bytes": size,
        "seconds": round(seconds, 3),
        "texts_per_s": round(ran / seconds, 1) if seconds else None,
    }
    return Scored([text.id for text in unique], torch.cat(found), facts)


def write_shard(path: Path, scores: Tensor, ids: Sequence[str], counts: Sequence[int] | None = None) -> None:
    """Write scores [n, C] of texts, whole or not at all; `counts`: rows of each text, where it has several."""
    with replacing(path) as temporary:
        more = {} if counts is None else {"counts": json.dumps(list(counts))}
        save_arrays({"logits": scores.numpy()}, temporary, {"ids": json.dumps(list(ids)), **more})


class LoadedOnce:
    """What gives a teacher that reads texts: it is loaded at the first call, and never where all shards are there.

    It is pickled without its weights.
    """

    def __init__(self, model_dir: Path, placement: Placement) -> None:
        self._of, self._model = (model_dir, placement), None

    def __call__(self) -> Any:
        """The model."""
        if self._model is None:
            import torch

            from distill2edge.util.threads import available_threads

            torch.set_num_threads(min(torch.get_num_threads(), available_threads()))
            model_dir, placement = self._of
            self._model = load_to_run(model_dir, torch.float32, placement=placement)
        return self._model

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_model": None}


def by_head(model_dir: Path, placement: Placement = WHOLE) -> Score:
    """The class logits of a classifier, in batches of like length; it is loaded for the first texts.

    Raises:
        UserError: logits that are not finite.
    """
    return partial(_head_logits, LoadedOnce(model_dir, placement))


def _head_logits(load: LoadedOnce, shard: Sequence[Encoded], done: Callable[[int], None]) -> Tensor:
    import torch

    from distill2edge.distill.module import segments_for
    from distill2edge.distill.taught_texts import collate_texts

    model = load()
    order = sorted(range(len(shard)), key=lambda index: len(shard[index].ids))
    logits = torch.empty(len(shard), model.config.num_labels)
    for at in range(0, len(order), _BATCH):
        part = order[at : at + _BATCH]
        items = [{"ids": shard[i].ids, "types": shard[i].types, "label": 0} for i in part]
        batch = on_device(collate_texts(items, model.config.pad_token_id or 0), model)
        told = segments_for(model.config, batch.get("token_type_ids"))
        with torch.inference_mode():
            found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **told)
        logits[part] = found.logits.float().cpu()
        done(len(part))
    if not torch.isfinite(logits).all():
        raise UserError("the teacher gives logits that are not numbers", where="teacher.model",
                        fix="lower teacher.fit.learning_rate, or take another teacher")  # fmt: skip
    return logits


def _complete(path: Path, shard: Sequence[Text]) -> bool:
    """Whether a shard is there, whole, and of these texts."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool(json.loads((file.metadata() or {}).get("ids", "[]")) == [text.id for text in shard])
    except (SafetensorError, OSError, ValueError):
        return False
