"""Rows to token ids and masks: the one place that decides what is supervised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate, islice
from typing import TYPE_CHECKING

from distill2edge.data.chat_templates import apply_template
from distill2edge.data.conversation import opened, opened_turns, shorter
from distill2edge.data.examples import Encoded, Row, example_id
from distill2edge.data.supervised_turns import Piece, Turns
from distill2edge.data.tokens import end_token_id, tokenize, wants_bos
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPLITS = ("train", "validation", "calibration", "test")

LOST = {
    "cut": "conversations that go beyond data.max_length: they are taken up to an earlier answer",
    "too_long": "longer than data.max_length, and left out",
}
"""Counts of `encode_rows` that a user is told of -> what they mean."""


def prompt_text(prompt: str, tokenizer: PreTrainedTokenizerBase, template: str, system: str | None = None) -> str:
    """The prompt as the model sees it, up to where the response begins.

    Raises:
        UserError: template `chat` without a chat template, or with one that refuses the messages.
    """
    if template != "chat":
        return prompt  # a row of template `text` has none, and whoever asks such a model gives it a text to go on from
    return apply_template(tokenizer, opened(prompt, system), generation=True)


def encode_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str, system: str | None = None
) -> list[list[int]]:
    """Token ids of each prompt, BOS included where the model wants it; what generation continues.

    Raises:
        UserError: as `prompt_text`.
    """
    return _begun(tokenizer, template, [prompt_text(prompt, tokenizer, template, system) for prompt in prompts])


def encode_messages(
    conversations: Sequence[Sequence[tuple[str, str]]], tokenizer: PreTrainedTokenizerBase, template: str
) -> list[list[int]]:
    """Token ids of each conversation of (role, content), up to where the assistant's next message begins.

    A content that is a conversation itself, as a row's prompt may be, stands for its messages. With template `plain`
    the contents follow each other, a blank line between them.

    Raises:
        UserError: as `prompt_text`.
    """
    if template == "chat":
        texts = [apply_template(tokenizer, opened_turns(turns), generation=True) for turns in conversations]
    else:
        texts = ["\n\n".join(content for _, content in messages) for messages in conversations]
    return _begun(tokenizer, template, texts)


def encode_choices(
    row: Row,
    choices: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    system: str | None = None,
    *,
    end: bool = False,
) -> list[list[int]]:
    """Token ids of each choice as it continues `encode_prompts([row.prompt], ...)[0]`, the prompt itself left out.

    Each is tokenized together with the prompt, as `encode_rows` does it, so a choice scored here is the one trained.

    Args:
        end: append the end token, which `encode_rows` supervises too.

    Raises:
        UserError: as `prompt_text`; a choice without tokens.
    """
    text = prompt_text(row.prompt, tokenizer, template, system)
    prompt, *joined = _begun(tokenizer, template, [text, *(text + choice for choice in choices)])
    result = []
    for choice, ids in zip(choices, joined, strict=True):
        continuation, _ = _continuation(tokenizer, prompt, ids, choice)
        if not continuation:
            raise UserError(f"choice {choice!r} has no tokens", where="data.choices", fix="give it a text")
        result.append(continuation + _tail(tokenizer, template) if end else continuation)
    return result


def encode_rows(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    system: str | None,
    max_length: int,
    *,
    counts: Counter[str] | None = None,
    supervise: str = "all",
) -> Sequence[Encoded]:
    """Tokens and masks of rows, in order; left out are rows longer than `max_length` tokens, and those whose response
    the tokenizer cannot encode: a student would learn to answer with the unknown token.

    The response's tokens and its end token are supervised (the end token also where pad == eos), and of a conversation
    the earlier turns of the assistant, each with its end token. Template `text` has no prompt: every token but the
    first is supervised.

    Args:
        counts: filled with `rows`, `too_long`, `cut` (conversations without their last turns, which made them too
            long), `empty`, `unencodable`, `boundary` (rows whose prompt and response had to be tokenized apart) and
            `supervised_tokens`.
        supervise: as `data.supervise`; `answer` is the last turn in every case: a conversation that is too long is then
            left out, where else it is taken up to an earlier answer.

    Raises:
        UserError: no row is left; a chat template is missing or refuses the messages; or in most rows the response
            changes the tokens of the prompt (a prompt that ends in a space), so that generation would never see
            what was trained.
    """
    from distill2edge.data.encoded_rows import EncodedRows

    counts = Counter() if counts is None else counts
    encoder = _Encoder(tokenizer, template, system, supervise)
    encoded = EncodedRows(_kept(rows, encoder, max_length, counts, shorten=supervise != "answer"))
    counts["rows"] += len(rows)
    if rows and counts["boundary"] * 2 > len(rows):
        raise UserError(
            f"in {counts['boundary']} of {len(rows)} rows the response changes the tokens of its prompt",
            where="data.prompt",
            fix="move a space at the end of data.prompt to the start of data.response and of each of data.choices",
        )
    if rows and not encoded:
        raise none_left(counts, max_length, "raise data.max_length, or choose another response template")
    return encoded


def in_batches(rows: Iterable[Row], size: int = 1024) -> Iterator[list[Row]]:
    """Rows for one call of a tokenizer: enough for its threads, few in memory."""
    rest = iter(rows)
    while batch := list(islice(rest, size)):
        yield batch


def _kept(
    rows: Sequence[Row], encoder: _Encoder, max_length: int, counts: Counter[str], *, shorten: bool
) -> Iterator[Encoded]:
    """The rows that are taken; `shorten`: also conversations up to an earlier answer."""
    for batch in in_batches(rows):
        for row, (example, stable) in zip(batch, encoder.encode(batch), strict=True):
            whole = example
            if shorten:
                example, stable = encoder.cut(row, example, stable, max_length)
            counts["boundary"] += not stable
            if example is None:
                counts["empty"] += 1
            elif encoder.lost(example):
                counts["unencodable"] += 1
            elif len(example.ids) > max_length:
                counts["too_long"] += 1
            else:
                counts["cut"] += example is not whole
                counts["supervised_tokens"] += example.supervised
                yield example


class _Encoder:
    """Rows in the tokens of one tokenizer."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str, system: str | None, supervise: str) -> None:
        self._tokenizer, self._template, self._system = tokenizer, template, system
        self.tail = _tail(tokenizer, template)
        stop = str(tokenizer.decode(self.tail)) if self.tail else ""
        self._turns = Turns(tokenizer, stop, supervise) if template == "chat" else None

    def lost(self, example: Encoded) -> bool:
        """Whether the tokenizer cannot encode the response."""
        response = example.ids[example.prompt_length : len(example.ids) - len(self.tail)]
        return unencodable(self._tokenizer, response)

    def cut(self, row: Row, example: Encoded | None, stable: bool, most: int) -> tuple[Encoded | None, bool]:
        """As `encode` gave them; of a conversation that is too long up to the last answer that fits."""
        while example is not None and len(example.ids) > most and (fewer := shorter(row.prompt)) is not None:
            row = replace(row, prompt=fewer[0], response=fewer[1])
            ((example, stable),) = self.encode([row])
        return example, stable

    def encode(self, rows: Sequence[Row]) -> Iterator[tuple[Encoded | None, bool]]:
        """Each row, None where its response has no tokens; and whether its pieces could be tokenized together."""
        pieces = [self._pieces(row) for row in rows]
        texts = [text for row in pieces for text in accumulate(piece for piece, _ in row)]
        tokens = iter(_begun(self._tokenizer, self._template, texts))
        for row, parts in zip(rows, pieces, strict=True):
            ids: list[int] = []
            mask: list[bool] = []
            stable = True
            for text, supervised in parts:
                more, kept = _continuation(self._tokenizer, ids, next(tokens), text)
                if supervised and len(parts) > 2:
                    self._require_turn(row, more, text)
                ids, mask, stable = ids + more, mask + [supervised] * len(more), stable and kept
            answers = bool(more or self.tail)
            yield _example(row, ids + self.tail, mask + [True] * len(self.tail)) if answers else None, stable

    def _pieces(self, row: Row) -> list[Piece]:
        if self._turns is None:
            return [(row.prompt, False), (row.response, True)]
        try:
            return self._turns.pieces(row.prompt, row.response, self._system)
        except UserError as error:
            if not row.number:
                raise
            raise UserError(f"row {row.number}: {error.what}", where=error.where, fix=error.fix) from error

    def _require_turn(self, row: Row, ids: Sequence[int], text: str) -> None:
        """What is supervised is what the assistant said: nothing of a neighbour, and all of it."""
        said, alone = (self._tokenizer.decode(each) for each in (ids, tokenize(self._tokenizer, [text])[0]))
        if said.strip() != alone.strip():
            raise AssertionError(f"row {row.number}: supervised {said[:80]!r} for {text[:80]!r}")


