"""Row fields to prompt and response through sandboxed Jinja templates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, UndefinedError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from distill2edge.errors import UserError

# What an expression over a row's values can raise besides Jinja's own errors.
_FAULTS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)


class _NullError(ValueError):
    """A template prints a value that is null."""


def _refuse_null(value: Any) -> Any:
    # Printed as the word "None" it would be trained on without anyone noticing.
    if value is None:
        raise _NullError
    return value


_ENVIRONMENT = ImmutableSandboxedEnvironment(undefined=StrictUndefined, finalize=_refuse_null, autoescape=False)


class Template:
    """A Jinja template over a row's fields; a field it names must be there and not null.

    Args:
        source: the template's text.
        where: the recipe's key, for errors (`data.prompt`).

    Raises:
        UserError: it isn't valid Jinja.
    """

    def __init__(self, source: str, where: str) -> None:
        self.source, self.where = source, where
        self.fields = _fields(source, where)
        self._template = _ENVIRONMENT.from_string(source)

    def render(self, row: Mapping[str, Any], number: int) -> str:
        """The text for one row; `number` counts from 1 and names the row in errors.

        Raises:
            UserError: a field is missing or null, or an operation fails on this row's values.
        """
        try:
            return self._template.render(row)
        except _FAULTS as error:
            raise _row_error(error, self.fields, self.where, row, number) from error


class Filter:
    """A Jinja expression that says whether a row is taken.

    Raises:
        UserError: it isn't a valid expression.
    """

    def __init__(self, source: str, where: str) -> None:
        self.where = where
        self.fields = _fields("{{ " + source + " }}", where)
        try:
            self._expression = _ENVIRONMENT.compile_expression(source, undefined_to_none=False)
        except TemplateSyntaxError as error:
            raise _syntax_error(error, where) from error

    def takes(self, row: Mapping[str, Any], number: int) -> bool:
        """Whether the expression is true for this row.

        Raises:
            UserError: as `Template.render`.
        """
        try:
            return bool(self._expression(**row))
        except _FAULTS as error:
            raise _row_error(error, self.fields, self.where, row, number) from error


def _fields(source: str, where: str) -> frozenset[str]:
    try:
        return frozenset(meta.find_undeclared_variables(_ENVIRONMENT.parse(source))) - set(_ENVIRONMENT.globals)
    except TemplateSyntaxError as error:
        raise _syntax_error(error, where) from error


def _syntax_error(error: TemplateSyntaxError, where: str) -> UserError:
    return UserError(
        f"not valid Jinja (line {error.lineno}): {error.message}",
        where=where,
        fix="fields are written {{ name }} in templates, and bare in data.filter",
    )


def _row_error(error: Exception, fields: frozenset[str], where: str, row: Mapping[str, Any], number: int) -> UserError:
    have = ", ".join(sorted(row)) or "none"
    missing = sorted(fields - set(row))
    null = sorted(name for name in fields & set(row) if row[name] is None)
    if missing and isinstance(error, UndefinedError):
        what = f"row {number} has no field {', '.join(missing)}; its fields are {have}"
        fix = f'name one of those in {where}, or leave such rows out with data.filter: "{missing[0]} is defined"'
    elif null:
        what = f"row {number}: field {', '.join(null)} is null; its fields are {have}"
        fix = f'leave such rows out with data.filter: "{null[0]} is not none"'
    else:
        what = f"row {number}: {type(error).__name__}: {error}; its fields are {have}"
        fix = f"mend {where} (numbers from CSV are text: {{{{ score | float }}}})"
    return UserError(what, where=where, fix=fix)
