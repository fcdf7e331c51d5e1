"""What a template may print of a row: texts, numbers and dates. Anything else is refused, with the way to say it."""

from __future__ import annotations

import datetime
import decimal
import math
import threading
import uuid
from collections.abc import Mapping
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import StrictUndefined, nodes, pass_environment
from jinja2.runtime import Undefined

from distill2edge.templating.bounded import BoundedEnvironment, Counting, through
from distill2edge.templating.chat_template import to_json

_PLAIN = (int, decimal.Decimal, datetime.date, datetime.time, datetime.timedelta, uuid.UUID)
MISSING = frozenset({"NaN", "nan", "NaT", "<NA>"})
"""How tables print a value that is not there."""

NAMELESS = "an expression"
"""What `spelling` says of what it cannot spell."""


class UnprintableError(ValueError):
    """A value that is not text.

    Args:
        what: `is null`, `is a list`, ...
        fix: what to write instead; `{}` stands for the expression.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class NotANumber(float):
    """NaN in a row: compared or reckoned with, it would choose a branch that nobody meant."""

    def _refuse(self, *others: object) -> Any:
        raise _not_a_number("NaN")

    __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = __int__ = __round__ = __neg__ = __abs__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = _refuse
    __hash__ = float.__hash__
    __module__ = "builtins"  # Jinja's errors name it


class Unreadable:
    """A cell whose value Python has no form of, such as a date in the year 12,000: any use of it is an error.

    Args:
        what, fix: as of `UnprintableError`.
    """

    def __init__(self, what: str, fix: str) -> None:
        self.what, self.fix = what, fix

    def _refuse(self, *others: object) -> Any:
        raise UnprintableError(self.what, self.fix)

    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __bool__ = __float__ = __int__ = __round__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __neg__ = __abs__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = _refuse
    __getitem__ = __contains__ = __len__ = __iter__ = __call__ = _refuse
    __hash__ = object.__hash__

    def __str__(self) -> str:
        """For people."""
        return f"(a value that {self.what})"


def marked(value: Any) -> Any:
    """The value with each NaN in it as `NotANumber`; itself where there is none."""
    if type(value) is float:
        return NotANumber(value) if value != value else value
    if isinstance(value, dict):
        found = {key: marked(inner) for key, inner in value.items()}
        return found if any(found[key] is not inner for key, inner in value.items()) else value
    if isinstance(value, list | tuple):
        inside = [marked(inner) for inner in value]
        return type(value)(inside) if any(new is not old for new, old in zip(inside, value, strict=True)) else value
    return value


def as_text(value: Any) -> str:
    """A value as it is trained on.

    Raises:
        UnprintableError: null, NaN or infinite, a list or object, bytes, a method: anything but texts, numbers, dates.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, _PLAIN):
        if isinstance(value, decimal.Decimal) and not value.is_finite():
            raise _not_a_number("NaN" if value.is_nan() else "infinite")
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _not_a_number("NaN" if math.isnan(value) else "infinite")
        return str(value)
    if isinstance(value, Undefined):
        return str(value)  # raises what Jinja has to say
    if isinstance(value, Unreadable):
        raise UnprintableError(value.what, value.fix)
    raise _no_text(value)


def missing(text: str, spelled: str) -> UnprintableError:
    """The error for a text that stands for a missing value."""
    return UnprintableError(
        f"{spelled} is the text {text!r}, which stands for a missing value",
        f"leave such rows out with data.filter: \"{spelled} != '{text}'\"",
    )


def _not_a_number(what: str) -> UnprintableError:
    return UnprintableError(f"is {what}", 'leave such rows out with data.filter: "{} == {}"')


def _no_text(value: Any) -> UnprintableError:
    if value is None:
        return UnprintableError("is null", 'leave such rows out with data.filter: "{} is not none"')
    if isinstance(value, Mapping):
        names = [str(name) for name in list(value)[:6]]
        return UnprintableError(
            f"is an object ({', '.join(names)})",
            f"name the part that is meant, as in {{{{ {{}}['{(names or ['x'])[0]}'] }}}}, or ask for all of it: "
            "{{ {} | tojson }}",
        )  # fmt: skip
    if isinstance(value, list | tuple):
        return UnprintableError(
            f"is a list of {len(value)}", "name the item that is meant, as in {{ {}[0] }}, or ask for all of it: "
            "{{ {} | join(', ') }}, {{ {} | tojson }}"
        )  # fmt: skip
    if isinstance(value, bytes):
        return UnprintableError("is bytes", "write the source with text in that field, or {{ {}.decode('utf-8') }}")
    if isinstance(value, MethodType | BuiltinMethodType | FunctionType):
        name = getattr(value, "__name__", "")
        return UnprintableError(
            f"is a method ({name})", f"call it, as in {{{{ {{}}() }}}}, or name the field ['{name}'] if there is one"
        )
    return UnprintableError(f"is not text ({type(value).__name__})", "name a part of it that is text")


# --- the environment of rows --------------------------------------------------


