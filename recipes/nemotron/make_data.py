"""Sums of two numbers below 100, answered from the last digit on (37 plus 58: -> 590): train.jsonl and test.jsonl.

python recipes/nemotron/make_data.py [DIRECTORY]

Written from the last digit on, a small decoder can carry as a person does (Lee 2023, arXiv 2307.03381). No sum is in
both files, and every run writes the same rows.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

TRAIN, TEST = 5000, 1000


def main(directory: Path) -> None:
    """Write both files."""
    pairs = [(a, b) for a in range(100) for b in range(100)]
    random.Random(20231).shuffle(pairs)
    directory.mkdir(parents=True, exist_ok=True)
    for name, part in (("test", pairs[:TEST]), ("train", pairs[TEST : TEST + TRAIN])):
        rows = ({"prompt": f"{a:02d} plus {b:02d}:", "response": f"{a + b:03d}"[::-1]} for a, b in part)
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (directory / f"{name}.jsonl").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data")
