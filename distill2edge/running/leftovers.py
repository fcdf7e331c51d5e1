"""What an earlier run of another shape left in a run directory: files that would look as if they were of the new one.

Only what a run itself writes is removed, and only once the new report is there; what people put beside it stays.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection
from pathlib import Path

from distill2edge.stages import KINDS
from distill2edge.stages.report import Report

PUBLISHED = tuple(name for kind in KINDS.values() for name in kind.published)
"""What a run directory may have of its stages' documents."""
_OF_ONE_RUN = ("exports", "exports.json", "ledger-*.parquet", *(n for n in PUBLISHED if n not in Report.published))
_SEED = re.compile(r"seed-\d+")


def remove_files(out: Path) -> None:
    """Remove what only a run of one seed has: from the directory of several, whose files lie in `seed-N`."""
    for pattern in _OF_ONE_RUN:
        for path in out.glob(pattern):
            _remove(path)


def remove_seeds(out: Path, kept: Collection[Path] = ()) -> None:
    """Remove the `seed-N` of an earlier run over several seeds, but for those that are kept."""
    for place in out.glob("seed-*"):
        if place in kept or place.is_symlink() or not place.is_dir() or not _SEED.fullmatch(place.name):
            continue
        remove_files(place)
        for name in (*PUBLISHED, "recipe.yaml", "run.json"):
            _remove(place / name)
        if not any(place.iterdir()):
            place.rmdir()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
