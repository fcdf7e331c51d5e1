"""A model that answers texts: its runtime, its tokenizer and the form in which it was trained to read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np

from distill2edge.data.chat_templates import apply_template, chat_template_of
from distill2edge.data.conversation import Conversation, Message
from distill2edge.data.encode_tagged import placed
from distill2edge.data.model_inputs import (
    InputForm,
    encode_inputs,
    encode_pair,
)
from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError
from distill2edge.generation.sampling import draw_token
from distill2edge.models.kinds import (
    CLASSIFIER,
    EMBEDDER,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
)
from distill2edge.models.tags import Entity, TagSet, in_characters
from distill2edge.models.two_events import THRESHOLD, probabilities

Share = tuple[str, float]


Chat = str | Sequence[Message]
"""One text, or a chat: its messages so far, each with `role` and `content`."""
Form = Literal["auto", "chat", "plain"]


_SAID_BY = {
    EMBEDDER.name: ("an embedder", "vector: model.embed(text)"),
    REGRESSOR.name: ("a regressor", "number: model.number(text)"),
    TAGGER.name: ("a token classifier", "entities: model.entities(text)"),
}
"""By kind: what it is called, and how it is asked."""


@dataclass(frozen=True)
class OpenModel:
    """A model that is open: a file that ships, or a directory. It is closed with its `with` block.

        with d2e.open_model("runs/tickets") as model:
            model.answer("My parcel is late.")
            model.labels("My parcel is late.")  # of a classifier, or a model trained on a closed set of responses
            model.embed("My parcel is late.")  # of an embedder: [D]
            model.number("My parcel is late.")  # of a regressor
            model.number("late parcel", "We deliver in two days.")  # of one that reads two texts (data.pair)
            model.entities("Ask Ann in Oslo.")  # of a token classifier: [Entity(4, 7, "PERSON"), ...]

    Attributes:
        runtime: a `Runtime`, or of a classifier or regressor a `Classifier`, of a token classifier a `Tagger`, of an
            embedder an `Embedder`.
        tokenizer: of transformers, or llama.cpp's own.
        form: how it was trained to read.
        stop: ids that end an answer.
        where: the file, for messages.
    """

    runtime: Any
    tokenizer: Any
    form: InputForm
    stop: frozenset[int]
    where: str

    @property
    def closed(self) -> bool:
        """Whether it answers with one of a closed set of labels or responses."""
        return self.form.kind in (CLASSIFIER.name, MULTI_LABEL.name) or bool(self.form.choices)

    @property
    def several(self) -> bool:
        """Whether a text has any number of its labels, or none."""
        return self.form.kind == MULTI_LABEL.name

    def answer(
        self,
        asked: Chat,
        pair: str | None = None,
        *,
        template: Form = "auto",
        max_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> str:
        """What it answers: text, the likeliest of its labels, its number, its entities (a line for each: type, first
        character, the one after the last, text), or as JSON the vector of the text or its set of labels.

        Args:
            pair: the second text, where it reads two.
            template: `auto` asks as the model was trained; `chat` and `plain` have it write in that form.
            max_tokens: of the answer.
            temperature: 0 is greedy.

        Raises:
            UserError: no chat template where one is asked for; more tokens than the model reads, or none.
        """
        if self.form.kind == REGRESSOR.name:
            return f"{self.number(_last(asked), pair):.6g}"
        if not self.closed:
            self._expect_pair(pair)
        if self.form.kind == TAGGER.name:
            text = _last(asked)
            return "\n".join(
                f"{label}\t{start}\t{end}\t{' '.join(text[start:end].split())}"
                for start, end, label in self.entities(text)
            )
        if self.form.kind == EMBEDDER.name:
            return json.dumps([round(float(value), 6) for value in self.embed(_last(asked))])
        if self.several:
            return json.dumps([name for name, _ in self.chosen(_last(asked), pair)], ensure_ascii=False)
        if self.closes(template):
            return self.labels(_last(asked), pair)[0][0]
        return "".join(self.stream(asked, template=template, max_tokens=max_tokens, temperature=temperature, seed=seed))

    def stream(
        self, asked: Chat, *, template: Form = "auto", max_tokens: int = 256, temperature: float = 0.0, seed: int = 0
    ) -> Iterator[str]:
        """`answer` as it is written, in whole characters.

        Raises:
            UserError: as `answer`.
        """
        for said, _ in self.written(asked, template, max_tokens, temperature, seed):
            if said:
                yield said

    def written(
        self, asked: Chat, template: Form, max_tokens: int, temperature: float, seed: int
    ) -> Iterator[tuple[str, int]]:
        """`stream` token by token: the characters that became whole, perhaps none, and how many tokens that makes.

        Raises:
            UserError: as `answer`.
        """
        if not self.form.reading.answers:
            raise self._writes_none()
        form = self.form.template if template == "auto" else template
        if form == "chat":
            ids = self.encode_chat([{"role": "user", "content": asked}] if isinstance(asked, str) else asked)
        else:
            ids = self.encode(_last(asked), form)
        written: list[int] = []
        shown = ""
        for token in self.generate(ids, max_tokens, temperature, seed):
            written.append(token)
            said = self.decode(written)
            whole = not said.endswith("\ufffd")  # a token may end inside a character
            yield said[len(shown) :] if whole else "", len(written)
            shown = said if whole else shown
        if rest := self.decode(written)[len(shown) :]:  # the last character may never have become whole
            yield rest, len(written)

    def closes(self, template: Form) -> bool:
        """Whether it answers so with a label or a vector.

        Raises:
            UserError: no chat template where one is asked for.
        """
        if template == "chat" and (not self.form.reading.chats or not chat_template_of(self.tokenizer)):
            raise UserError(
                "the model has no chat template", where=self.where, fix='--template plain (template="plain")'
            )
        return not self.form.reading.answers or (self.closed and template == "auto")

    def embed(self, text: str) -> np.ndarray:
        """The vector [D] that an embedder makes of a text.

        Raises:
            UserError: a model of another kind; more tokens than the model reads.
        """
        if self.form.kind != EMBEDDER.name:
            fix = "ask for its answer: model.answer(text)"
            raise UserError("this model makes no vectors", where=self.where, fix=fix)
        found: np.ndarray = self.runtime.embed(self.encode(text, None))
        self._numbers(found)
        return found

    def close(self) -> None:
        """Free what it holds."""
        self.runtime.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def encode(self, text: str, template: str | None = "plain") -> list[int]:
        """Token ids of a prompt; `template`: another than the trained one, None for that.

        Raises:
            UserError: more tokens than the model reads, or none.
        """
        form = self.form if template is None else replace(self.form, template=template)
        return self._fitting(encode_inputs([text], self.tokenizer, form, self.runtime.context)[0])

    def _classified(self, text: str, pair: str | None) -> np.ndarray:
        """What a head says of a text, or of two.

        Raises:
            UserError: one text where it reads two, or two where it reads one; more tokens than it reads, or none.
        """
        self._expect_pair(pair)
        if pair is None:
            found: np.ndarray = self.runtime.classify(self.encode(text, None))
            return found
        ids, types = encode_pair(text, pair, self.tokenizer, self.form, self.runtime.context)
        told: np.ndarray = self.runtime.classify(self._fitting(ids), types)
        return told

    def _expect_pair(self, pair: str | None) -> None:
        if (pair is None) != (self.form.pair is None):
            reads, fix = "two texts", "give the second too (on a line, after a tab)"
            if self.form.pair is None:
                reads, fix = "one text", "leave the second out"
            raise UserError(f"this model reads {reads}", where=self.where, fix=fix)

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Token ids of a chat, after the system message that the model was trained with.

        Raises:
            UserError: the template refuses the messages; more tokens than the model reads.
        """
        first = [{"role": "system", "content": self.form.system}] if self.form.system else []
        try:
            text = apply_template(self.tokenizer, Conversation((*first, *messages)), generation=True)
        except UserError as error:
            raise UserError(error.what, where=self.where, fix="ask one thing at a time, or --template plain") from error
        return self._fitting(tokenize(self.tokenizer, [text])[0])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of an answer."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def generate(self, ids: Sequence[int], max_tokens: int, temperature: float, seed: int = 0) -> Iterator[int]:
        """Tokens until one that stops, `max_tokens`, or the end of the context."""
        random = np.random.default_rng(seed)
        room = self.runtime.context - len(ids)
        logits = self.runtime.prefill(ids)
        for count in range(1, max_tokens + 1):
            self._numbers(logits)
            token = draw_token(logits, temperature, 1.0, random)
            if token in self.stop:
                return
            yield token
            if count in (max_tokens, room):
                return
            logits = self.runtime.decode(token)

    def number(self, text: str, pair: str | None = None) -> float:
        """The number that a regressor says of a text, or of two.

        Raises:
            UserError: a model of another kind; more tokens than the model reads, or none.
        """
        if self.form.kind != REGRESSOR.name:
            raise UserError(
                "this model gives no number", where=self.where, fix="ask for its answer: model.answer(text)"
            )
        found = self._classified(text, pair)
        self._numbers(found)
        return float(found[0])

    def entities(self, text: str) -> list[Entity]:
        """The entities that a token classifier finds, over the characters of the text.

        Raises:
            UserError: a model of another kind; a text without words.
        """
        if self.form.kind != TAGGER.name:
            raise UserError(
                "this model finds no entities", where=self.where, fix="ask for its answer: model.answer(text)"
            )
        most = min(self.form.max_length or self.runtime.context, self.runtime.context)
        ids, words, places = placed([text], self.tokenizer, most)[0]
        if not words:
            raise UserError("the text has no words", where=self.where, fix="write something")
        logits = self.runtime.tag(ids)
        self._numbers(logits)
        tags = [int(logits[place].argmax()) for place in places if place >= 0]
        found = TagSet(self.runtime.labels).read(tags, places, len(words))
        return in_characters(found, words)

    def labels(self, text: str, pair: str | None = None) -> list[Share]:
        """Each label of a classifier, or each choice of a closed set, with its probability; the likeliest first.

        Of a multi-label classifier each probability is of that label alone: they do not add up to 1.
        Choices are weighed by the likelihood of their tokens, as verify does it.

        Raises:
            UserError: a model that answers freely; more tokens than the model reads, or none.
        """
        if not self.closed and not self.form.reading.answers:
            raise self._writes_none()
        if not self.closed:
            raise UserError(
                "this model writes text: it has no labels",
                where=self.where,
                fix="ask for its answer: model.answer(text)",
            )
        if not self.form.reading.answers:
            names, exact = self.runtime.labels, self._classified(text, pair).astype(np.float64)
        else:
            self._expect_pair(pair)
            names, exact = self.form.choices, np.asarray(self._likelihoods(text), dtype=np.float64)
        self._numbers(exact)
        if self.several:
            share = probabilities(exact)
        else:
            share = np.exp(exact - exact.max())
            share /= share.sum()
        return [(names[index], float(share[index])) for index in np.argsort(-share, kind="stable")]

    def chosen(self, text: str, pair: str | None = None) -> list[Share]:
        """The labels that a text has, with their probabilities: of a multi-label classifier those above its threshold,
        and perhaps none; of any other the likeliest.

        Raises:
            UserError: as `labels`.
        """
        found = self.labels(text, pair)
        if not self.several:
            return found[:1]
        limits = dict(zip(self.runtime.labels, self.form.thresholds, strict=False))
        return [share for share in found if share[1] > limits.get(share[0], THRESHOLD)]

    def _likelihoods(self, text: str) -> list[float]:
        from distill2edge.verify.scores import choice_likelihoods, trim_stop

        form, prompt = self.form, self.encode(text, None)
        (choices,) = form.reading.choices([text], form.choices, self.tokenizer, form)
        if len(prompt) + max(map(len, choices)) > self.runtime.context:
            raise _too_long(len(prompt), self.runtime.context, self.where)
        return choice_likelihoods(self.runtime, prompt, trim_stop(choices, tuple(self.stop)))

    def _writes_none(self) -> UserError:
        what, fix = _SAID_BY.get(self.form.kind, ("a classifier", "labels: model.labels(text)"))
        return UserError(f"this is {what}: it writes no text", where=self.where, fix=f"ask for its {fix}")

    def _numbers(self, scores: np.ndarray) -> None:
        """Never answer by what is no number: a damaged weight makes every output so."""
        if np.isnan(scores).any() or np.isposinf(scores).any():
            raise UserError("the model's output is infinite or undefined", where=self.where,
                            fix="get or export the model again: a weight of it is damaged")  # fmt: skip

    def _fitting(self, ids: list[int]) -> list[int]:
        if not ids:
            raise UserError("the text has no tokens", where=self.where, fix="write something")
        if len(ids) > self.runtime.context:
            raise _too_long(len(ids), self.runtime.context, self.where)
        return ids


def _last(asked: Chat) -> str:
    """What was trained on single texts reads the last message alone."""
    return asked if isinstance(asked, str) else asked[-1]["content"]


def _too_long(count: int, context: int, where: str) -> UserError:
    return UserError(f"{count} tokens, and the model reads at most {context}", where=where, fix="shorten the text")
