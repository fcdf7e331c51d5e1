"""Which choice a rendered response is, and what its author has to write where it is none."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from distill2edge.data.row_errors import names, shown
from distill2edge.data.templates import Template
from distill2edge.errors import UserError
from distill2edge.recipe.choices import same
from distill2edge.util.nearest import nearest

_CASES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "capitalize": str.capitalize,
    "title": str.title,
}
_LONGEST = 500  # characters of a template that a fix repeats
_LISTED = 120  # characters of choices that a fix writes out


class Choices:
    """A closed set of responses, looked up by what is the same in all spellings of one."""

    def __init__(self, choices: Sequence[str]) -> None:
        self._index = {same(choice): index for index, choice in enumerate(choices)}

    def index(self, answer: str) -> int | None:
        """The number of the choice that an answer is; None where it is none."""
        return self._index.get(same(answer))


def not_a_choice(
    answer: str, choices: Sequence[str], response: Template, fields: Mapping[str, Any], number: int
) -> UserError:
    """The error for a response that is none of the choices, with the template that makes it one, where one does.

    Args:
        response: the template that printed it, of row `number` with these fields.
    """
    listed = ", ".join(repr(choice[:40]) for choice in choices[:20]) + (", ..." if len(choices) > 20 else "")
    return UserError(
        f"row {number}: the response {shown(answer[:80])!r} is not one of data.choices ({listed}); its fields are "
        f"{names(fields)}",
        where=response.where,
        fix=_fix(answer.strip(), choices, response, fields, number),
    )


def _fix(answer: str, choices: Sequence[str], response: Template, fields: Mapping[str, Any], number: int) -> str:
    term = _printed(response.source)
    texts = [choice.strip() for choice in choices]
    known = Choices(choices)
    if term is not None:
        for expression, because in _candidates(answer, texts, term, response, fields):
            template = f"{{{{ {expression} }}}}"
            try:
                made = Template(template, response.where).render(fields, number)
            except UserError:
                continue
            if known.index(made) is not None:
                return f'{because}write {response.where}: "{template}"'
    near = nearest(same(answer), texts)
    hint = f"did you mean {near}? " if near else ""
    alike = f"correct {'that row' if near else 'the template'}, or name {shown(answer[:40])!r} in data.choices"
    if term is None:
        return f"{hint}{alike}, or leave such rows out with data.filter"
    some = repr(texts)
    taken = f"{term} in {some}" if len(some) <= _LISTED else f"{term} != {answer[:80]!r}"
    return f'{hint}{alike}, or leave such rows out with data.filter: "{taken}"'


def _candidates(
    answer: str, texts: Sequence[str], term: str, response: Template, fields: Mapping[str, Any]
) -> Iterator[tuple[str, str]]:
    """Expressions that may print a choice, the likeliest first, each with what is said before it."""
    values = [fields[name] for name in response.fields if name in fields]
    number = _number(answer)
    alike = next((text for text in texts if number is not None and _number(text) == number), None)
    if alike is not None:
        because = f"{answer!r} and {alike!r} are one number, printed in two ways: "
        digits = len(alike.partition(".")[2])
        yield (f"{term} | int", because) if not digits else (f"{term} | float", because)
        yield f"'%.{digits}f' | format({term} | float)", because
        yield f"'%0{len(alike)}d' | format({term} | int)", because
        return
    folded = {text.casefold(): text for text in texts}
    if (close := folded.get(same(answer).casefold())) is not None:
        because = f"{answer!r} and {close!r} differ in case: "
        for name, function in _CASES.items():
            if all(text == function(text) for text in texts):
                yield f"{term} | {name}", because
        lowered = {text.lower(): text for text in texts}
        if len(lowered) == len(texts) and len(repr(lowered)) <= _LISTED:
            yield f"{lowered}[{term} | lower]", because
        return
    if len(values) == 1 and isinstance(values[0], bool) and len(texts) == 2:
        because = 'true and false are printed as True and False: name them so (data.choices: ["False", "True"]), or '
        yield f"'{texts[1]}' if {term} else '{texts[0]}'", because
    if answer.isascii() and answer.isdigit() and int(answer) < len(texts) and len(repr(list(texts))) <= _LISTED:
        yield f"{list(texts)}[{term} | int]", f"where 0 stands for {texts[0]!r}, 1 for {texts[1]!r} and so on, "


def _printed(source: str) -> str | None:
    """The expression of a template that prints one and nothing else, as filters can follow it."""
    text = source.strip()
    inside = text[2:-2]
    if len(text) > _LONGEST or text[:2] != "{{" or text[-2:] != "}}" or "{{" in inside or "}}" in inside:
        return None
    expression = inside.strip("-").strip()
    return expression if re.fullmatch(r"[\w.]+|row\['[^']*'\]", expression) else f"({expression})"


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
