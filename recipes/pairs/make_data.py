"""Two film reviews, and how much better the first film is said to be: train, validation and test.jsonl.

python recipes/pairs/make_data.py [DIRECTORY]

The reviews are those of bundled:movie-sentiment, each with the mean score (-4 to 4) that people gave. Every review is
in one pair alone, so no text of a test pair was trained on, and every run writes the same rows.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from distill2edge.intake import bundled
from distill2edge.util.progress import SilentProgress

PAIRS = {"test": 500, "validation": 200, "train": 3016}


def main(directory: Path) -> None:
    """Write the three files."""
    known = {row["text"].strip(): float(row["score"]) for row in bundled.rows("movie-sentiment", SilentProgress())}
    reviews = sorted(known.items())
    random.Random(2014).shuffle(reviews)
    left = iter(reviews)
    directory.mkdir(parents=True, exist_ok=True)
    for name, count in PAIRS.items():
        lines = []
        for _ in range(count):
            (first, one), (second, other) = next(left), next(left)
            row = {"first": first, "second": second, "better_by": round(one - other, 3)}
            lines.append(json.dumps(row, ensure_ascii=False) + "\n")
        (directory / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
