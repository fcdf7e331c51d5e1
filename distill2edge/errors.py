"""The errors a user can cause or correct: what went wrong, where, and the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

EXIT_DONE = 0
EXIT_INTERNAL = 1
EXIT_USAGE = 2
EXIT_VERDICT = 3
EXIT_ENVIRONMENT = 4


class UserError(Exception):
    """A mistake the user can correct. Rendered without a traceback.

    Args:
        what: one sentence that says what is wrong.
        where: the place, as the user would name it (`recipes/x.yaml:12: student.lora.rank`).
        fix: what to do about it.
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        fix = f"\n  fix: {self.fix}" if self.fix else ""
        return f"{where}{self.what}{fix}"


class EnvironmentFault(UserError):
    """The machine lacks something: a package, a network, disk space, a working runtime."""

    exit_code = EXIT_ENVIRONMENT


@dataclass(frozen=True)
class Problem:
    """Something that keeps a recipe from running.

    Attributes:
        path: of the key at fault.
        what: one sentence.
        fix: what to write in its place.
    """

    path: tuple[str | int, ...]
    what: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.what}: {self.fix}" if self.fix else self.what


class RecipeErrors(UserError):
    """Every error of a recipe at once.

    Args:
        errors: one UserError for each mistake, in file order.
    """

    def __init__(self, errors: list[UserError]) -> None:
        count = len(errors)
        super().__init__(f"{count} error{'s' if count != 1 else ''} in the recipe")
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def fail(what: str, *, where: str = "", fix: str = "") -> NoReturn:
    """Raise a UserError: for use in expressions and guards."""
    raise UserError(what, where=where, fix=fix)
