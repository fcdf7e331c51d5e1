"""Jinja templates that come from elsewhere: sandboxed, and with an end in time and memory.

Every template of a recipe, a data set or a model file is rendered here. Jinja's own sandbox closes attributes; this one
also counts. A render may spend so many steps: one for each turn of a loop, call, filter and printed value, and what
an operation makes by its size (`weights`). What would make much more than it is given
(`'x' * 10**10`, `center(10**9)`) is paid before it is made. A limit on processor time stands behind that.

Methods are a short list by type (`allowed`): a template has no need of others, and a value of a type that is not in
it cannot be called at all.
"""

from __future__ import annotations

import datetime
import functools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import BuiltinMethodType, FunctionType, MethodType
from typing import Any

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.filters import make_attrgetter
from jinja2.meta import TrackingCodeGenerator
from jinja2.runtime import BlockReference, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from distill2edge.templating.allowed import DATA, METHODS, OF_ITEMS, OF_TEXT, PLAIN
from distill2edge.templating.weights import (
    CHARACTERS,
    LimitError,
    filter_weight,
    format_weight,
    method_weight,
    result_weight,
    weight,
)

STEPS = 250_000
SECONDS = 2.0  # of processor time
SOURCE = 200_000  # characters of a template
_CLOCK = 128  # steps between two looks at the clock
_FOLDED = 1_000  # steps for the constants of a template, while it is compiled

# What reading or compiling a template can raise, hostile nesting included.
COMPILE_FAULTS = (TemplateError, SyntaxError, RecursionError, MemoryError, ValueError, OverflowError, TypeError)
# What rendering one can raise over any values.
FAULTS = (
    *(TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError),
    *(RecursionError, MemoryError),
)

_OPEN = (*METHODS, LoopContext, Macro, BlockReference, Cycler, Joiner, Namespace, Undefined)


