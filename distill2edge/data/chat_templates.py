"""Chat templates: rendered in one environment for every format, and written into files as the model was trained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distill2edge.data.conversation import Conversation, Message, opened
from distill2edge.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_OPEN = re.compile(
    r"\{#|\{\{|(?P<raw>\{%[-+]?\s*raw\s*[-+]?%\})|"
    r"(?P<begin>\{%[-+]?\s*)(?P<end>end)?generation(?P<rest>\s*[-+]?%\})"
)
_END_RAW = re.compile(r"\{%[-+]?\s*endraw\s*[-+]?%\}")
# Of an expression: its end, or a string, in which nothing ends it.
_IN_EXPRESSION = re.compile(r"""\}\}|'(?:[^'\\]|\\.)*(?:'|\Z)|"(?:[^"\\]|\\.)*(?:"|\Z)""", re.DOTALL)
_NOW, _END = "\u2402now:", "\u2403"  # around the format of a date, in a template that is taken apart
_PROBE = "\u2402probe\u2403"
# The value of the message is whatever the user writes: lines, spaces, other scripts.
_TEXTS = ("a", "two\nlines", "  spaced  ", "ünï 你好 🙂", "<b>&amp;'\"</b> {{ x }}")
_NOTHING = "{{ '' }}"  # keeps the newline that a block at the end of a line would swallow


def chat_template_of(tokenizer: PreTrainedTokenizerBase, *, tools: bool = False) -> str | None:
    """The template of a chat; of several, the one that serves with tools or without."""
    found: Any = getattr(tokenizer, "chat_template", None)
    if isinstance(found, Mapping):
        found = (found.get("tool_use") if tools else None) or found.get("default")
    return str(found) if found else None


def render_chat(
    template: str,
    messages: Sequence[Message],
    names: Mapping[str, Any],
    *,
    generation: bool,
    tools: Sequence[Mapping[str, Any]] = (),
    marks: bool = False,
) -> str:
    """The messages as a chat template writes them: within limits, with what transformers gives a template.

    Args:
        names: what the template may name besides: `bos_token`, `eos_token`, ...
        generation: up to where the assistant's next message begins.
        tools: that the model may call, as JSON schemas.
        marks: as `render_chat_template`.

    Raises:
        UserError: the template is broken, or refuses the messages.
    """
    from jinja2 import TemplateError

    from distill2edge.templating.chat_template import render_chat_template

    given = {"messages": [dict(each) for each in messages], "tools": list(tools) or None}
    try:
        return render_chat_template(template, marks=marks, **{**names, **given, "add_generation_prompt": generation})
    except TemplateError as error:
        roles = ", ".join(message["role"] for message in messages)
        raise UserError(
            f"the tokenizer's chat template refuses the messages ({roles}): {str(error)[:200]}",
            where="data.template",
            fix="leave data.system out if the model knows no system role, leave such rows out with data.filter, or set "
            "data.template: plain",
        ) from error


def apply_template(
    tokenizer: PreTrainedTokenizerBase, chat: Conversation, *, generation: bool, marks: bool = False
) -> str:
    """A conversation as the tokenizer's chat template writes it.

    Args:
        generation: up to where the assistant's next message begins.
        marks: as `render_chat_template`.

    Raises:
        UserError: there is no chat template, or it refuses the messages.
    """
    template = chat_template_of(tokenizer, tools=bool(chat.tools))
    if not template:
        raise UserError(
            "the tokenizer has no chat template",
            where="data.template",
            fix="set data.template: plain, or take an instruct model, whose tokenizer brings one",
        )
    names = tokenizer.special_tokens_map
    return render_chat(template, chat.messages, names, generation=generation, tools=chat.tools, marks=marks)


def shipped_template(template: str | None, how: str, system: str | None, bos: str | None) -> str | None:
    """The chat template of a file: what it was trained with.

    Args:
        template: of the tokenizer.
        how: `chat`, `plain` or `text`, as the model was trained.
        system: of every chat: it becomes the system message of a chat that has none.
        bos: the token before plain text, where the model was trained with one.
    """
    if how == "chat":
        return _with_system(portable(template), system) if template else None
    start = "{{ bos_token }}" if bos else ""
    return (
        start + "{% for message in messages %}{{ message['content'] }}"
        "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}{% endfor %}"
    )


def portable(template: str) -> str:
    """The template without generation marks, which few runtimes know; the same text comes out.

    What only looks like a mark stays: in raw text, in comments, in the strings of an expression.
    """
    parts, at = [], 0
    while found := _OPEN.search(template, at):
        parts.append(template[at : found.start()])
        at = found.end()
        if found["begin"] is not None:
            parts.append(f"{found['begin']}{'endif' if found['end'] else 'if true'}{found['rest']}")
            continue
        end = _end_of(template, found)
        if end is None:  # it never ends: no template
            at = found.start()
            break
        parts.append(template[found.start() : end])
        at = end
    return "".join(parts) + template[at:]


def _end_of(template: str, opening: re.Match[str]) -> int | None:
    if opening[0] == "{#":
        end = template.find("#}", opening.end())
        return end + 2 if end >= 0 else None
    if opening["raw"] is not None:
        raw = _END_RAW.search(template, opening.end())
        return raw.end() if raw else None
    inside = _IN_EXPRESSION.finditer(template, opening.end())
    return next((part.end() for part in inside if part[0] == "}}"), None)


@dataclass(frozen=True)
class Frame:
    """What stands around a text in a prompt, so that a program without Jinja can write it.

    Attributes:
        before, after: parts in turn: text, or `{"now": FORMAT}`, the date in `strftime`'s words.
        strip: whether the text loses the spaces around it.
    """

    before: tuple[str | dict[str, str], ...] = ()
    after: tuple[str | dict[str, str], ...] = ()
    strip: bool = False


def frame_of(template: str, system: str | None, names: Mapping[str, Any]) -> Frame | None:
    """The frame that a chat template puts around one message; None where it depends on what the message says.

    Raises:
        UserError: the template refuses one message.
    """

    def render(text: str) -> str:
        return render_chat(_undated(template), opened(text, system).messages, names, generation=True)

    before, found, after = render(_PROBE).partition(_PROBE)
    strip = render(f"  {_PROBE} \n") == before + _PROBE + after
    same = all(render(text) == before + (text.strip() if strip else text) + after for text in _TEXTS)
    return Frame(_parts(before), _parts(after), strip) if found and same else None


@dataclass(frozen=True)
class Turns:
    """What stands between the messages of a chat, for runtimes with templates of their own.

    Attributes:
        first: before the first message of the user, where no system message comes.
        system: before a system message; None where the template has none.
        after_system: between it and the user's message.
        answer: between a message of the user and the answer.
        next: between an answer and the user's next message.
        whole: whether a chat of any length is so; else one question and its answer are.
    """

    first: str
    system: str | None
    after_system: str
    answer: str
    next: str
    whole: bool = True


def turns_of(render: Callable[[list[Message]], str]) -> Turns | None:
    """The turns of a chat template; None where it writes them otherwise depending on where they stand.

    Args:
        render: messages -> text, up to where the next answer begins.
    """
    words = [f"\u2402{name}\u2403" for name in ("first", "answer", "second", "reply", "third")]
    roles = ("user", "assistant", "user", "assistant", "user")
    chat = [{"role": role, "content": word} for role, word in zip(roles, words, strict=True)]
    try:
        found = _between(render(chat), words)
    except UserError:
        return None  # one turn alone
    if found is None or found[1] != found[3] or found[2] != found[4] or found[5] != found[1]:
        return None
    system, after = None, ""
    with_system = [{"role": "system", "content": _PROBE}, chat[0]]
    try:
        around = _between(render(with_system), [_PROBE, words[0]])
    except UserError:
        around = None  # it knows no system message
    if around is not None:
        system, after = around[0], around[1]
    return Turns(found[0], system, after, found[1], found[2])


def _between(text: str, words: Sequence[str]) -> list[str] | None:
    parts = []
    for word in words:
        part, found, text = text.partition(word)
        if not found:
            return None
        parts.append(part)
    return [*parts, text]


def _with_system(template: str, system: str | None) -> str:
    if not system:
        return template
    said = system.replace("\\", "\\\\").replace("'", "\\'").replace("\r", "\\r").replace("\n", "\\n")
    lead = (
        "{% if not messages or messages[0]['role'] != 'system' %}"
        f"{{% set messages = [{{'role': 'system', 'content': '{said}'}}] + messages %}}{{% endif %}}{_NOTHING}"
    )
    return template if template.startswith(lead) else lead + template


def _undated(template: str) -> str:
    """The template with the date's format in place of the date."""
    if "strftime_now" not in template:
        return template
    macro = f"{{% macro strftime_now(format) %}}{_NOW}{{{{ format }}}}{_END}{{% endmacro %}}"
    return macro + _NOTHING + template


def _parts(text: str) -> tuple[str | dict[str, str], ...]:
    pieces = re.split(f"{_NOW}(.*?){_END}", text)
    marked = [{"now": piece} if index % 2 else piece for index, piece in enumerate(pieces)]
    return tuple(piece for piece in marked if piece)
