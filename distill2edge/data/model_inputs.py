"""How a text becomes what a model reads: one form, one function, for training, measurement, chat and the files."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.chat_templates import chat_template_of
from distill2edge.data.conversation import is_chat
from distill2edge.data.reading import READINGS, Reading
from distill2edge.data.text_pairs import Tokens, cut_pairs
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_config, load_tokenizer
from distill2edge.models.config import usable_positions
from distill2edge.models.kinds import CLASSIFIER, ENCODER, KINDS, Kind, kind_of_directory
from distill2edge.models.two_events import thresholds_in
from distill2edge.util.files import read_object

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill2edge.data.examples import Encoded, Row
    from distill2edge.recipe.schema import Data, Recipe

FILE = "input.json"
"""Beside an exported model: its form, and what a program without this package needs to follow it."""
KEY = "distill2edge.input"
"""The form in a GGUF's metadata."""

_KINDS = tuple(name for name in KINDS if name != ENCODER.name)


@dataclass(frozen=True)
class InputForm:
    """What a model was trained to read.

    Attributes:
        kind: of model, its name in `models.kinds`.
        template: `chat`, `plain` or `text`, as `data.template`; of no meaning for a classifier.
        system: system message of every chat.
        max_length: tokens. A classifier's text is cut there; None: where the model ends.
        choices: closed set of responses, scored by likelihood; empty for open ones.
        prompt: the recipe's template of a prompt over a row's fields, for people.
        stop: ids that end a response.
        pair: likewise of a second text, where an encoder reads two; None: it reads one.
        thresholds: of each label of a multi-label classifier, where they were chosen; empty: .5.
    """

    kind: str
    template: str = "plain"
    system: str | None = None
    max_length: int | None = None
    choices: tuple[str, ...] = ()
    prompt: str | None = None
    stop: tuple[int, ...] = ()
    pair: str | None = None
    thresholds: tuple[float, ...] = ()

    @property
    def reading(self) -> Reading:
        """How its kind of model reads."""
        return READINGS[self.kind]

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(self.as_dict(), ensure_ascii=False)

    def as_dict(self) -> dict[str, Any]:
        """Its fields; `pair` where it reads two texts, `thresholds` where some were chosen."""
        absent = {
            name for name, value in (("pair", self.pair), ("thresholds", self.thresholds or None)) if value is None
        }
        return {name: value for name, value in asdict(self).items() if name not in absent}


def encode_inputs(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None = None
) -> list[list[int]]:
    """Token ids of each text as the model was trained to read it: what its response continues, what is classified.

    Args:
        tokenizer: of transformers, or of llama.cpp (`runtimes.llama_tokenizer`).
        limit: of the runtime, where the form has none or a greater one; for a classifier.

    Raises:
        UserError: as the `inputs` of its `data.reading.Reading`.
    """
    return form.reading.inputs(texts, tokenizer, form, limit)


def encode_pair(
    first: str, second: str, tokenizer: PreTrainedTokenizerBase, form: InputForm, limit: int | None = None
) -> Tokens:
    """Tokens of two texts as an encoder was trained to read them, and their segments; cut as in training.

    Raises:
        UserError: as `data.text_pairs.cut_pairs`.
    """
    limits = [length for length in (form.max_length, limit) if length is not None]
    ((tokens, _),) = cut_pairs([(first, second)], tokenizer, min(limits, default=1 << 30))
    return tokens


def form_of(recipe: Recipe, model_dir: Path) -> InputForm:
    """The form in which a recipe trains a model."""
    form, path = form_for_kind(recipe.data, kind_of_directory(model_dir)), model_dir / "config.json"
    return replace(form, thresholds=thresholds_in(read_object(path))) if path.is_file() else form


def _name(kind: Kind) -> str:
    """What a form calls a kind: an encoder reads as the classifier that it becomes."""
    return CLASSIFIER.name if kind is ENCODER else kind.name


