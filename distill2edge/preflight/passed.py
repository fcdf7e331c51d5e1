"""Checks that load a library for seconds and say the same of the same files: passed once, they are not done again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distill2edge.util.machine import versions
from distill2edge.util.remembered import remembered

_BY = ("distill2edge", "tokenizers", "transformers")


def passed(check: Callable[[], object], name: str, models: Iterable[Path], about: Any = None) -> None:
    """Do a check, unless these models have passed it before in the versions that are installed.

    Args:
        check: raises what it finds wrong. That is not remembered.
        name: of the check.
        models: directories and files that it reads.
        about: what it depends on beside them, as JSON.

    Raises:
        UserError: as `check`.
    """

    def find() -> bool:
        check()
        return True

    files = [file for model in models for file in _files(model)]
    remembered("checks", files, [name, versions(_BY), about], find)


def _files(model: Path) -> list[Path]:
    return sorted(path for path in model.iterdir() if path.is_file()) if model.is_dir() else [model]
