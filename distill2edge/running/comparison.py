"""Runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.report import compare as comparing
from distill2edge.running import directory
from distill2edge.running.finished import Run
from distill2edge.running.reading import load_report
from distill2edge.util.files import write_text


@dataclass(frozen=True)
class Comparison:
    """Runs side by side. `print(comparison)` shows them as a table.

    Attributes:
        document: what `distill2edge compare --json` prints.
    """

    document: dict[str, Any]

    def write_html(self, path: Path | str) -> None:
        """Write it as a page.

        Raises:
            UserError: a directory, or a place that cannot be written.
        """
        path = Path(path)
        directory.check_place(path.parent)
        if path.is_dir():
            raise UserError("a directory", where=str(path), fix="name a file with --html")
        write_text(path, comparing.render_comparison_html(self.document))

    def __str__(self) -> str:
        return comparing.render_comparison_text(self.document)


def compare(runs: Sequence[Run | Path | str], *, allow_different: bool = False) -> Comparison:
    """Put runs side by side.

        print(d2e.compare(["runs/tickets", "runs/smaller"]))

    Args:
        allow_different: warn, instead of refusing, where machine, workload, test data or price date differ.

    Raises:
        UserError: fewer than two runs, or runs that don't compare.
    """
    given = [runs] if isinstance(runs, str) else runs
    paths = [run.path if isinstance(run, Run) else Path(run) for run in given]
    return Comparison(comparing.compare([load_report(path) for path in paths], allow=allow_different))