def form_for_kind(data: Data, kind: Kind) -> InputForm:
    """The form in which the rows of a recipe's data are read by a kind of model."""
    reading = READINGS[kind.name]
    return InputForm(
        _name(kind),
        data.template if reading.chats else "plain",
        data.system if reading.chats and data.template == "chat" else None,
        data.max_length,
        tuple(data.choices or ()) if reading.answers else (),
        data.prompt if data.template != "text" else None,
        pair=None if reading.answers else data.pair,
    )


def encode_for(
    data: Data,
    rows: Sequence[Row],
    model_dir: Path,
    counts: Counter[str] | None = None,
    kind: Kind | None = None,
    supervise: str | None = None,
) -> Sequence[Encoded]:
    """Rows in the tokens of a model, as its kind reads them.

    Args:
        data: section of the recipe.
        counts: filled as by `data.encode.encode_rows`.
        kind: to read as; that of the directory by default.
        supervise: as `data.encode.encode_rows`; that of the recipe by default.

    Raises:
        UserError: as the `rows` of its `data.reading.Reading`.
    """
    kind = kind or kind_of_directory(model_dir)
    form = form_for_kind(data, kind)
    if form.template != "chat" and (number := next((row.number for row in rows if is_chat(row.prompt)), None)):
        raise UserError(
            f"row {number}: a conversation of several turns, with a system message or with tools, and this model reads "
            "one text",
            where="data.form",
            fix="leave such rows out with data.filter, or take a decoder with a chat template",
        )
    positions = usable_positions(load_config(model_dir)) if (model_dir / "config.json").is_file() else None
    tokenizer, supervised = load_tokenizer(model_dir), supervise or data.supervise
    return READINGS[kind.name].rows(rows, tokenizer, form, counts, positions, supervised)


def default_form(kind: Kind, tokenizer: PreTrainedTokenizerBase) -> InputForm:
    """The form of a model that names none: a chat where the tokenizer has a template for one."""
    chats = READINGS[kind.name].chats and chat_template_of(tokenizer)
    return InputForm(_name(kind), "chat" if chats else "plain")


def parse_form(text: str, where: str) -> InputForm:
    """What `InputForm.dumps` wrote, or `input.json`: a file from elsewhere, so every field is looked at.

    Raises:
        UserError: it isn't a form.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _not_a_form(where, "not JSON") from error
    if not isinstance(found, Mapping):
        raise _not_a_form(where, "not an object")
    known = {field.name for field in fields(InputForm)}
    values: dict[str, Any] = {name: value for name, value in found.items() if name in known}
    choices = values.get("choices") or []
    length = values.get("max_length")
    stop, limits = values.get("stop") or [], values.get("thresholds") or []
    if (
        values.get("kind") not in _KINDS
        or values.get("template", "plain") not in ("chat", "plain", "text")
        or not all(isinstance(values.get(name), str | None) for name in ("system", "prompt", "pair"))
        or not (length is None or (type(length) is int and length > 0))
        or not (isinstance(stop, list) and all(type(token) is int and token >= 0 for token in stop))
        or not (isinstance(limits, list) and all(type(limit) is float and 0 < limit < 1 for limit in limits))
        or not (isinstance(choices, list) and all(isinstance(choice, str) and choice for choice in choices))
    ):
        raise _not_a_form(where, "a field has another type or value")
    return InputForm(**{**values, "choices": tuple(choices), "stop": tuple(stop), "thresholds": tuple(limits)})


def read_form(directory: Path) -> InputForm | None:
    """The form of an ONNX or Hugging Face directory; None where it names none.

    Raises:
        UserError: a file that isn't one.
    """
    path = directory / FILE
    if not path.is_file():
        return None
    try:
        return parse_form(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise _not_a_form(str(path), "not UTF-8") from error


def _not_a_form(where: str, what: str) -> UserError:
    return UserError(f"{what}: no input form", where=where, fix="export the model again, or remove the file")
