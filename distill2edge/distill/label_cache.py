"""What a teacher says of each text, in safetensors shards: its class logits, or the vector that it makes of it.

A shard holds `logits` [n, C] float32 (of vectors: their numbers), with the metadata `ids` (JSON list of n row ids).
Texts are found by id. Of tags there are several rows for each text: `counts` (JSON list) says how many.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from distill2edge.distill.shard_index import ShardIndex
from distill2edge.errors import UserError


class _Shard:
    """A shard, memory-mapped.

    Attributes:
        ids: of its texts.
        width: C.
    """

    def __init__(self, path: Path) -> None:
        from safetensors import safe_open

        file: Any = safe_open(path, framework="pt").__enter__()
        metadata = file.metadata()
        self.ids: list[str] = json.loads(metadata["ids"])
        self._rows = file.get_slice("logits")
        count, self.width = self._rows.get_shape()
        counts = json.loads(metadata["counts"]) if "counts" in metadata else None
        self._starts = range(count + 1) if counts is None else list(accumulate(counts, initial=0))
        self._several = counts is not None
        if self._starts[-1] != count:
            raise ValueError(f"{count} rows for {self._starts[-1]}")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, number: int) -> Tensor:
        found: Tensor = self._rows[self._starts[number] : self._starts[number + 1]]
        return found if self._several else found[0]


class TextReader:
    """A cache of what was said of texts.

    Attributes:
        stem: what its shards' names begin with.
        words: what it holds, for messages.
        classes: C.
    """

    stem = "labels"
    words = "class logits"

    def __init__(self, directory: Path) -> None:
        """Look at every shard of the directory.

        Raises:
            UserError: no shard, an unreadable one, or shards of different widths.
        """
        from safetensors import SafetensorError

        self.directory = Path(directory)
        paths = sorted(self.directory.glob(f"{self.stem}-*.safetensors"))
        if not paths:
            raise UserError(f"no {self.words} in {directory}", fix="run the signal stage again")
        self._index = ShardIndex(_Shard)
        sizes = set()
        for path in paths:
            try:
                shard = _Shard(path)
                if len(shard) != len(shard.ids):
                    raise ValueError(f"{len(shard)} texts of {len(shard.ids)}")
            except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                raise UserError(
                    f"not a shard of {self.words}: {error}", where=str(path), fix="delete it and run the signal stage"
                ) from error
            self._index.add(path, shard.ids)
            sizes.add(shard.width)
        if len(sizes) != 1:
            raise UserError(f"shards of {sorted(sizes)} numbers a text", where=str(directory), fix="rebuild the cache")
        self.classes = sizes.pop()

    def said(self, text: str) -> Tensor:
        """What is kept of a text.

        Raises:
            KeyError: nothing.
        """
        shard, _, number = self._index.find(text)
        found: Tensor = shard[number]
        return found

    def __len__(self) -> int:
        return len(self._index)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Those of the ids that the cache does not have."""
        return self._index.missing(texts)


class LabelReader(TextReader):
    """A cache of class logits.

    Attributes:
        temperature: T of the log-probabilities it returns.
    """

    def __init__(self, directory: Path, temperature: float) -> None:
        """As `TextReader`."""
        super().__init__(directory)
        self.temperature = temperature

    def get(self, text: str) -> Tensor:
        """log p [C] float32 of a text at the temperature."""
        return torch.log_softmax(self.said(text) / self.temperature, -1)


class TagReader(LabelReader):
    """A cache of the tags' logits of each word; its shards hold all words, one after another, and their `counts`."""

    def get(self, text: str) -> Tensor:
        """log p [words, C] float32 of a text at the temperature; NaN of words that the teacher has no token of."""
        return super().get(text)


class SetReader(LabelReader):
    """A cache of the logits of labels that are told apart from one another."""

    def get(self, text: str) -> Tensor:
        """log p [C, 2] float32 of a text at the temperature: that it has a label not, and that it has it."""
        scaled = self.said(text) / self.temperature
        return torch.stack([F.logsigmoid(-scaled), F.logsigmoid(scaled)], -1)


class NumberReader(TextReader):
    """A cache of numbers, one of each text."""

    words = "numbers"

    def get(self, text: str) -> Tensor:
        """float32, no dimensions."""
        return self.said(text)[0]


class VectorReader(TextReader):
    """A cache of vectors, of `classes` dimensions."""

    stem = "vectors"
    words = "vectors"

    def get(self, text: str) -> Tensor:
        """[D] float32."""
        return self.said(text)


Reader = TypeVar("Reader", bound=LabelReader)


def open_signal(
    signal: tuple[Path, float] | None, classes: int, opens: type[Reader], called: str = "classes"
) -> Reader:
    """The cache of class logits that a loss compares with.

    Args:
        classes: of the student's head.
        opens: what reads it.
        called: what they are, for messages.

    Raises:
        UserError: there is none, or it is of another number of classes.
    """
    if signal is None:
        raise UserError("the loss compares with the teacher, but there is no signal", where="distill.loss",
                        fix="set signal: {kind: labels}, or distill.loss: {ce: 1}")  # fmt: skip
    reader = opens(*signal)
    if reader.classes != classes:
        raise UserError(f"the signal has {reader.classes} {called}, the student's head {classes}",
                        where=str(signal[0]), fix="run the signal stage again")  # fmt: skip
    return reader
