"""Row fields to prompt and response through bounded Jinja templates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jinja2 import TemplateSyntaxError, nodes

from distill2edge.data.row_errors import corrected_expression, row_error
from distill2edge.data.values import RowEnvironment, UnprintableError, as_text, marked, spelling
from distill2edge.errors import UserError
from distill2edge.templating.bounded import COMPILE_FAULTS, FAULTS, SOURCE, undeclared
from distill2edge.templating.weights import LimitError

ROW = "row"  # the whole row, for names that Jinja cannot spell: row['my column']
_MOST, _PER_ROW, _PER_STEP = 600_000, 2_000, 32  # steps in stock, of a row, and characters of a text for one more
_LONGEST = 32_000_000  # characters of a text

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
        lists: a list is printed too, as JSON.

    Attributes:
        fields: names of the fields it reads; `{"row"}` among them where it takes the row as a whole.
        whole: those that it takes as a whole, not some item or part of them.

    Raises:
        UserError: it isn't valid Jinja.
    """

    def __init__(self, source: str, where: str, missing: frozenset[str] = frozenset(), *, lists: bool = False) -> None:
        self.source, self.where, self.missing, self._lists = source, where, missing, lists
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
            UserError: a field is missing or null, what is printed is not text, an operation fails on this row's values,
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
        state = _ENVIRONMENT.render
        state.shown, state.missing, state.strict, state.lists = [], self.missing, True, self._lists
        values: dict[str, Any] = {}
        try:
            read = row if self._names_row else {name: row[name] for name in self.fields if name in row}
            read = marked(dict(read))
            values = {**_GLOBALS, ROW: read, **read} if self._names_row else {**_GLOBALS, **row, **read}
            with self._credit.rendering(row, self.fields):
                return _ENVIRONMENT.concat(_ENVIRONMENT.rendered(self._template, values))
        except FAULTS as error:
            culprit = _culprit(self._outputs, values)
            raise row_error(error, self.where, self.fields - {ROW}, row, number, culprit) from error


class Filter:
    """A Jinja expression that says whether a row is taken.

    Raises:
        UserError: it isn't a valid expression.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source, self.where = source, where
        try:
            tree, named = _parse("{{ " + source + " }}", where)
        except UserError as error:
            raise UserError(error.what, where=where, fix=corrected_expression(source, where) or error.fix) from error
        if len(tree.body) != 1 or len(_outputs(tree)) != 1:
            fix = corrected_expression(source, where) or 'as in data.filter: "score > 0.5"'
            raise UserError("not one Jinja expression", where=where, fix=fix)
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
            raise row_error(error, self.where, self.fields - {ROW}, row, number) from error

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
            fix="fields are written {{ name }} in templates, and bare in data.filter; a name with spaces, dots or "
            "hyphens is {{ row['my column'] }}",
        ) from error
    except COMPILE_FAULTS as error:
        raise UserError(
            f"a template that cannot be compiled: {type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="make it shorter, and nest less",
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
