"""Where a recipe's rows come from, and how a row becomes a prompt and a response."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.recipe.choices import problems as choice_problems
from distill2edge.recipe.paths import PathText
from distill2edge.recipe.ranges import Similarity
from distill2edge.recipe.section import LATER, Section


class Splits(Section):
    """How many rows each split gets. A split that the source already has keeps its rows."""

    train: int | None = Field(None, ge=1, description="rows to train on; null takes all that are left")
    validation: int = Field(200, ge=0, description="rows that choose the checkpoint")
    calibration: int = Field(128, ge=0, description="rows that calibrate quantization")
    test: int = Field(500, ge=1, description="held-out rows: verification only")


class Leakage(Section):
    """The check that test rows are not in train."""

    near_duplicate: Similarity = Field(
        0.8, description="Jaccard similarity of word 5-shingles from which two rows are the same"
    )
    max_fraction: float = Field(0.01, ge=0, le=1, description="share of test rows that may leak before we refuse")
    action: Literal["drop", "keep"] = Field(
        "drop", description="drop leaking rows from train when they stay under the limit, or keep them"
    )
    response_in_prompt: Annotated[float, LATER] = Field(
        0.5,
        ge=0,
        le=1,
        description="share of rows whose prompt may hold the response before we refuse; 1 where answers are meant to "
        "be copied out of the prompt; a closed set of choices is not looked at",
    )


class Unlabelled(Section):
    """Rows that have no answer: the teacher alone says what they are. They join the training rows."""

    source: PathText | None = Field(
        None, description="as data.source; null: the rows of data.source whose response is empty"
    )
    config: str | None = Field(None, description="configuration name of a hub data set")
    revision: str | None = Field(None, description="commit, tag or branch of a hub data set; null: its main branch")
    split: str | None = Field(None, description="split to read; null reads all that exist")
    filter: str | None = Field(None, description="Jinja expression over a row; rows for which it is false are left out")
    prompt: str | None = Field(None, description="Jinja template of the prompt over a row's fields; null: data.prompt")
    pair: Annotated[str | None, LATER] = Field(None, description="as data.pair, of these rows; null: data.pair")
    rows: int | None = Field(None, ge=1, description="rows to take; null takes all")

    def problems(self) -> Iterator[Problem]:
        """Keys that only another source has."""
        for name in ("config", "revision", "split", "filter", "prompt", "pair"):
            if self.source is None and getattr(self, name) is not None:
                what = f"data.unlabelled.{name} is for a source of its own"
                yield Problem((name,), what, "name data.unlabelled.source, or take it out")


class Entities(Section):
    """Fields of rows with words and their tags, or with a text and its entities, for task token-classification."""

    tokens: str | None = Field(None, description="list of words; null: tokens or words")
    tags: str | None = Field(
        None,
        description="list of their tags, by name (IOB2) or by number in the order of data.choices; null: tags, "
        "ner_tags, labels or ner",
    )
    text: str | None = Field(None, description="text, where rows have no words; null: text, sentence or content")
    spans: str | None = Field(
        None,
        description="list of its entities, {start, end, label} or [start, end, label] in characters; null: entities, "
        "spans or labels",
    )

    def problems(self) -> Iterator[Problem]:
        """One form."""
        for name, other in (("text", "tokens"), ("spans", "tags")):
            if getattr(self, name) is not None and (self.tokens is not None or self.tags is not None):
                what = f"rows have words and tags, or a text and spans, and data.entities names {name} and the others"
                yield Problem((name,), what, f"leave {name} out, or {other}")


class Data(Section):
    """Where the rows come from, and how a row becomes a prompt and a response."""

    source: PathText = Field(
        description="hub id | path of json, jsonl, csv, parquet, arrow or text | package:MODULE/PATH | bundled:NAME"
    )
    config: str | None = Field(None, description="configuration name of a hub data set")
    revision: Annotated[str | None, LATER] = Field(
        None, description="commit, tag or branch of a hub data set; null: its main branch"
    )
    split: str | None = Field(None, description="split to read; null reads all that exist")
    filter: str | None = Field(None, description="Jinja expression over a row; rows for which it is false are left out")
    template: Literal["chat", "plain", "text"] = Field(
        "chat",
        description="chat: the tokenizer's chat template; plain: prompt and response as they are; "
        "text: language modelling on the response alone",
    )
    system: str | None = Field(None, description="system message, with template chat")
    prompt: str = Field("{{ prompt }}", description="Jinja template of the prompt over a row's fields")
    pair: Annotated[str | None, LATER] = Field(
        None,
        description="Jinja template of a second text over a row's fields, where a row is about two (question and "
        "passage, premise and hypothesis): data.prompt is the first; for encoders",
    )
    response: str | None = Field(
        "{{ response }}",
        description="Jinja template of the response over a row's fields; null: no row has one, and the teacher's "
        "answers stand in for them",
    )
    unlabelled: Annotated[Unlabelled | None, LATER] = Field(None, description="rows that the teacher alone labels")
    form: Annotated[Literal["auto", "fields", "messages", "sharegpt", "alpaca", "prompt-completion"], LATER] = Field(
        "auto",
        description="what a row holds. fields: what prompt and response take from it; messages: a list of {role, "
        "content}, with tools; sharegpt: a list of {from, value}; alpaca: instruction, input, output; "
        "prompt-completion; auto: fields where prompt or response is set or a row has both, else what the first row "
        "looks like",
    )
    supervise: Annotated[Literal["all", "last", "marked"], LATER] = Field(
        "all",
        description="turns of the assistant that are trained, with template chat: all, or the last; by the chat "
        "template's generation marks where it has them; marked: all, and a template without marks is refused",
    )
    entities: Annotated[Entities | None, LATER] = Field(
        None, description="of task token-classification: which fields hold words and tags; null: found by their names"
    )
    choices: tuple[str, ...] | None = Field(
        None,
        min_length=2,
        description="closed set of responses; the task is then scored by their likelihood. Of task "
        "token-classification: the tags (O, B-X, I-X, ...), or the types of entities",
    )
    multi: Annotated[bool, LATER] = Field(
        False,
        description="each row has any of the choices, or none of them: a list ([] for none), a text like one, one "
        "choice, or several with data.separator between them; an empty text or null is no answer",
    )
    separator: Annotated[str | None, LATER] = Field(
        None, min_length=1, description="with multi: what stands between the choices of a row that writes them as text"
    )
    ordered: Annotated[bool, LATER] = Field(
        False, description="the choices are steps of a scale, in their order: 1 to 5 stars"
    )
    max_length: int = Field(512, ge=8, le=2**20, description="tokens; longer rows are dropped and counted")
    splits: Splits = Splits()  # type: ignore[call-arg]
    leakage: Leakage = Leakage()  # type: ignore[call-arg]

    @property
    def looks_for_a_form(self) -> bool:
        """Whether rows may hold conversations: no template says what to take of them."""
        fields = type(self).model_fields
        default = all(getattr(self, name) == fields[name].default for name in ("prompt", "response"))
        return default and self.pair is None and self.template != "text" and self.form != "fields"

    def problems(self) -> Iterator[Problem]:
        """Choices that can be told apart; one way to read a row."""
        yield from choice_problems(self.choices or ())
        yield from self._sets()
        if self.form not in ("auto", "fields") and not self.looks_for_a_form:
            what = f"form {self.form} says what is prompt and response, and so do data.prompt, response, pair, template"
            yield Problem(("form",), what, "leave data.form out, or the templates")
        if self.supervise != "all" and self.template != "chat":
            what = f"supervise: {self.supervise} chooses among the turns of a chat, and the template is {self.template}"
            yield Problem(("supervise",), what, "leave it out, or set data.template: chat")
        if self.pair is None and self.unlabelled is not None and self.unlabelled.pair is not None:
            what = "data.unlabelled.pair is a second text, and the other rows have none"
            yield Problem(("unlabelled", "pair"), what, "give data.pair too, or take it out")
        if self.template == "text" and (self.response is None or self.unlabelled is not None):
            what = "a row of template text is its response"
            yield Problem(
                ("template",), what, "give data.response and take data.unlabelled out, or set template: plain"
            )

    def _sets(self) -> Iterator[Problem]:
        """What reads several choices out of one text."""
        listed = [choice for choice in self.choices or () if choice.strip().startswith("[")]
        if self.multi and listed:
            yield Problem(("choices",), f"the choice {listed[0]!r} begins as a list of choices does", "rename it")
        if self.separator is None:
            return
        if not self.multi:
            what = "data.separator stands between the choices of a row, and data.multi is false"
            yield Problem(("separator",), what, "set data.multi: true, or leave it out")
        if within := [choice for choice in self.choices or () if self.separator in choice.strip()]:
            what = f"data.separator {self.separator!r} stands in the choice {within[0]!r}"
            yield Problem(("separator",), what, "name another, or give rows that hold lists")

    def without_responses(self) -> Data:
        """As which the rows of `unlabelled.source` are read."""
        spec = self.unlabelled
        assert spec is not None
        assert spec.source is not None
        own = {name: getattr(spec, name) for name in ("source", "config", "revision", "split", "filter")}
        texts = {name: getattr(spec, name) or getattr(self, name) for name in ("prompt", "pair")}
        return self.model_copy(update={**own, **texts, "response": None})
