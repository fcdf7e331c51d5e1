"""Row fields to prompt and response through bounded Jinja templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

from jinja2 import TemplateSyntaxError, UndefinedError, nodes

from distill2edge.data.values import NotANumber, RowEnvironment, UnprintableError, as_text, spelling
from distill2edge.errors import UserError
from distill2edge.templating.bounded import COMPILE_FAULTS, FAULTS, SOURCE, undeclared
from distill2edge.templating.weights import LimitError
from distill2edge.terminal import one_line

ROW = "row"  # the whole row, for names that Jinja cannot spell: row['my column']
_MOST, _PER_ROW, _PER_STEP = 600_000, 2_000, 32  # steps in stock, of a row, and characters of a text for one more
_LONGEST = 32_000_000  # characters of a text
_NAMELESS = "an expression"  # what `spelling` says of what it cannot spell

_ENVIRONMENT = RowEnvironment()
_GLOBALS = dict(_ENVIRONMENT.globals)


class _Credit:
    """Steps for all the rows of a source: a template that is near its limit in each would never end.

    Every row gives some, and a text in it more; what is left over is kept up to a bound.
    """

    def __init__(self) -> None:
        self._left = _MOST

    @contextmanager
    def rendering(self, row: Mapping[str, Any], fields: Iterable[str]) -> Iterator[None]:
        texts = sum(len(value) for name in fields if isinstance(value := row.get(name), str | list | dict))
        left = min(self._left + _PER_ROW + texts // _PER_STEP, _MOST)
        with _ENVIRONMENT.rendering(left) as meter:
            given = meter.left
            try:
                yield
            finally:
                self._left = left - (given - max(meter.left, 0))


class Template:
    """A Jinja template over a row's fields; a field it names must be there, and what it prints must be text.

    Args:
        source: the template's text.
        where: the recipe's key, for errors (`data.prompt`).
        missing: texts that are refused as values, since they stand for a missing one (`values.MISSING`).

    Attributes:
        fields: names of the fields it reads; `{"row"}` among them where it takes the row as a whole.
        whole: those that it takes as a whole, not some item or part of them.

    Raises:
        UserError: it isn't valid Jinja.
    """

    def __init__(self, source: str, where: str, missing: frozenset[str] = frozenset()) -> None:
        self.source, self.where, self.missing = source, where, missing
        tree, named = _parse(source, where)
        self.fields, self.whole = _fields(tree, named), _whole(tree)
        self._sorted = sorted(self.fields)
        self._names_row = ROW in named
        self._parts = _plain_parts(tree)
        self._outputs = [_child_source(tree, child) for child in _outputs(tree)]
        self._template, self._credit = _compile(lambda: _ENVIRONMENT.compiled(source), where), _Credit()

    def render(self, row: Mapping[str, Any], number: int) -> str:
        """The text for one row; `number` counts from 1 and names the row in errors.

        Raises:
            UserError: a field is missing or null, what is printed is no text, an operation fails on this row's values,
                or the template goes beyond its limits.
        """
        text = self._plain(row)
        return self._slow(row, number) if text is None else text

    def render_with_content(self, row: Mapping[str, Any], number: int) -> tuple[str, str]:
        """The text, and what of it came from the row: the values of the fields, or of them what was printed where
        one is a list or an object.

        Raises:
            UserError: as `render`.
        """
        text = self.render(row, number)
        values = [row[name] for name in self._sorted if name in row]
        if any(isinstance(value, list | dict) for value in values):  # then `_slow` rendered it
            return text, "\n".join(_ENVIRONMENT.render.shown)
        return text, "\n".join([value if type(value) is str else str(value) for value in values])

    def _plain(self, row: Mapping[str, Any]) -> str | None:
        """The text of a template of words and names alone; None where Jinja is needed."""
        if self._parts is None:
            return None
        pieces, size = [], 0
        for part, is_name in self._parts:
            piece = row.get(part) if is_name else part
            if type(piece) is not str:
                try:
                    piece = as_text(piece)
                except UnprintableError:
                    return None
            if is_name and piece in self.missing:
                return None
            size += len(piece)
            pieces.append(piece)
        return "".join(pieces) if size <= _LONGEST else None

    def _slow(self, row: Mapping[str, Any], number: int) -> str:
        values = {**_GLOBALS, ROW: row, **row} if self._names_row else {**_GLOBALS, **row}
        for name in self.fields:
            value = row.get(name)
            if type(value) is float and value != value:
                values[name] = NotANumber(value)
        state = _ENVIRONMENT.render
        state.shown, state.missing, state.strict = [], self.missing, True
        try:
            with self._credit.rendering(row, self.fields):
                return _ENVIRONMENT.concat(_ENVIRONMENT.rendered(self._template, values))
        except FAULTS as error:
            raise _row_error(error, self, row, number, _culprit(self._outputs, values)) from error


class Filter:
    """A Jinja expression that says whether a row is taken.

    Raises:
        UserError: it isn't a valid expression.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source, self.where = source, where
        tree, named = _parse("{{ " + source + " }}", where)
        if len(tree.body) != 1 or len(_outputs(tree)) != 1:
            raise UserError("not one Jinja expression", where=where, fix='as in data.filter: "score > 0.5"')
        self.fields = _fields(tree, named)
        self._names_row = ROW in named
        self._template, self._credit = _compile(lambda: _compile_expression(tree), where), _Credit()

    def takes(self, row: Mapping[str, Any], number: int) -> bool:
        """Whether the expression is true for this row.

        Raises:
            UserError: as `Template.render`.
        """
        values = {**_GLOBALS, ROW: row, **row} if self._names_row else {**_GLOBALS, **row}
        _ENVIRONMENT.render.strict = False
        try:
            with self._credit.rendering(row, self.fields):
                return bool(self._value(values))
        except FAULTS as error:
            raise _row_error(error, self, row, number, "") from error

    def _value(self, values: dict[str, Any]) -> Any:
        context = self._template.new_context(values, shared=True)
        for _ in self._template.root_render_func(context):
            pass
        return context.vars["result"]


