"""Writes what goes with a model that ships: input.json; with an export also predict.py, USE.md and a Modelfile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill2edge.data.chat_templates import (
    Frame,
    Message,
    Turns,
    apply_template,
    chat_template_of,
    frame_of,
    shipped_template,
    turns_of,
)
from distill2edge.data.conversation import Conversation
from distill2edge.data.encode import prompt_text
from distill2edge.data.encode_texts import around
from distill2edge.data.model_inputs import FILE, InputForm, default_form, parse_form
from distill2edge.data.text_pairs import pair_frame
from distill2edge.data.tokens import end_token_id, stop_token_ids, wants_bos
from distill2edge.errors import UserError
from distill2edge.handover.clean_tokenizer import write_tokenizer
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.config import knows_segments
from distill2edge.models.kinds import KINDS, MULTI_LABEL, kind_of_directory
from distill2edge.models.loading import context_of
from distill2edge.models.pooling import pooling_of, width_of
from distill2edge.models.two_events import THRESHOLD
from distill2edge.util.files import read_json, write_json, write_text
from distill2edge.util.progress import Progress

CONTEXT = 2048
"""Tokens of prompt and answer together, where the model reads no fewer: what predict.py and Ollama make room for."""
FILES = ("input.json", "predict.py", "USE.md", "Modelfile")


def form_for(model_dir: Path, meta: Mapping[str, Any], tokenizer: Any) -> InputForm:
    """The form that an export's `meta` states under `input`, else that of the directory; with the tokens that stop."""
    stated = meta.get("input")
    kind = kind_of_directory(model_dir)
    form = parse_form(str(stated), "meta.input") if stated else default_form(kind, tokenizer)
    if not kind.writes:
        return form
    return replace(form, stop=stop_token_ids(tokenizer, form.template))


def template_for(form: InputForm, tokenizer: Any) -> str | None:
    """The chat template that the file gets: what it was trained with."""
    if not form.reading.chats:
        return None
    bos = tokenizer.bos_token if wants_bos(tokenizer) else None
    return shipped_template(chat_template_of(tokenizer), form.template, form.system, bos)


def limit_of(form: InputForm, model_dir: Path) -> int | None:
    """Tokens at which an encoder's text is cut: the form's, and no more than the model has positions."""
    limits = [length for length in (form.max_length, context_of(model_dir)) if length is not None]
    return min(limits, default=None)


def hand_over_model(model_dir: Path, trained: Path, form: InputForm) -> None:
    """Make a merged Hugging Face directory one that people can use: tokenizer and template as trained, input.json.

    Args:
        model_dir: weights and settings; is completed.
        trained: where the tokenizer lies with which it was trained.
        form: how it was trained to read.

    Raises:
        UserError: as `write_tokenizer`.
    """
    tokenizer = load_tokenizer(trained)
    form = form_for(model_dir, {"input": form.dumps()}, tokenizer)
    write_tokenizer(tokenizer, model_dir, form, template_for(form, tokenizer), limit_of(form, model_dir), model_dir)
    write_json(model_dir / FILE, _document(model_dir, form, tokenizer, _frame(form, tokenizer)[0]))


def hand_over(
    directory: Path,
    form: InputForm,
    tokenizer: Any,
    model_dir: Path,
    facts: Mapping[str, Any],
    name: str,
    progress: Progress,
) -> list[str]:
    """Write the files that tell people and programs how to use an export.

    Args:
        directory: of the export.
        form: how the model was trained to read.
        tokenizer: of transformers, as it was trained.
        model_dir: what was exported.
        facts: content of export.json.
        name: of the model, for people.

    Returns:
        names of the files.
    """
    frame, whole = _frame(form, tokenizer)
    if not whole:
        progress.warn(
            f"{facts['scheme']}: the chat template looks into what the user says; predict.py writes what stands around "
            "an ordinary text"
        )
    document = _document(model_dir, form, tokenizer, frame)
    write_json(directory / FILE, document)
    here = Path(__file__).parent
    source = here / f"predict_{facts['format']}.py"
    write_text(directory / "predict.py", source.read_text(encoding="utf-8"))
    stops = [tokenizer.convert_ids_to_tokens(token) for token in form.stop]
    asked = {
        "name": name,
        "form": document,
        "stops": stops,
        "facts": facts,
        "example": _example(form, tokenizer),
    }
    written = [FILE, "predict.py", "USE.md"]
    write_text(directory / "USE.md", _render("USE.md.j2", **asked))
    (directory / "Modelfile").unlink(missing_ok=True)
    if facts["format"] == "gguf" and form.reading.chats:
        write_text(directory / "Modelfile", _modelfile(form, tokenizer, asked))
        written.append("Modelfile")
    return written


