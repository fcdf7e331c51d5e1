"""The bytes of a file's metadata: the vocabulary above all, whole or trimmed; written once without tensors."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.errors import UserError
from distill2edge.export import gguf_vocab, gguf_write
from distill2edge.gguf.hyperparameters import fields_of
from distill2edge.intake.gguf_load import gguf_to_hf
from distill2edge.models.id_map import IdMap
from distill2edge.student.trimming import kind_of
from distill2edge.student.vocabulary import whole_texts, write_tokenizer

RECIPE_TEXTS = 700
"""Bytes of what an export says of itself, by files of recipes here: teacher, recipe, key, how its rows are read."""


@dataclass(frozen=True)
class Words:
    """A vocabulary for students.

    Attributes:
        name: `keep` or `trim`, as `student.vocabulary` has it.
        rows: of the embedding.
        key_values: bytes of the header and the metadata of a file with it.
    """

    name: str
    rows: int
    key_values: int


def vocabularies(place: Path, texts: Sequence[str], rows: int) -> tuple[Words, ...]:
    """The teacher's vocabulary, and the one that training rows leave of it, where that is possible.

    Args:
        place: a Hugging Face directory, or a GGUF file.
        texts: of the training rows; none where they are not here.
        rows: of the teacher's embedding.

    Raises:
        UserError: a tokenizer that a GGUF has no fields for.
    """
    with tempfile.TemporaryDirectory() as work:
        if place.is_file():
            gguf_to_hf(place, Path(work) / "whole", weights=False)
            place = Path(work) / "whole"
        return _vocabularies(place, texts, rows, Path(work) / "trimmed")


def _vocabularies(place: Path, texts: Sequence[str], rows: int, work: Path) -> tuple[Words, ...]:
    tokenizer = gguf_vocab.load_tokenizer(place)
    found = [Words("keep", rows, _weighed(place, tokenizer, rows))]
    work.mkdir()
    if texts and (kept := _trimmed(place, tokenizer, texts, rows, work)):
        found.append(Words("trim", kept, _weighed(place, gguf_vocab.load_tokenizer(work), kept)))
    return tuple(found)


def _trimmed(place: Path, tokenizer: Any, texts: Sequence[str], rows: int, work: Path) -> int:
    """Writes the tokenizer that the texts leave, and returns its rows; 0 where it cannot be trimmed."""
    whole = whole_texts(tokenizer)
    spec = json.loads(whole.backend_tokenizer.to_str())
    try:
        kind = kind_of(spec)
    except UserError:
        return 0
    keep: Collection[int] = kind.keep(whole.backend_tokenizer, spec, list(texts), ())
    ids = IdMap(np.asarray(sorted(keep), dtype=np.int64), rows)
    new = {old: index for index, old in enumerate(sorted(keep))}
    write_tokenizer(place, work, kind.rewrite(spec, new), ids)
    return len(keep) if len(keep) < rows else 0


def _weighed(place: Path, tokenizer: Any, rows: int) -> int:
    """Bytes of a GGUF without tensors that has this vocabulary."""
    import gguf

    config, family = gguf_write.load_config(place)
    config.vocab_size = rows
    vocabulary = gguf_vocab.vocabulary_of(tokenizer, rows, [], str(place))
    vocabulary.chat_template = getattr(tokenizer, "chat_template", None)
    with tempfile.TemporaryDirectory() as work:
        target = Path(work) / "header.gguf"
        writer = gguf.GGUFWriter(target, family.architecture, use_temp_file=False)
        gguf_write.write_fields(writer, {"name": "x"}, fields_of(config, family), "F16", 1)
        vocabulary.write(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
        return target.stat().st_size + RECIPE_TEXTS
