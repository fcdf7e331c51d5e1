"""How each kind of model reads texts and rows: a class per kind, one table. The form is that of `data.model_inputs`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.encode import encode_choices, encode_messages, encode_prompts, encode_rows
from distill2edge.data.encode_tagged import encode_tagged, placed
from distill2edge.data.encode_texts import cut_texts, encode_texts
from distill2edge.data.examples import Encoded, Row, row_id
from distill2edge.data.pairs import encode_pairs, encode_sources, pair_choices
from distill2edge.errors import UserError
from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER,
    ENCODER_DECODER,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill2edge.data.model_inputs import InputForm

Messages = Sequence[tuple[str, str]]
"""(role, content) of each."""


class Reading(ABC):
    """How one kind reads.

    Attributes:
        chats: whether it reads conversations in the form of a chat template.
        answers: whether choices are scored as its answers; else it has a logit for each.
    """

    chats = False
    answers = True

    @abstractmethod
    def inputs(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None
    ) -> list[list[int]]:
        """Token ids of each text: what its response continues, what is classified.

        Args:
            limit: of the runtime.
        """

    @abstractmethod
    def rows(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        form: InputForm,
        counts: Counter[str] | None,
        positions: int | None,
        supervise: str,
    ) -> Sequence[Encoded]:
        """Rows for training and measurement.

        Args:
            counts: filled as by `encode_rows`.
            positions: that the model has; None without an end.
            supervise: as `encode_rows`.
        """

    @abstractmethod
    def choices(
        self, prompts: Sequence[str], choices: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm
    ) -> list[list[list[int]]]:
        """Of each prompt, the token ids of every choice as its answer."""

    @abstractmethod
    def messages(
        self, conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> list[list[int]]:
        """Token ids of each conversation, up to where the answer begins."""


class Continuation(Reading):
    """A decoder goes on from a prompt."""

    chats = True

    def inputs(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None
    ) -> list[list[int]]:
        """As `Reading.inputs`."""
        return encode_prompts(texts, tokenizer, form.template, form.system)

    def rows(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        form: InputForm,
        counts: Counter[str] | None,
        positions: int | None,
        supervise: str,
    ) -> Sequence[Encoded]:
        """As `Reading.rows`."""
        length = form.max_length or 0
        return encode_rows(
            rows, tokenizer, form.template, form.system, length, counts=counts, supervise=supervise
        )  # fmt: skip

    def choices(
        self, prompts: Sequence[str], choices: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm
    ) -> list[list[list[int]]]:
        """As `Reading.choices`: each as it continues its prompt, and ends."""
        rows = [Row(row_id(prompt, ""), prompt, "") for prompt in prompts]
        return [encode_choices(row, choices, tokenizer, form.template, form.system, end=True) for row in rows]

    def messages(
        self, conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> list[list[int]]:
        """As `Reading.messages`."""
        return encode_messages(conversations, tokenizer, template)


class Pair(Reading):
    """An encoder-decoder reads a source and begins a target."""

    def inputs(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None
    ) -> list[list[int]]:
        """As `Reading.inputs`."""
        return encode_sources(texts, tokenizer)

    def rows(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        form: InputForm,
        counts: Counter[str] | None,
        positions: int | None,
        supervise: str,
    ) -> Sequence[Encoded]:
        """As `Reading.rows`."""
        return encode_pairs(rows, tokenizer, form.max_length or 0, counts=counts)

    def choices(
        self, prompts: Sequence[str], choices: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm
    ) -> list[list[list[int]]]:
        """As `Reading.choices`: the same for every source."""
        return [pair_choices(choices, tokenizer)] * len(prompts)

    def messages(
        self, conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> list[list[int]]:
        """As `Reading.messages`: the last one is the source."""
        return encode_sources([messages[-1][1] for messages in conversations], tokenizer)


class WholeText(Reading):
    """An encoder reads a text to its end, and writes nothing."""

    answers = False

    def inputs(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None
    ) -> list[list[int]]:
        """As `Reading.inputs`: cut where the form or the runtime ends."""
        limits = [length for length in (form.max_length, limit) if length is not None]
        return cut_texts(texts, tokenizer, min(limits, default=1 << 30))

    def rows(
        self,
        rows: Sequence[Row],
        tokenizer: PreTrainedTokenizerBase,
        form: InputForm,
        counts: Counter[str] | None,
        positions: int | None,
        supervise: str,
    ) -> Sequence[Encoded]:
        """As `Reading.rows`.

        Raises:
            UserError: the form has more tokens than the model reads.
        """
        length = form.max_length or 0
        if positions is not None and length > positions:
            raise UserError(
                f"{length} tokens: the model reads at most {positions}",
                where="data.max_length",
                fix=f"set it to {positions} or less; longer texts are cut",
            )
        return self.encoded(rows, tokenizer, length, counts)

    def encoded(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, length: int, counts: Counter[str] | None
    ) -> Sequence[Encoded]:
        """Rows of at most so many tokens."""
        return encode_texts(rows, tokenizer, length, counts)

    def choices(
        self, prompts: Sequence[str], choices: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm
    ) -> list[list[list[int]]]:
        """As `Reading.choices`."""
        raise TypeError("a classifier answers with a logit for each choice")

    def messages(
        self, conversations: Sequence[Messages], tokenizer: PreTrainedTokenizerBase, template: str
    ) -> list[list[int]]:
        """As `Reading.messages`."""
        raise TypeError("a classifier holds no conversation")


class Words(WholeText):
    """A token classifier reads a text, and says a tag of each word."""

    def inputs(
        self, texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None
    ) -> list[list[int]]:
        """As `Reading.inputs`: cut after a word."""
        limits = [length for length in (form.max_length, limit) if length is not None]
        return [text.ids for text in placed(texts, tokenizer, min(limits, default=1 << 30))]

    def encoded(
        self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, length: int, counts: Counter[str] | None
    ) -> Sequence[Encoded]:
        """As `WholeText.encoded`, with the places of the words."""
        return encode_tagged(rows, tokenizer, length)


READINGS: Mapping[str, Reading] = {
    DECODER.name: Continuation(),
    ENCODER_DECODER.name: Pair(),
    CLASSIFIER.name: WholeText(),
    MULTI_LABEL.name: WholeText(),
    REGRESSOR.name: WholeText(),
    TAGGER.name: Words(),
    ENCODER.name: WholeText(),
    EMBEDDER.name: WholeText(),
}
"""Kind of model -> how it reads."""