# --- reading a template -------------------------------------------------------


def _parse(source: str, where: str) -> tuple[nodes.Template, set[str]]:
    """A template's tree, and the names that it takes from outside."""

    def parse() -> tuple[nodes.Template, set[str]]:
        if len(source) > SOURCE:
            raise LimitError(f"it has {len(source):,} characters, and {SOURCE:,} are allowed")
        tree = _ENVIRONMENT.parse(source)
        return tree, undeclared(tree)

    return _compile(parse, where)  # type: ignore[no-any-return]


def _compile_expression(tree: nodes.Template) -> Any:
    """A template that sets `result` to the expression."""
    result = nodes.Assign(nodes.Name("result", "store"), _outputs(tree)[0], lineno=1)
    with _ENVIRONMENT.compiling():
        return _ENVIRONMENT.from_string(nodes.Template([result], lineno=1))


def _compile(make: Callable[[], Any], where: str) -> Any:
    try:
        return make()
    except TemplateSyntaxError as error:
        raise UserError(
            f"not valid Jinja (line {error.lineno}): {str(error.message)[:200]}",
            where=where,
            fix="fields are written {{ name }} in templates, and bare in data.filter; a name with blanks, dots or "
            "hyphens is {{ row['my column'] }}",
        ) from error
    except COMPILE_FAULTS as error:
        raise UserError(
            f"a template that cannot be compiled: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="write it shorter, and with less in each other",
        ) from error


def _outputs(tree: nodes.Template) -> list[nodes.Node]:
    """The expressions printed at the top level."""
    return [
        child
        for node in tree.body
        if isinstance(node, nodes.Output)
        for child in node.nodes
        if not isinstance(child, nodes.TemplateData)
    ]


