"""What a teacher says of each text, in safetensors shards: its class logits, or the vector that it makes of it.

A shard holds `logits` [n, C] float32 (of vectors: their numbers), with the metadata `ids` (JSON list of n row ids).
Texts are found by id. Of tags there are several rows for each text: `counts` (JSON list) says how many.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from distill2edge.errors import UserError


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
        """Read every shard of the directory.

        Raises:
            UserError: no shard, an unreadable one, or shards of different widths.
        """
        from safetensors import SafetensorError, safe_open

        self.directory = Path(directory)
        paths = sorted(self.directory.glob(f"{self.stem}-*.safetensors"))
        if not paths:
            raise UserError(f"no {self.words} in {directory}", fix="run the signal stage again")
        self._logits: dict[str, Tensor] = {}
        for path in paths:
            try:
                with safe_open(path, framework="pt") as shard:
                    logits, ids = shard.get_tensor("logits"), json.loads(shard.metadata()["ids"])
                    given = self._split(logits, shard.metadata())
            except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
                raise UserError(
                    f"not a shard of {self.words}: {error}", where=str(path), fix="delete it and run the signal stage"
                ) from error
            self._logits.update(zip(ids, given, strict=True))
        sizes = {row.shape[-1] for row in self._logits.values()}
        if len(sizes) != 1:
            raise UserError(f"shards of {sorted(sizes)} numbers a text", where=str(directory), fix="rebuild the cache")
        self.classes = sizes.pop()

    @staticmethod
    def _split(logits: Tensor, metadata: Mapping[str, str]) -> Iterable[Tensor]:
        """What is said of each text of a shard."""
        return logits

    def __len__(self) -> int:
        return len(self._logits)

    def missing(self, texts: Iterable[str]) -> list[str]:
        """Those of the ids that the cache does not have."""
        return [name for name in texts if name not in self._logits]


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
        return torch.log_softmax(self._logits[text] / self.temperature, -1)


class TagReader(LabelReader):
    """A cache of the tags' logits of each word; its shards hold all words, one after another, and their `counts`."""

    @staticmethod
    def _split(logits: Tensor, metadata: Mapping[str, str]) -> Iterable[Tensor]:
        return logits.split(json.loads(metadata["counts"]))

    def get(self, text: str) -> Tensor:
        """log p [words, C] float32 of a text at the temperature; NaN of words that the teacher has no token of."""
        return super().get(text)


class SetReader(LabelReader):
    """A cache of the logits of labels that are told apart from one another."""

    def get(self, text: str) -> Tensor:
        """log p [C, 2] float32 of a text at the temperature: that it has a label not, and that it has it."""
        scaled = self._logits[text] / self.temperature
        return torch.stack([F.logsigmoid(-scaled), F.logsigmoid(scaled)], -1)


class NumberReader(TextReader):
    """A cache of numbers, one of each text."""

    words = "numbers"

    def get(self, text: str) -> Tensor:
        """float32, no dimensions."""
        return self._logits[text][0]


class VectorReader(TextReader):
    """A cache of vectors, of `classes` dimensions."""

    stem = "vectors"
    words = "vectors"

    def get(self, text: str) -> Tensor:
        """[D] float32."""
        return self._logits[text]


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
