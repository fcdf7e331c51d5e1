"""A student whose vocabulary is trimmed to its training rows, and what that leaves unseen."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.data.model_inputs import encode_for, form_of
from distill2edge.data.split_files import labelled, read_rows
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.id_map import read_map
from distill2edge.recipe.schema import Recipe
from distill2edge.student.vocabulary import Unseen, trim_vocabulary, unseen, unseen_facts
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_share

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded, Row
    from distill2edge.models.id_map import IdMap

Facts = dict[str, Any]
_MUCH = 0.1
"""Share of unseen tokens that is worth a warning where the recipe sets no limit."""


def trim_encoder(recipe: Recipe, rows_dir: Path, work: Path, progress: Progress) -> Facts:
    """`work/model` with the tokens of the training rows' texts; returns what student.json says of it."""
    trim = recipe.student.trim
    assert trim is not None
    whole, fewer = work / "model", work / "trimmed"
    texts = _texts(read_rows(rows_dir, "train"))
    facts = trim_vocabulary(whole, texts, fewer, progress, always=trim.keep, least=trim.min_frequency)
    ids, (full, small) = _map(fewer), (load_tokenizer(whole), load_tokenizer(fewer))

    def lost(split: str) -> Unseen:
        return unseen(full, small, ids, _texts(read_rows(rows_dir, split)))

    if trim.max_unseen is not None:
        _within(trim.max_unseen, lost("validation"))
    return _replaced(work, facts, lost("test"), progress)


def trim_writer(recipe: Recipe, rows_dir: Path, written: Sequence[Row], work: Path, progress: Progress) -> Facts:
    """`work/model`, which predicts tokens, with those of the training rows; returns what student.json says of it.

    The rows are read as the training reads them: prompts and responses together, in the model's template.

    Args:
        written: rows that a teacher wrote responses to; those of the data stay too.

    Raises:
        UserError: a tokenizer that cannot be trimmed, or more unseen tokens than the recipe allows.
    """
    trim = recipe.student.trim
    assert trim is not None
    whole, fewer = work / "model", work / "trimmed"
    rows = [*labelled(read_rows(rows_dir, "train")), *written]
    before = encode_for(recipe.data, rows, whole)
    used = [*(row.ids for row in before), *_choices(recipe, rows, whole)]
    stored = _size(whole)
    facts = trim_vocabulary(whole, trim.keep, fewer, progress, used=used)
    ids = _map(fewer)
    after = encode_for(recipe.data, rows, fewer)
    if [(ids.to_old(row.ids), row.mask) for row in after] != [(row.ids, row.mask) for row in before]:
        raise UserError("trimmed, the tokenizer reads some training rows in other tokens", where="student.vocabulary",
                        fix="set vocabulary: keep; this tokenizer cannot be trimmed faithfully")  # fmt: skip

    def lost(split: str) -> Unseen:
        held = labelled(read_rows(rows_dir, split))
        if not held:
            return Unseen(0, 0, 0, 0, 0)
        return _unseen(encode_for(recipe.data, held, whole), encode_for(recipe.data, held, fewer), ids)

    if trim.max_unseen is not None:
        _within(trim.max_unseen, lost("validation"))
    elif (seen := lost("validation")).rate > _MUCH:
        progress.warn(
            f"{readable_share(seen.rate, 1)} of the validation rows' tokens are not in the trimmed vocabulary: the "
            "student writes them in smaller pieces, more slowly and perhaps worse. More training rows, or texts in "
            "student.vocabulary.keep, keep more tokens"
        )
    found = _replaced(work, facts, lost("test"), progress)
    found["vocabulary"]["bytes_saved"] = stored - _size(whole)
    return found


def _texts(rows: Sequence[Row]) -> list[str]:
    """What an encoder reads of rows: each text, and the second ones of pairs after them."""
    return [row.prompt for row in rows] + [row.pair for row in rows if row.pair is not None]


def _unseen(before: Sequence[Encoded], after: Sequence[Encoded], ids: IdMap) -> Unseen:
    """Rows in the tokens of the full and of the trimmed vocabulary, compared; the longer of one may be left out."""
    known, now = ids.old_to_new, {row.row: row.ids for row in after}
    missing = [int((known[np.asarray(row.ids, dtype=np.int64)] < 0).sum()) for row in before]
    changed = sum(row.row not in now or ids.to_old(now[row.row]) != row.ids for row in before)
    return Unseen(sum(len(row.ids) for row in before), sum(missing), 0, len(before), changed)


def _choices(recipe: Recipe, rows: Sequence[Row], model_dir: Path) -> list[list[int]]:
    """The closed responses as they follow a prompt: each is scored, whether a training row has it or not."""
    if recipe.data.choices is None or not rows:
        return []
    form = form_of(recipe, model_dir)
    return list(form.reading.choices([rows[0].prompt], recipe.data.choices, load_tokenizer(model_dir), form)[0])


def _within(limit: float, lost: Unseen) -> None:
    if lost.rate > limit:
        raise UserError(
            f"{readable_share(lost.rate, 1)} of the validation rows' tokens are not in the trimmed vocabulary "
            f"({lost.unseen:,} of {lost.tokens:,}), and student.vocabulary.max_unseen allows {limit:g}",
            where="student.vocabulary.max_unseen",
            fix="raise it, train on more rows, or name texts in student.vocabulary.keep",
        )


def _replaced(work: Path, facts: Facts, lost: Unseen, progress: Progress) -> Facts:
    """Put the trimmed model in the place of the whole one."""
    whole, fewer = work / "model", work / "trimmed"
    shutil.rmtree(whole)
    fewer.rename(whole)
    progress.say(f"  {readable_share(lost.rate, 1)} of the test rows' tokens are not in the trimmed vocabulary")
    vocabulary = {"kept": facts["new_size"], "of": facts["old_size"], "unseen_on_test": unseen_facts(lost)}
    return {"parameters": facts["parameters"]["after"], "vocabulary": vocabulary}


def _map(model_dir: Path) -> IdMap:
    ids = read_map(model_dir)
    assert ids is not None
    return ids


def _size(model_dir: Path) -> int:
    return sum(path.stat().st_size for path in model_dir.glob("*.safetensors"))
