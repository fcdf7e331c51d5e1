"""A source's rows through filter and templates: what is taken, and what is dropped and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from distill2edge.data.choice_sets import closed_of
from distill2edge.data.conversation import Conversation, answer_text, is_chat, plain_answer, reserved, texts_of
from distill2edge.data.conversation_forms import FORMS, Found, Unusable, found_in
from distill2edge.data.entity_rows import EntityRows
from distill2edge.data.examples import Row, row_id
from distill2edge.data.leakage import Content
from distill2edge.data.numbers import check_number
from distill2edge.data.row_errors import check_text, names
from distill2edge.data.sorted_items import Item
from distill2edge.data.templates import Filter, Template
from distill2edge.data.values import MISSING
from distill2edge.errors import UserError
from distill2edge.models.tags import written
from distill2edge.recipe import schema

# Reasons for which a row is dropped, as users read them.
REASONS = {
    "filter": "left out by data.filter",
    "empty": "without a prompt or a response",
    "alone": "without a second text",
    "unanswered": "conversations without an answer of the assistant",
    "systems": "conversations with two system messages",
    "blank_word": "with a word of blanks alone",
    "split_word": "with an entity that begins or ends inside a word",
    "image": "with an image or another part that is no text",
    "labelled": "unlabelled, with the text of a row that has a response",
    "duplicate": "with prompt and response of another row",
    "leaking": "too near to a test row",
    "not_needed": "not needed",
}


@dataclass
class Dropped:
    """Rows that were not taken.

    Attributes:
        counts: by reason, the keys of `REASONS`.
        examples: the first row number of each reason, as `train 7`.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, split: str, number: int) -> None:
        """Count one row."""
        self.counts[reason] += 1
        if reason not in self.examples:
            self.examples[reason] = f"{split} {number}" if split else str(number)

    def text(self) -> str:
        """For people: how many, why, and where the first of them is; empty where none was."""
        parts = []
        for reason, meaning in REASONS.items():
            if count := self.counts[reason]:
                example = f" (the first is row {self.examples[reason]})" if reason in self.examples else ""
                parts.append(f"{count:,} {meaning}{example}")
        return ", ".join(parts)


class Late:
    """Counts rows that are there twice, where that is known only after all are read."""

    SPLIT = 1 << 48  # between the numbers of the first rows of two splits

    def __init__(self, dropped: Dropped, splits: Sequence[str]) -> None:
        """`splits`: names, in the order of their numbers."""
        self._dropped, self._splits = dropped, splits
        self._count, self._first = 0, self.SPLIT * len(splits)

    def add(self, item: Item, number: int) -> None:
        """Count one; `number`: of the row, and of its split times `SPLIT`."""
        self._count, self._first = self._count + 1, min(self._first, number)

    def tell(self) -> None:
        """Add them to what was dropped."""
        if self._count:
            split, number = divmod(self._first, self.SPLIT)
            self._dropped.add("duplicate", self._splits[split], number)
            self._dropped.counts["duplicate"] += self._count - 1


