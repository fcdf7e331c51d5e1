"""Calibration rows as a model reads them, some at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

from distill2edge.errors import UserError
from distill2edge.models.config import knows_segments
from distill2edge.models.kinds import kind_of_model, logits_of, start_token_id

if TYPE_CHECKING:
    import torch

    from distill2edge.data.examples import Encoded

_BATCH_TOKENS = 1024


class Text(Sequence[int]):
    """The tokens of a source and, after them, those of its target.

    Attributes:
        ids: of both.
        prompt: count of the source's.
        types: segment id of each, of two texts that an encoder reads.
    """

    def __init__(self, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> None:
        self.ids, self.prompt, self.types = list(ids), min(prompt, len(ids)), types

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Text: ...
    def __getitem__(self, at: int | slice) -> int | Text:
        """A token, or a text that ends earlier."""
        if isinstance(at, slice):
            assert not at.start, "a text is cut at its end alone"
            return Text(self.ids[at], self.prompt, None if self.types is None else self.types[at])
        return self.ids[at]


def texts_of(rows: Sequence[Encoded]) -> dict[str, Text]:
    """Row's id -> its tokens, as models of every kind can read them here."""
    return {row.row: Text(row.ids, row.prompt_length, row.types) for row in rows}


def take(rows: Sequence[Sequence[int]], max_tokens: int) -> list[Sequence[int]]:
    """The first rows up to a number of tokens; the last one is cut to fit.

    Raises:
        UserError: there are none.
    """
    chosen: list[Sequence[int]] = []
    left = max_tokens
    for row in rows:
        if left <= 0:
            break
        if len(row):
            chosen.append(row[:left])
            left -= len(row)
    if not chosen:
        raise UserError("there are no calibration rows", where="data.splits.calibration",
                        fix="give data.splits.calibration some rows, or set quantize.calibration: none")  # fmt: skip
    return chosen


def batches(rows: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
    """Batches of rows of similar length, of at most `_BATCH_TOKENS` tokens with padding."""
    batch: list[Sequence[int]] = []
    for row in sorted(rows, key=len):
        if batch and (len(batch) + 1) * len(row) > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def inputs_of(model: Any, batch: Sequence[Sequence[int]]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """What a model of transformers is called with for some rows, and which of its positions hold tokens.

    Args:
        batch: of an encoder-decoder, `Text`s: it reads the sources, and the targets after its start token.

    Returns:
        keyword arguments, and a mask [rows, width] for each width that inputs of its layers have: no two are alike.
    """
    kind = kind_of_model(model)
    if not kind.pairs:
        ids, mask = _pad(batch)
        told: dict[str, Any] = {"use_cache": False} if kind.writes else {}
        segments = [getattr(row, "types", None) for row in batch]
        if any(segments) and knows_segments(model.config):
            told["token_type_ids"] = _pad([each or [0] for each in segments])[0]
        return {"input_ids": ids, "attention_mask": mask, **told}, [mask]
    pairs = [_text(row) for row in batch]
    start = start_token_id(model.config)
    sources = [row.ids[: row.prompt] for row in pairs]
    targets = [[start, *row.ids[row.prompt :]] for row in pairs]
    ids, mask = _pad(sources)
    # A layer's input tells by its width whether it is of the source or of the target.
    alike = max(map(len, sources)) == max(map(len, targets))
    target_ids, target_mask = _pad(targets, 1 if alike else 0)
    inputs = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    return {**inputs, "decoder_input_ids": target_ids, "decoder_attention_mask": target_mask}, [mask, target_mask]


def said_of(model: Any, row: Sequence[int]) -> torch.Tensor:
    """What a model says of one row, as `models.kinds.Kind.logits`."""
    text = _text(row)
    found: torch.Tensor = logits_of(model, text.ids, text.prompt, text.types)
    return found


def _text(row: Sequence[int]) -> Text:
    return row if isinstance(row, Text) else Text(row, len(row))


def _pad(batch: Sequence[Sequence[int]], more: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    width = max(map(len, batch)) + more
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros(len(batch), width, dtype=torch.long)
    for at, row in enumerate(batch):
        ids[at, : len(row)] = torch.tensor(list(row))
        mask[at, : len(row)] = 1
    return ids, mask
