"""A file of the user's own code: run because the user names it, and never because a recipe does."""

from __future__ import annotations

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True)
class Source:
    """The file that something of the user's own comes from.

    Attributes:
        sha256: of its bytes; it enters the keys of the stages that use what the file registers.
        registered: names, in order.
    """

    path: Path
    sha256: str
    registered: list[str] = field(default_factory=list)


_loading: ContextVar[Source | None] = ContextVar("loading", default=None)


def load_plugin(path: Path) -> Source:
    """Run a Python file that calls `register_loss` or `register_verifier`. It has the rights of the user.

    The file stands alone: what it imports is installed, as its own bytes are all that stage keys know of it.

    Raises:
        UserError: no such file, a mistake in it, or it registers nothing.
    """
    where = f"plugin {path}"
    try:
        code = Path(path).read_bytes()
        compiled = compile(code, str(path), "exec", dont_inherit=True)
    except OSError as error:
        raise UserError(f"it cannot be read: {error.strerror}", where=where, fix="name a Python file") from None
    except (SyntaxError, ValueError) as error:
        line = f":{error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        raise UserError(f"not Python: {error}", where=f"{where}{line}", fix="correct the file") from None
    source = Source(Path(path).resolve(), hashlib.sha256(code).hexdigest())
    module = ModuleType(f"distill2edge_plugin_{source.sha256[:16]}")
    module.__file__ = str(source.path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look there
    with _as_loading(source):
        try:
            exec(compiled, module.__dict__)
        except UserError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's own code raises is for the user to correct
            raise failure(error, where, "correct the file") from error
    if not source.registered:
        raise UserError("it registers nothing", where=where, fix="call register_loss or register_verifier in it")
    return source


def source_of(function: Callable[..., Any], name: str) -> Source:
    """The file that registers a function: the plugin that is being loaded, or else the function's own file.

    Args:
        name: that it is registered by.

    Raises:
        UserError: a function that was typed in: nothing says when it changes.
    """
    source = _loading.get()
    if source is None:
        try:
            path = Path(inspect.getsourcefile(function) or "")
            source = Source(path.resolve(), hashlib.sha256(path.read_bytes()).hexdigest())
        except (TypeError, OSError):
            raise UserError(
                "its source cannot be read, so no stage could tell when it changes",
                where=name,
                fix="put the function into a file",
            ) from None
    source.registered.append(name)
    return source


def check_new(name: str, taken: Source | None, source: Source) -> None:
    """Let the same file register a name again, and no other.

    Raises:
        UserError: two files register one name.
    """
    if taken is not None and taken.path != source.path:
        raise UserError(f"{name!r} is registered by {taken.path} already", where=str(source.path), fix="rename one")


def failure(error: BaseException, where: str, fix: str) -> UserError:
    """What the user's own code raised, with the line that did."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f", line {frames[-1].lineno} of {Path(frames[-1].filename).name}" if frames else ""
    return UserError(f"{type(error).__name__}: {error}{line}", where=where, fix=fix)


@contextmanager
def _as_loading(source: Source) -> Iterator[None]:
    token = _loading.set(source)
    try:
        yield
    finally:
        _loading.reset(token)