class Meter(threading.local):
    """What the render of this thread has left."""

    left = 0
    look = 0
    until = 0.0

    def start(self, steps: int) -> None:
        """Begin a render."""
        self.left, self.look, self.until = steps, steps - _CLOCK, 0.0

    def spend(self, steps: int) -> None:
        """Take steps off.

        Raises:
            LimitError: none are left, or no time.
        """
        self.left -= steps
        if self.left < self.look:
            if self.left < 0:
                raise LimitError("it needs more steps or memory than a template may have")
            now = time.thread_time()  # first asked here: short renders never do
            self.until = self.until or now + SECONDS
            if now > self.until:
                raise LimitError(f"it takes longer than {SECONDS:.0f} s")
            self.look = self.left - _CLOCK


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's immutable sandbox, with limits.

    Compile with `compiled` and render inside `rendering()`; outside of it a template has no steps.

    Args:
        steps: of one render.
        options: as `jinja2.Environment` takes them.
    """

    counting: type[Counting]
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, steps: int = STEPS, **options: Any) -> None:
        super().__init__(optimized=False, **options)  # the optimizer needs n^3 steps for n filters in a row
        self.steps, self.meter = steps, Meter()
        for name in ("random", "urlize", "xmlattr", "pprint"):  # not reproducible, or without a bound
            self.filters.pop(name)
        self.globals.pop("lipsum")
        self.filters = {name: self.counted_filter(name, each) for name, each in self.filters.items()}

    @contextmanager
    def rendering(self, steps: int | None = None) -> Iterator[Meter]:
        """Where a template may run: it has all its steps, or so many, and they end with the block."""
        self.meter.start(self.steps if steps is None else min(steps, self.steps))
        try:
            yield self.meter
        finally:
            self.meter.left = 0

    def rendered(self, template: Any, values: dict[str, Any]) -> Iterator[str]:
        """What a template prints, piece by piece, over these values and no others: `globals` must be among them."""
        pieces: Iterator[str] = template.root_render_func(template.new_context(values, shared=True))
        return pieces

    def compiled(self, source: str) -> Any:
        """A template.

        Raises:
            TemplateError, SyntaxError, RecursionError, ...: `COMPILE_FAULTS`.
        """
        if len(source) > SOURCE:
            raise LimitError(f"it has {len(source):,} characters, and {SOURCE:,} are allowed")
        with self.compiling():
            return self.from_string(source)

    @contextmanager
    def compiling(self) -> Iterator[None]:
        """Where a template may be compiled: Jinja computes constants then, and later what was too much for now."""
        self.meter.start(_FOLDED)
        try:
            yield
        finally:
            self.meter.left = 0

    # --- what Jinja calls -------------------------------------------------------

    def _generate(self, source: nodes.Template, *args: Any, **options: Any) -> str:
        return super()._generate(self.counting().visit(source), *args, **options)

    def concat(self, pieces: Iterable[str]) -> str:
        """Join what a template printed."""
        kept, spend = [], self.meter.spend
        for piece in pieces:
            spend(1 + len(piece) // CHARACTERS)
            kept.append(piece)
        return "".join(kept)

    def joined(self, values: list[Any]) -> str:
        """The operator `~`."""
        return self.concat([self.as_text(value) for value in values])

    def as_text(self, value: Any) -> str:
        """A value where a text is needed."""
        return str(value)

    def counted(self, values: Any) -> Any:
        """What a loop runs over."""
        if isinstance(values, Undefined):
            return values
        return _counted(values, self.meter.spend)

    def sliced(self, value: Any, start: Any, stop: Any, step: Any) -> Any:
        """`value[start:stop:step]`."""
        part = value[start:stop:step]
        self.meter.spend(weight(part))
        return part

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """`+`, `*`, `**` and `%`, paid before they are computed."""
        if operator == "%" and isinstance(left, str | bytes):
            if isinstance(left, bytes):
                raise SecurityError("bytes are not formatted in a template")
            by_name = isinstance(right, Mapping) and "%(" in left
            right = right if by_name or isinstance(right, tuple) else (right,)
            self.meter.spend(format_weight(left, right))
            right = self._printable(right)
        else:
            self.meter.spend(1 + result_weight(operator, left, right))
        result = super().call_binop(context, operator, left, right)
        self.meter.spend(weight(result))
        return result

    def call(self, context: Any, obj: Any, /, *args: Any, **options: Any) -> Any:
        """Any call: of a macro, a loop, a function of ours or a method on the list."""
        self.meter.spend(1)
        owner = getattr(obj, "__self__", None)
        if owner is self:  # the calls that `Counting` put in
            return obj(*args)
        if isinstance(obj, BuiltinMethodType | MethodType) and isinstance(owner, DATA):
            args = self._method(owner, obj.__name__, args, tuple(options.values()))
        elif isinstance(obj, LoopContext):  # a recursive loop
            args = (self.counted(args[0]), *args[1:]) if args else args
        elif not self._callable(obj, owner):
            raise SecurityError(f"a {type(obj).__name__} cannot be called in a template")
        result = super().call(context, obj, *args, **options)
        self.meter.spend(weight(result))
        return result

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Attributes of plain data and of Jinja's own objects alone: others may run code."""
        return super().is_safe_attribute(obj, attr, value) and isinstance(obj, _OPEN)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format`, paid before it is computed."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text = value.__self__

        def bounded(*args: Any, **options: Any) -> str:
            self.meter.spend(format_weight(text, (*args, *options.values())))
            return wrapped(*self._printable(args), **self._printable(options))

        bounded.bounded = True  # type: ignore[attr-defined]
        bounded.__name__ = "format"
        return bounded

    # --- ours -------------------------------------------------------------------

    def _printable(self, values: Any) -> Any:
        """Arguments of a format, as text where they are no numbers; `as_text` of a subclass may refuse some."""
        if isinstance(values, tuple):
            return tuple(self._formatted(value) for value in values)
        return {key: self._formatted(value) for key, value in values.items()}

    def _formatted(self, value: Any) -> Any:
        text = self.as_text(value)
        return value if isinstance(value, int | float | datetime.date | datetime.time) else text

    def _callable(self, obj: Any, owner: Any) -> bool:
        if isinstance(obj, Macro | BlockReference | Undefined | Cycler | Joiner) or getattr(obj, "bounded", False):
            return True
        if isinstance(obj, MethodType):
            return isinstance(owner, LoopContext | Cycler | Joiner | Extension)
        return isinstance(obj, FunctionType | type) and any(obj is each for each in self.globals.values())

    def _method(self, owner: Any, name: str, args: tuple[Any, ...], named: tuple[Any, ...]) -> tuple[Any, ...]:
        kind = next((kind for kind in METHODS if isinstance(owner, kind)), None)
        if kind is None or name not in METHODS[kind]:
            raise SecurityError(f"the method {name} of {type(owner).__name__} is not open to templates")
        if name == "join" and args:
            pieces = [self.as_text(piece) for piece in self.counted(args[0])]
            args = (pieces, *args[1:])
        self.meter.spend(method_weight(owner, name, (*args, *named)))
        return args

    def _join(self, value: Any, d: Any = "", attribute: Any = None) -> tuple[list[str], list[str], dict[str, Any]]:
        """The arguments of the filter `join`, each item as text."""
        get = make_attrgetter(self, attribute) if attribute is not None else None
        return [self.as_text(get(item) if get else item) for item in self.counted(value)], [str(d)], {}

    def counted_filter(self, name: str, function: Any) -> Any:
        """A filter that pays for what it makes."""
        takes_environment = hasattr(function, "jinja_pass_arg")
        plain = 1 + takes_environment if name in PLAIN else -1  # arguments of the quick way
        quick: tuple[type, ...] = (str, int, float) if name in ("abs", "float", "int") else (str,)

        @functools.wraps(function)
        def counted(*args: Any, **options: Any) -> Any:
            if len(args) == plain and not options and isinstance(args[-1], quick):
                self.meter.spend(1 + weight(args[-1]))
                return function(*args)
            head, (value, *rest) = (args[:1], args[1:]) if takes_environment else ((), args)
            if name in OF_TEXT:
                value = value if isinstance(value, str) else self.as_text(value)
            elif name in OF_ITEMS and not isinstance(value, str):
                value = self.counted(value)
            if name == "join":
                value, rest, options = self._join(value, *rest, **options)
            elif name in ("format", "replace"):
                rest = list(self._printable(tuple(rest)))
            elif name == "sum" and any(isinstance(each, list | tuple | str) for each in (*rest[1:], *options.values())):
                raise LimitError("the filter sum over lists")
            self.meter.spend(filter_weight(name, value, rest, options))
            result = function(*head, value, *rest, **options)
            self.meter.spend(weight(result))
            return result

        return counted


class Counting(NodeTransformer):
    """Sends loops, `~` and slices through the environment, which counts them."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = through("counted", node.iter)  # type: ignore[arg-type]  # Jinja says Node where it has an Expr
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return through("joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice) or node.ctx != "load":
            return node
        none = nodes.Const(None, lineno=node.lineno)
        return through("sliced", node.node, *(each or none for each in (node.arg.start, node.arg.stop, node.arg.step)))


BoundedEnvironment.counting = Counting


def undeclared(tree: nodes.Template) -> set[str]:
    """The names that a template takes from outside: `meta.find_undeclared_variables` without the optimizer.

    Raises:
        TemplateError, RecursionError, ...: `COMPILE_FAULTS`.
    """
    tracking = TrackingCodeGenerator(tree.environment)  # type: ignore[arg-type]
    tracking.optimizer = None
    tracking.visit(tree)
    return tracking.undeclared_identifiers


def through(name: str, *values: nodes.Expr) -> nodes.Call:
    """The call of a method of the environment on some values."""
    line = values[0].lineno
    function = nodes.EnvironmentAttribute(name, lineno=line)
    return nodes.Call(function, list(values), [], None, None, lineno=line)


def _counted(values: Iterable[Any], spend: Callable[[int], None]) -> Any:
    if isinstance(values, list | tuple | dict | range | str):
        return _Sized(values, spend)
    return _steps(iter(values), spend)


def _steps(values: Iterator[Any], spend: Callable[[int], None]) -> Iterator[Any]:
    for value in values:
        spend(1)
        yield value


class _Sized:
    """A counted iteration that keeps its length, which `loop.last` and `loop.length` ask for."""

    def __init__(self, values: Any, spend: Callable[[int], None]) -> None:
        self._values, self._spend = values, spend

    def __iter__(self) -> Iterator[Any]:
        return _steps(iter(self._values), self._spend)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __reversed__(self) -> Iterator[Any]:
        return _steps(reversed(self._values), self._spend)
