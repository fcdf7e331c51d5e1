"""Which functions several processes run together, and the group that a run has for them.

How many processes train is a matter of the user's machines and no part of a recipe or a key: the rows of a step, their
order and what the loss is divided by are the same for any number.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

from distill2edge.recipe.section import Section, files_of
from distill2edge.util.progress import Progress

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Job:
    """A call that every process of a group makes.

    Attributes:
        function: `module:name`, decorated with `together`.
        arguments: by name, all but the progress; they can be pickled.
        stage: the name of the stage that it is of.
    """

    function: str
    arguments: Mapping[str, Any]
    stage: str

    @property
    def files(self) -> list[Path]:
        """The files of the user's own code that its sections use."""
        sections = [value for value in self.arguments.values() if isinstance(value, Section)]
        return list(dict.fromkeys(path for section in sections for path in files_of(section)))

    @property
    def batches(self) -> list[int]:
        """The batch sizes that its sections name."""
        return [value.batch_size for value in self.arguments.values() if hasattr(value, "batch_size")]


class Group(Protocol):
    """Processes that make a call together."""

    def call(self, job: Job, progress: Progress) -> Any:
        """Let all of them make it; what process 0 returns.

        Raises:
            UserError: of any of them, once; or one of them has ended.
            Stopped: the run was asked to end, and all that had to be written is.
        """


_group: ContextVar[Group | None] = ContextVar("group", default=None)


@contextmanager
def trained_by(group: Group | None) -> Iterator[None]:
    """Let the group make the calls of functions that are decorated with `together` while the block runs."""
    token = _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)


def together(function: F) -> F:
    """A function of the module's top level, with an argument `progress`, that all processes of the run's group call.

    Without a group it is called here. Process 0 reports and writes; all others return what they like.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        group = _group.get()
        if group is None:
            return function(*args, **kwargs)
        bound = signature.bind(*args, **kwargs)
        progress = bound.arguments.pop("progress")
        job = Job(f"{function.__module__}:{function.__qualname__}", dict(bound.arguments), progress.stage)
        with trained_by(None):
            return group.call(job, progress)

    return cast(F, call)