def _fields(tree: nodes.Template, named: set[str]) -> frozenset[str]:
    names = named - set(_ENVIRONMENT.globals)
    if ROW not in names:
        return frozenset(names)
    spelled, uses = set(), 0
    for used in tree.find_all(nodes.Name):
        uses += used.name == ROW
    for part in tree.find_all((nodes.Getitem, nodes.Getattr)):
        if isinstance(part, nodes.Getitem | nodes.Getattr) and getattr(part.node, "name", None) == ROW:
            name = part.attr if isinstance(part, nodes.Getattr) else getattr(part.arg, "value", None)
            if isinstance(name, str):
                spelled.add(name)
                uses -= 1
    return frozenset((names - {ROW} if uses == 0 else names) | spelled)


def _whole(tree: nodes.Template) -> frozenset[str]:
    """Fields that are taken whole: not by an item, a part, or a choice among their items."""
    partly = set()
    for node in tree.find_all((nodes.Getitem, nodes.Getattr, nodes.Filter)):
        taken = getattr(node, "node", None)
        chooses = not isinstance(node, nodes.Filter) or node.name in ("first", "last", "selectattr", "rejectattr")
        if chooses and isinstance(taken, nodes.Name):
            partly.add(id(taken))
    return frozenset(node.name for node in tree.find_all(nodes.Name) if id(node) not in partly and node.name != ROW)


def _plain_parts(tree: nodes.Template) -> list[tuple[str, bool]] | None:
    """Words and names of a template that has nothing else: (text, is a name)."""
    parts: list[tuple[str, bool]] = []
    for node in tree.body:
        for child in node.nodes if isinstance(node, nodes.Output) else [node]:
            if isinstance(child, nodes.TemplateData):
                parts.append((child.data, False))
            elif isinstance(child, nodes.Name) and child.name not in (*_ENVIRONMENT.globals, ROW):
                parts.append((child.name, True))
            else:
                return None
    return parts


def _child_source(tree: nodes.Template, child: nodes.Node) -> tuple[str, Any]:
    """A printed expression, spelled and compiled, to be tried alone when a row fails."""
    sets = [node for node in tree.body if isinstance(node, nodes.Assign)]
    return spelling(child), nodes.Template([*sets, nodes.Output([child], lineno=1)], lineno=1)


# --- what went wrong with a row ---------------------------------------------------


def _culprit(outputs: Iterable[tuple[str, Any]], row: Mapping[str, Any]) -> str:
    """The first printed expression that cannot be evaluated on this row, as it is spelled; or nothing."""
    for spelled, tree in outputs:
        try:
            with _ENVIRONMENT.rendering():
                template = _ENVIRONMENT.from_string(tree)
                _ENVIRONMENT.concat(_ENVIRONMENT.rendered(template, {**_GLOBALS, **row}))
        except FAULTS:
            return spelled
    return ""


def _row_error(
    error: BaseException, template: Template | Filter, row: Mapping[str, Any], number: int, culprit: str
) -> UserError:
    where, fields = template.where, template.fields - {ROW}
    have = f"its fields are {names(row)}"
    missing = sorted(fields - set(row))
    null = sorted(name for name in fields & set(row) if row[name] is None)
    if missing and isinstance(error, UndefinedError):
        return UserError(
            f"row {number} has no field {', '.join(missing)}; {have}",
            where=where,
            fix=_fix_of_missing(missing[0], where, row),
        )
    if isinstance(error, LimitError):
        what = f"row {number}: the template goes beyond its limits: {error}"
        return UserError(what, where=where, fix=f"mend {where}: it must not make more than the row gives it")
    if isinstance(error, UnprintableError):
        return _unprintable(error, template, row, number, culprit)
    if null:
        what = f"row {number}: field {', '.join(null)} is null; {have}"
        fix = f'leave such rows out with data.filter: "{null[0]} is not none"'
    else:
        at = f" (in {{{{ {culprit} }}}})" if culprit else ""
        what = f"row {number}: {type(error).__name__}: {shown(str(error))}{at}; {have}"
        fix = f"mend {where} (numbers from CSV are text: {{{{ score | float }}}})"
        if isinstance(error, UndefinedError):
            fix = chat_fix(row) or f"mend {where}, or leave such rows out with data.filter"
    return UserError(what, where=where, fix=fix)


