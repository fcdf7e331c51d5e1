"""Paths in a recipe start at the recipe's own folder, wherever the command is given (docs/decisions/0012)."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ValidationInfo

FOLDER = "folder"
"""Of a validation's context: the folder of the recipe's file."""


class Located(str):
    """A path or name as the recipe writes it, which also knows the recipe's folder.

    It stays the written text everywhere (keys, manifests, reports); only `locate` follows it.
    """

    folder: Path | None

    def __new__(cls, text: str, folder: Path | None = None) -> Located:
        """The text, and where relative paths in it start."""
        self = super().__new__(cls, text)
        self.folder = folder
        return self


def locate(text: str) -> Path:
    """Where a written path leads: from the recipe's folder; else, where it exists there alone, from the current one."""
    path, folder = _expanded(text), getattr(text, "folder", None)
    if folder is None or path.is_absolute():
        return path
    beside = Path(folder) / path
    return path if not _exists(beside) and _exists(path) else beside


def located(section: Any) -> Iterator[Located]:
    """Every path or name in a recipe that is followed from the recipe's folder."""
    if isinstance(section, Located):
        yield section
    elif isinstance(section, BaseModel):
        for name in type(section).model_fields:
            yield from located(getattr(section, name))
    elif isinstance(section, tuple | list):
        for value in section:
            yield from located(value)


def is_astray(text: str) -> bool:
    """Whether a path is found from the current directory alone, so that the recipe works nowhere else."""
    folder = getattr(text, "folder", None)
    return folder is not None and start_of(text) not in (None, Path(folder))


def start_of(text: str) -> Path | None:
    """The folder that a relative path was found from; None where it is absolute, or no path to anything here."""
    path, folder = _expanded(text), getattr(text, "folder", None)
    if path.is_absolute():
        return None
    places = [Path(folder)] if folder is not None else []
    return next((place for place in (*places, Path()) if _exists(place / path)), None)


def tried(text: str) -> str:
    """For messages: the folders in which a path was looked for."""
    folder = getattr(text, "folder", None)
    here = Path.cwd()
    if folder is None or Path(folder).resolve() == here:
        return f"paths start at {here}"
    return f"paths start at the recipe's folder, {Path(folder).resolve()} (it is not in {here} either)"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user that this machine does not have
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists() or ("*" in str(path) and any(True for _ in glob.iglob(str(path))))
    except (OSError, ValueError):  # a name too long for the system, or with a null byte
        return False


def _with_folder(text: Any, info: ValidationInfo) -> Any:
    folder = (info.context or {}).get(FOLDER)
    return Located(text, folder) if folder is not None else text


PathText = Annotated[str, AfterValidator(_with_folder)]