def unencodable(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> bool:
    """Whether a text became unknown tokens. A token that is also the end or the padding tells nothing."""
    unknown = tokenizer.unk_token_id
    return unknown not in (None, tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids


def none_left(counts: Counter[str], max_length: int, fix: str) -> UserError:
    """The error where every row was left out; `fix` is for rows that are too long."""
    said = f"no row is left: {counts['too_long']} longer than {max_length} tokens, {counts['empty']} empty"
    if counts["unencodable"] <= max(counts["too_long"], counts["empty"]):
        return UserError(said, where="data.max_length", fix=fix)
    return UserError(
        f"{said}, {counts['unencodable']} whose response the student's tokenizer cannot encode",
        where="student.init",
        fix="take a student whose vocabulary covers the teacher's language and script",
    )


def _example(row: Row, ids: list[int], mask: list[bool]) -> Encoded | None:
    if len(ids) < 2:
        return None
    mask[0] = False  # nothing predicts the first token of all, so it can't be supervised
    assert any(mask)
    assert len(mask) == len(ids)
    return Encoded(example_id(ids, mask), ids, mask, row.label, row.id)


def _continuation(
    tokenizer: PreTrainedTokenizerBase, prompt: list[int], joined: list[int], response: str
) -> tuple[list[int], bool]:
    """Tokens of the response after those of the prompt, and whether the prompt kept its tokens.

    Where it did not, the response is tokenized apart: generation starts from the prompt's own tokens, so training
    must too.
    """
    if joined[: len(prompt)] == prompt:
        return joined[len(prompt) :], True
    return tokenize(tokenizer, [response])[0], False


def _begun(tokenizer: PreTrainedTokenizerBase, template: str, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of texts that a sequence begins with: after BOS, where the model wants it and no chat template
    writes it."""
    head = [tokenizer.bos_token_id] if template != "chat" and wants_bos(tokenizer) else []
    return [head + ids for ids in tokenize(tokenizer, texts)]


def _tail(tokenizer: PreTrainedTokenizerBase, template: str) -> list[int]:
    end = end_token_id(tokenizer, template)
    return [] if end is None else [end]