def _unprintable(
    error: UnprintableError, template: Template | Filter, row: Mapping[str, Any], number: int, culprit: str
) -> UserError:
    """The error for a value that is no text, with the field or expression that it comes from."""
    what, where = str(error), template.where
    spelled = culprit
    if not culprit or what.startswith(("is ", "'", '"')) or culprit == _NAMELESS or what.startswith(_NAMELESS):
        found = next((name for name in sorted(template.fields & set(row)) if not _is_text(row[name])), "")
        only = next(iter(template.fields)) if len(template.fields) == 1 else "a value"
        spelled = found or culprit.partition(" | ")[0] or only
        what = f"{spelled} {what.removeprefix(_NAMELESS).strip()}"
    if what == f"{spelled} is null" and spelled in row:
        what = f"field {spelled} is null"
    chat = "" if what.endswith((" is null", " is NaN")) else chat_fix(row)
    fix = chat or error.fix.replace("{}", spelled).replace(_NAMELESS, spelled)
    return UserError(f"row {number}: {shown(what)}; its fields are {names(row)}", where=where, fix=shown(fix))


def _is_text(value: Any) -> bool:
    try:
        as_text(value)
    except UnprintableError:
        return False
    return True


def _fix_of_missing(name: str, where: str, row: Mapping[str, Any]) -> str:
    if chat := chat_fix(row):
        return chat
    spelled = [field for field in row if not field.isidentifier() and field.startswith(name)]
    if spelled:
        return f"write {{{{ row[{shown(spelled[0])!r}] }}}}: Jinja reads that name otherwise"
    close = get_close_matches(name, [str(field) for field in row][:1000], n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f'{hint}name one of those in {where}, or leave such rows out with data.filter: "{name} is defined"'


def chat_fix(row: Mapping[str, Any]) -> str:
    """What to write for the first question and answer of a field that holds a conversation; empty where none does."""
    for field, turns in row.items():
        if not isinstance(turns, list) or not turns or not all(isinstance(turn, Mapping) for turn in turns):
            continue
        text = next((key for key in ("content", "value") if key in turns[0]), None)
        roles = [str(turn.get("role", turn.get("from", ""))) for turn in turns[:50]]
        asked = next((index for index, role in enumerate(roles) if role in ("user", "human")), None)
        if text is None or asked is None:
            continue
        answered = next((i for i, role in enumerate(roles) if i > asked and role in ("assistant", "gpt", "bot")), None)
        if answered is None:
            return f'leave rows without an answer out with data.filter: "{field} | length > {asked + 1}"'
        parts = "[0].text" if isinstance(turns[asked].get(text), list) else ""
        return (
            f'a conversation is not read as a whole yet; for its first question and answer write data.prompt: "{{{{ '
            f'{field}[{asked}].{text}{parts} }}}}" and data.response: "{{{{ {field}[{answered}].{text}{parts} }}}}"'
        )
    return ""


def check_text(text: str, where: str, number: int) -> None:
    """Refuse a text that no file and no tokenizer holds.

    Raises:
        UserError: half of a surrogate pair, or NUL.
    """
    if "\0" in text:
        what, fix = "holds a NUL character", "take it out: {{ name | replace('\\x00', '') }}"
    elif not text.isascii() and (half := next((c for c in text if "\ud800" <= c <= "\udfff"), None)):
        what, fix = f"holds half of a surrogate pair, \\u{ord(half):04x}, which is no character", "mend the source"
    else:
        return
    raise UserError(f"row {number}: the text {what}", where=where, fix=fix)


def names(row: Mapping[str, Any]) -> str:
    """The fields of a row for an error: the first few."""
    listed = sorted(str(name) for name in row)
    more = f" and {len(listed) - 20} more" if len(listed) > 20 else ""
    return shown(", ".join(name[:60] for name in listed[:20]) or "none") + more


def shown(text: str) -> str:
    """A text from a file as an error may print it: one line, no control characters, not long."""
    return one_line(text, 500)
