"""Hostile and broken input, counted: recipes, GGUF headers, model directories, data files, changes of a store.

The kinds are those of `tests/fuzz/kinds`; a case that fails is printed with the seed and number that replay it.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from typing import Any

from common import ROOT, bar, write_result

sys.path.insert(0, str(ROOT / "tests"))

from fuzz import harness


def main() -> None:
    """Run every kind, or some, and write results/fuzz.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kinds", nargs="*", default=harness.kinds(), help="only these; then nothing is written")
    parser.add_argument("--count", type=int, help="cases of each kind, in place of its own; then nothing is written")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    bars = []
    for kind in options.kinds:
        count = options.count or harness.count_of(kind)
        summary = harness.run(kind, count, options.seed, log=print)
        found[kind] = {"cases": summary.cases, **dataclasses.asdict(summary)}
        print(
            f"{kind}: {summary.cases} cases, {summary.accepted} accepted, {summary.refused} refused, "
            f"{len(summary.tracebacks)} tracebacks, {len(summary.hangs)} hangs, slowest {summary.slowest_s:.2f} s, "
            f"memory +{summary.grown_mb:.0f} MB"
        )
        name = kind.replace("_", " ")
        bars += [
            bar(f"{name}: cases", summary.cases, ">=", harness.count_of(kind)),
            bar(f"{name}: tracebacks", len(summary.tracebacks), "<=", 0),
            bar(f"{name}: hangs over 5 s", len(summary.hangs), "<=", 0),
            bar(f"{name}: memory that the worst case added", summary.grown_mb, "<=", 500, unit="MB"),
        ]
    if options.count or options.kinds != harness.kinds():
        return
    path = write_result(
        "fuzz",
        "python benchmarks/fuzz.py",
        description="seeded hostile and broken inputs of every kind: each accepted or refused with a reason",
        bars=bars,
        samples=found,
        metrics={kind: {"slowest_s": each["slowest_s"], "peak_mb": each["peak_mb"]} for kind, each in found.items()},
        seeds=[options.seed],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