def _document(model_dir: Path, form: InputForm, tokenizer: Any, frame: Frame) -> dict[str, Any]:
    """input.json: the form, and what a program without this package needs to follow it."""
    head, tail = around(tokenizer)
    end = None
    if form.reading.chats:
        end = end_token_id(tokenizer, form.template)
        head, tail = ([tokenizer.bos_token_id] if form.template != "chat" and wants_bos(tokenizer) else []), []
    window = context_of(model_dir) if not KINDS[form.kind].pairs else None
    settings = read_json(model_dir / "config.json")
    pooling = pooling_of(settings)
    return {
        "schema_version": 1,
        **form.as_dict(),
        "max_length": limit_of(form, model_dir) if not form.reading.answers else form.max_length,
        "context": min(CONTEXT, window or CONTEXT),
        "labels": KINDS[form.kind].labels(settings) or [],
        "threshold": THRESHOLD if form.kind == MULTI_LABEL.name else None,
        "dimensions": [] if pooling is None else list(pooling.dimensions or (width_of(settings),)),
        "normalize": pooling is not None and pooling.normalize,
        "frame": asdict(frame),
        "head": head,
        "tail": tail,
        "end": [end] if form.choices and end is not None else [],
        **({} if form.pair is None else {"pair_frame": _around_pairs(tokenizer, settings)}),
    }


def _around_pairs(tokenizer: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """What stands around two texts; segments as far as the model knows them."""
    frame = asdict(pair_frame(tokenizer))
    return frame if knows_segments(settings) else {**frame, "types": (0,) * len(frame["types"])}


def _frame(form: InputForm, tokenizer: Any) -> tuple[Frame, bool]:
    """What stands around a text, and whether it does so around every text."""
    template = chat_template_of(tokenizer)
    if not form.reading.chats or form.template != "chat" or not template:
        return Frame(), True
    found = frame_of(template, form.system, tokenizer.special_tokens_map)
    if found is not None:
        return found, True
    before, _, after = prompt_text(_MARK, tokenizer, "chat", form.system).partition(_MARK)
    return Frame((before,), (after,)), False


_MARK = "\u2402text\u2403"


def _modelfile(form: InputForm, tokenizer: Any, asked: Mapping[str, Any]) -> str:
    """A GGUF's Modelfile for Ollama: its template in Go's language, its system message, its stops."""
    system = form.system
    turns = _turns(form, tokenizer, None)
    if system and (turns is None or turns.system is None or '"""' in system):
        turns, system = _turns(form, tokenizer, system), None  # the template has it baked in
    tools = form.template == "chat" and "tools" in (chat_template_of(tokenizer, tools=True) or "")
    return _render("Modelfile.j2", turns=turns, system=system, tools=tools, **asked)


def _turns(form: InputForm, tokenizer: Any, system: str | None) -> Turns | None:
    """Of a model trained on chats: what stands between its messages, BOS left to the runtime where it puts one.

    Args:
        system: message that stands before every chat without one.
    """
    if form.template != "chat" or not chat_template_of(tokenizer):
        return None
    bos = tokenizer.bos_token if wants_bos(tokenizer) else None

    def render(messages: Sequence[Message]) -> str:
        first = [{"role": "system", "content": system}] if system and messages[0]["role"] != "system" else []
        text = apply_template(tokenizer, Conversation((*first, *messages)), generation=True)
        return text.removeprefix(bos) if bos else text

    found = turns_of(render)
    if found is not None:
        return found
    try:
        before, _, after = render([{"role": "user", "content": _MARK}]).partition(_MARK)
    except UserError:
        return None
    return Turns(before, None, "", after, "", whole=False)


def _example(form: InputForm, tokenizer: Any) -> str | None:
    """A prompt as the model sees it, for people."""
    if not form.reading.answers or form.template != "chat" or not chat_template_of(tokenizer):
        return None
    return prompt_text("{your text}", tokenizer, "chat", form.system)


def _render(template: str, **values: Any) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters |= {"code": _code, "block": _block, "literal": _literal, "line": _line, "quoted": _quoted}
    return environment.get_template(template).render(**values)


def _line(value: Any) -> str:
    """Text of a model or a recipe on one line of Markdown."""
    said = " ".join(str(value).split())
    return "".join(f"\\{mark}" if mark in "\\`*_{}[]<>#|!" else mark for mark in said)


def _code(value: Any) -> str:
    """A code span that no backtick inside can end."""
    said = " ".join(str(value).split())
    fence = "`" * (1 + max((len(run) for run in said.replace("`", " ` ").split() if set(run) == {"`"}), default=0))
    while fence in said:
        fence += "`"
    return f"{fence} {said} {fence}" if "`" in said else f"`{said}`"


def _block(value: Any) -> str:
    """A fenced block that no fence inside can end."""
    said = str(value).replace("\r", "")
    fence = "```"
    while fence in said:
        fence += "`"
    return f"{fence}text\n{said}\n{fence}"


def _quoted(value: Any) -> str:
    """A value of a Modelfile, which knows no escapes."""
    mark = '"""' if '"' in str(value) or "\n" in str(value) else '"'
    return f"{mark}{value}{mark}"


def _literal(value: Any) -> str:
    """A string of Go's template language."""
    return json.dumps(str(value), ensure_ascii=False).replace('"""', '\\"\\"\\"')
