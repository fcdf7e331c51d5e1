"""Sentences with what holds of them, any of four labels or none: labelled.jsonl, and bare.jsonl without an answer.

python recipes/multi-label/make_data.py [DIRECTORY]

The sentences are those of bundled:movie-sentiment, amazon-sentiment and nyt-sentiment. `film` and `product` say what
a sentence was written about (a newspaper's has neither); `positive` and `strong` say that its mean score by 20 people,
from -4 to 4, is above 0, and that it is at least 1.5 from 0. None is made by looking for words, and every run writes
the same rows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from distill2edge.intake.bundled import rows
from distill2edge.util.progress import PlainProgress

SOURCES = {"movie-sentiment": "film", "amazon-sentiment": "product", "nyt-sentiment": "newspaper"}
OF_EACH, LABELLED_OF_THREE = 3_500, 1
"""Rows of each source, evenly over it; and how many of three keep their labels."""
STRONG = 1.5
"""Distance from 0 of a strong score."""


def labels(about: str, score: float) -> list[str]:
    """What holds of a sentence."""
    strong = abs(score) >= STRONG
    held = {"film": about == "film", "product": about == "product", "positive": score > 0, "strong": strong}
    return [name for name, holds in held.items() if holds]


def main(directory: Path) -> None:
    """Write both files."""
    directory.mkdir(parents=True, exist_ok=True)
    labelled, bare = (directory / name for name in ("labelled.jsonl", "bare.jsonl"))
    with open(labelled, "w", encoding="utf-8") as known, open(bare, "w", encoding="utf-8") as unknown:
        for source, about in SOURCES.items():
            found = list(rows(source, PlainProgress()))
            for number in range(OF_EACH):
                row = found[number * len(found) // OF_EACH]
                if number % 3 < LABELLED_OF_THREE:
                    line = {"text": row["text"], "labels": labels(about, row["score"])}
                    known.write(json.dumps(line, ensure_ascii=False) + "\n")
                else:
                    unknown.write(json.dumps({"text": row["text"]}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
