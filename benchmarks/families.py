"""Every family of docs/models.md, taken the whole way as a tiny randomly initialised model: tests/family_matrix.py.

Each in a process of its own. `make docs` then writes the page from the result file.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import RESULTS, ROOT, bar, write_result

sys.path.insert(0, str(ROOT / "tests"))

from family_matrix import CELLS, FAMILIES, taken_through

SECONDS = 900
LEAST = 24, 24, 23, 17, 17, 17
"""Families that each cell of the page is to hold for."""


def main() -> None:
    """Run them all, or some again, and write results/families.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="*", default=list(FAMILIES), help="only these; the others are kept")
    parser.add_argument("--one", help="run one here and print what came of it")
    options = parser.parse_args()
    if options.one:
        with tempfile.TemporaryDirectory() as work:
            print(json.dumps(taken_through(options.one, Path(work))))
        return
    path = RESULTS / "families.json"
    kept = json.loads(path.read_text(encoding="utf-8"))["samples"] if path.is_file() else {}
    found: dict[str, Any] = {name: kept[name] for name in FAMILIES if name in kept}
    for name in options.families:
        start = time.monotonic()
        found[name] = run(name)
        cells = ", ".join(cell if each["ok"] else f"NO {cell} ({each['why']})" for cell, each in found[name].items())
        print(f"{name}: {cells} ({time.monotonic() - start:.0f} s)", flush=True)
        write({name: {"model_type": FAMILIES[name].family, **found[name]} for name in FAMILIES if name in found})


def run(name: str) -> dict[str, Any]:
    """One family in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", name], capture_output=True, text=True, timeout=SECONDS, check=False
    )
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        why = f"the process ended with {done.returncode}: {(done.stderr.splitlines() or ['nothing said'])[-1]}"
        return {cell: {"ok": False, "why": why} for cell in CELLS}
    return dict(json.loads(lines[-1]))


def write(found: dict[str, Any]) -> None:
    """The result file; bars count families, once all were tried."""
    complete = len(found) == len(FAMILIES)
    bars = [
        bar(f"families: {cell}", sum(each[cell]["ok"] for each in found.values()), ">=", least)
        for cell, least in zip(CELLS, LEAST if complete else (), strict=complete)
    ]
    write_result(
        "families",
        "python benchmarks/families.py",
        description="tiny randomly initialised models of every family: layers, training, files, each against PyTorch",
        bars=bars,
        samples=found,
        metrics={cell: sum(each[cell]["ok"] for each in found.values()) for cell in CELLS},
        seeds=[0],
    )


if __name__ == "__main__":
    main()