class Rows:
    """Makes rows of prompt and response of the fields of a source's rows.

    Attributes:
        closed: how a response is read that is one or some of the choices; None where responses are open.
        found: the form of conversations that the source has, once its first row is read; None where the templates of
            the recipe read it.
        trimmed: conversations that lost what came after the last answer.
        entities: what reads rows of words with tags, or of texts with entities; None where the templates do.

    Raises:
        UserError: a template or filter that is not valid.
    """

    def __init__(self, data: schema.Data, *, numeric: bool = False, tagged: bool = False) -> None:
        """`numeric`: a response is a number, or the row is refused. `tagged`: rows are texts with entities."""
        self.entities = EntityRows(data) if tagged else None
        self._numeric, self._data = numeric, data
        self.closed = None if tagged else closed_of(data)
        missing = MISSING - {choice.strip() for choice in data.choices or ()}
        self.prompt = Template(data.prompt, "data.prompt", missing) if data.template != "text" else None
        self.response = None
        if data.response is not None:
            self.response = Template(data.response, "data.response", missing, lists=data.multi)
        self._pair = None if data.pair is None else Template(data.pair, "data.pair", missing)
        self._keeps_unlabelled = data.unlabelled is not None and data.unlabelled.source is None
        self._takes = Filter(data.filter, "data.filter") if data.filter else None
        self.found: Found | None = None
        self.trimmed, self._looked = 0, not data.looks_for_a_form

    @property
    def shared(self) -> bool:
        """Whether the prompt prints a whole field that the response is made of."""
        if self.found is not None or self.prompt is None or self.response is None:
            return False
        return bool(self.prompt.whole & self.response.fields)

    def takes(self, fields: Mapping[str, Any], number: int) -> bool:
        """Whether `data.filter` leaves a row."""
        return self._takes is None or self._takes.takes(fields, number)

    def look(self, first: Mapping[str, Any]) -> Found | None:
        """The form of a source by its first row; what is found then holds for all.

        Raises:
            UserError: the recipe names a form that the row does not have.
        """
        if not self._looked:
            name, self._looked = self._data.form, True
            has_fields = {"prompt", "response"} <= first.keys()
            self.found = None if name == "auto" and has_fields else found_in(first, name)
            if self.found is None and name != "auto":
                what = f"row 1 has no {name} ({FORMS[name].label}); its fields are {names(first)}"
                raise UserError(what, where="data.form", fix="name another form, or leave it out: it is looked for")
        return self.found

    def items(self, rows: Iterable[Mapping[str, Any]], dropped: Dropped, split: str = "") -> Iterator[tuple[int, Item]]:
        """Rows that are taken, each with its number in the source; the number of the last one read is the last given.

        Args:
            dropped: counts those that are not.
            split: names the rows' split in `dropped`.

        Raises:
            UserError: a row that the templates refuse, that is not of the form that the first one has, or whose
                response is not a choice; names row and field.
        """
        for number, fields in enumerate(rows, 1):
            if not self.takes(fields, number):
                dropped.add("filter", split, number)
                continue
            try:
                item = self.item(fields, number)
            except Unusable as unusable:
                dropped.add(str(unusable), split, number)
            else:
                yield number, item

    def item(self, fields: Mapping[str, Any], number: int) -> Item:
        """One row.

        Raises:
            Unusable: it is not taken.
            UserError: as `items`.
        """
        if self.entities is not None:
            return self._of_entities(self.entities, fields, number)
        found = self.look(fields)
        if found is not None:
            chat, more = found.chat(fields, number)
            self.trimmed += more
            return self._of_chat(chat, fields, number)
        if self.prompt:
            question, content = self.prompt.render_with_content(fields, number)
            answer = self._answer(fields, number)
        else:
            assert self.response is not None
            question = ""
            answer, content = self.response.render_with_content(fields, number)
        second, content = self._second(fields, number, content)
        _refuse_marks((question, answer, second or ""), number)
        unlabelled = not answer.strip() and (self.response is None or self._keeps_unlabelled)
        if (not answer.strip() and not unlabelled) or (self.prompt and not question.strip()):
            raise Unusable("empty")
        if second is not None and not second.strip():
            raise Unusable("alone")
        if unlabelled:
            check_text(question, "data.prompt", number)
            return Item(Row(row_id(question, "", second), question, "", pair=second), content)
        return Item(self._row(question, answer, fields, number, second), content)

    def _second(self, fields: Mapping[str, Any], number: int, content: str) -> tuple[str | None, Content]:
        """The second text of a row, and the content of both; None where rows are about one."""
        if self._pair is None:
            return None, content
        second, more = self._pair.render_with_content(fields, number)
        check_text(second, "data.pair", number)
        return second, (content, more)

    def _of_entities(self, entities: EntityRows, fields: Mapping[str, Any], number: int) -> Item:
        """The response is the list of entities (`models.tags.written`); empty where the row has no tags."""
        text, found = entities.read(fields, number)
        check_text(text, "data.source", number)
        _refuse_marks((text,), number)
        response = "" if found is None else written(found)
        return Item(Row(row_id(text, response), text, response), text)

    def _of_chat(self, chat: Conversation, fields: Mapping[str, Any], number: int) -> Item:
        before = chat.messages[:-1]
        check_text(texts_of(chat.messages), "data.source", number)
        _refuse_marks([message["content"] for message in chat.messages], number)
        prompt, answer = Conversation(before, chat.tools).text(), answer_text(chat.messages[-1])
        if self._data.template != "chat" and (is_chat(prompt) or answer != chat.messages[-1]["content"]):
            raise UserError(
                f"row {number}: a conversation of several turns, with a system message or with tools, and "
                f"data.template: {self._data.template} reads one prompt and one response",
                where="data.template",
                fix="set data.template: chat, or leave such rows out with data.filter",
            )
        return Item(replace(self._row(prompt, answer, fields, number), number=number), texts_of(before))

    def _row(
        self, question: str, answer: str, fields: Mapping[str, Any], number: int, second: str | None = None
    ) -> Row:
        check_text(question, "data.prompt", number)
        check_text(answer, "data.response", number)
        label = -1
        if self._numeric:
            check_number(plain_answer(answer), number)
        if self.closed is not None:
            assert self.response is not None
            label, answer = self.closed.read(plain_answer(answer), self.response, fields, number)
        return Row(row_id(question, answer, second), question, answer, label, pair=second)

    def _answer(self, fields: Mapping[str, Any], number: int) -> str:
        """The response; empty where the row has none, if such rows are kept."""
        if self.response is None or lacks_response(self._data, self.response, fields):
            return ""
        return self.response.render(fields, number)


def _refuse_marks(texts: Iterable[str], number: int) -> None:
    if any(map(reserved, texts)):
        what = f"row {number}: a text begins with a mark of this program's own"
        raise UserError(what, where="data.source", fix="leave the row out with data.filter")


def lacks_response(data: schema.Data, response: Template, fields: Mapping[str, Any]) -> bool:
    """Whether a row is one of the source's own rows without a response, and those are wanted."""
    own = data.unlabelled is not None and data.unlabelled.source is None
    missing = MISSING - {choice.strip() for choice in data.choices or ()}
    return own and all(_absent(fields.get(name), missing) for name in response.fields)


def _absent(value: Any, missing: frozenset[str]) -> bool:
    if isinstance(value, str):
        return not value.strip() or value in missing
    return value is None or (isinstance(value, float) and value != value)
