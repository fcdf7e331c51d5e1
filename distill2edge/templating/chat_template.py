"""Chat templates of tokenizers and GGUF files: as transformers renders them, and with limits."""

from __future__ import annotations

import datetime
import functools
import json
import re
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols

from distill2edge.templating.bounded import COMPILE_FAULTS, FAULTS, STEPS, BoundedEnvironment
from distill2edge.templating.weights import LimitError

BEGIN, END = "\u2402generation\u2403", "\u2402endgeneration\u2403"
"""Around what an assistant wrote, in a text that shows its marks."""


class _Generation(Extension):
    """`{% generation %}` marks what an assistant wrote; a render without masks prints it as it is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own name)

    def parse(self, parser: Any) -> list[nodes.Node]:
        """The marked part."""
        next(parser.stream)
        found: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return found


class _ShownGeneration(_Generation):
    """The same, with marks in what is printed."""

    def parse(self, parser: Any) -> list[nodes.Node]:
        """The marked part, between `BEGIN` and `END`."""
        begin, end = (nodes.Output([nodes.TemplateData(text)]) for text in (BEGIN, END))
        return [begin, *super().parse(parser), end]


def _refuse(message: Any) -> str:
    raise TemplateError(str(message))


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson` as chat templates know it: Jinja's own escapes for HTML and sorts."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _now(pattern: str) -> str:
    if len(pattern) > 200 or re.search(r"\d{3}", pattern):
        raise LimitError("a date format without measure")
    return datetime.datetime.now().strftime(pattern)


@functools.cache
def chat_environment(marks: bool = False) -> BoundedEnvironment:
    """The environment of chat templates: the functions, filters and tags that transformers gives them, and limits.

    Args:
        marks: show what an assistant wrote.
    """
    generation = _ShownGeneration if marks else _Generation
    environment = BoundedEnvironment(
        4 * STEPS, trim_blocks=True, lstrip_blocks=True, extensions=[generation, loopcontrols]
    )
    environment.filters["tojson"] = environment.counted_filter("tojson", to_json)
    environment.globals |= {"raise_exception": _refuse, "strftime_now": _now}
    return environment


@functools.lru_cache(maxsize=32)
def _chat_template(source: str, marks: bool) -> Any:
    return chat_environment(marks).compiled(source)


def render_chat_template(source: str, *, marks: bool = False, **variables: Any) -> str:
    """A chat template's text.

    Args:
        source: the template, as a tokenizer or a GGUF has it.
        marks: put `BEGIN` and `END` around what the template marks as generated.
        variables: `messages`, `add_generation_prompt`, `bos_token`, `eos_token`, and what else the template knows;
            `tools` and `documents` are null where they are not given, as transformers has them.

    Raises:
        TemplateError: it is not valid Jinja, refuses the messages, fails on them, or goes beyond the limits.
    """
    try:
        template = _chat_template(source, marks)
        with chat_environment(marks).rendering():
            return str(template.render({"tools": None, "documents": None, **variables}))
    except TemplateError:
        raise
    except (*COMPILE_FAULTS, *FAULTS) as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error