class _Printing(Counting):
    """Sends what is printed through the environment too, with its own spelling for errors."""

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        spelled = [spelling(child) for child in node.nodes]
        self.generic_visit(node)
        node.nodes = [
            child if isinstance(child, nodes.TemplateData)
            else through("printed", child, nodes.Const(name, lineno=child.lineno))
            for child, name in zip(node.nodes, spelled, strict=True)
        ]  # fmt: skip
        return node


class _Render(threading.local):
    """The present render of a thread: what it printed so far, which texts stand for a missing value, whether a
    comparison with NaN is refused, and whether lists are printed."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.missing: frozenset[str] = frozenset()
        self.strict = True
        self.lists = False


class RowEnvironment(BoundedEnvironment):
    """Templates over a row: names must be there, and what is printed must be text."""

    counting = _Printing

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, autoescape=False)
        self.filters |= {
            "tojson": self.counted_filter("tojson", _exact_json),
            "string": self.counted_filter("string", _whole),
            "int": self.counted_filter("int", pass_environment(_number(int, self.filters["int"]))),
            "float": self.counted_filter("float", pass_environment(_number(float, self.filters["float"]))),
        }
        self.tests |= {"readable": lambda value: not isinstance(value, Unreadable)}
        self.render = _Render()

    def as_text(self, value: Any) -> str:
        """As the module's `as_text`."""
        return as_text(value)

    def printed(self, value: Any, spelled: str) -> str:
        """What `{{ spelled }}` prints.

        Raises:
            UnprintableError: no text; says which expression.
        """
        try:
            listed = self.render.lists and isinstance(value, list | tuple)
            text = _exact_json(value) if listed else as_text(value)
        except UnprintableError as error:
            raise UnprintableError(f"{spelled} {error}", error.fix.replace("{}", spelled)) from error
        if text in self.render.missing:
            raise missing(text, spelled)
        self.render.shown.append(text)
        return text

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of an object before a method of the same name: `row.items`, `row.count`."""
        if isinstance(obj, Unreadable):
            as_text(obj)
        own = isinstance(obj, Mapping) and attribute in obj
        return obj[attribute] if own else super().getattr(obj, attribute)

    def strict(self, value: Any) -> Any:
        """What a filter made of a value: NaN is refused in a template, and can be asked for in data.filter."""
        return marked(value) if self.render.strict else value


def _exact_json(value: Any, indent: int | None = None) -> str:
    try:
        return to_json(value, indent=indent) if _finite(value) else ""
    except TypeError:  # a date, a decimal, bytes: alone or inside
        if not isinstance(value, Mapping | list | tuple):
            as_text(value)
            raise UnprintableError("is nothing that JSON has", "print it as it is: {{ {} }}") from None
        raise UnprintableError(
            "is a list or object with dates, decimals or bytes in it, which JSON does not have",
            "name the part that is meant: {{ {}['part'] }}",
        ) from None
    except RecursionError:
        raise UnprintableError("is nested too deeply for tojson", "name a part of it") from None


def _finite(value: Any) -> bool:
    """True; or an error where a number in it is NaN or infinite."""
    if isinstance(value, float):
        as_text(value)
    elif isinstance(value, Mapping):
        all(_finite(inner) for inner in value.values())
    elif isinstance(value, list | tuple):
        all(_finite(inner) for inner in value)
    return True


def _whole(value: Any) -> str:
    """The filter `string`: asks for the text of a list or object too."""
    return str(value) if _finite(value) and isinstance(value, list | tuple | Mapping) else as_text(value)


def _number(kind: type, default: Any) -> Any:
    """The filters `int` and `float` without Jinja's silent 0: no number and no default is an error."""

    def number(environment: Any, value: Any, *rest: Any, **options: Any) -> Any:
        if rest or options:
            return environment.strict(default(value, *rest, **options))
        if value is None or isinstance(value, Undefined):
            as_text(value)
        try:
            return environment.strict(kind(value) if not isinstance(value, str) or kind is float else int(value, 10))
        except (TypeError, ValueError, OverflowError):
            try:
                return int(float(value))
            except (TypeError, ValueError, OverflowError):
                raise UnprintableError(
                    f"is {str(value)[:40]!r}, which is not a number",
                    f"give a default, as in {{{{ {{}} | {kind.__name__}(0) }}}}",
                ) from None

    return number


def spelling(node: nodes.Node) -> str:
    """An expression as its author may have written it; long ones are cut short."""
    match node:
        case nodes.Name():
            return node.name
        case nodes.Getattr():
            return f"{spelling(node.node)}.{node.attr}"
        case nodes.Getitem():
            return f"{spelling(node.node)}[{spelling(node.arg)}]"
        case nodes.Const():
            return repr(node.value)[:40]
        case nodes.Neg():
            return f"-{spelling(node.node)}"
        case nodes.Filter() if node.node is not None:
            return f"{spelling(node.node)} | {node.name}"
        case nodes.Call():
            return f"{spelling(node.node)}()"
    return NAMELESS
