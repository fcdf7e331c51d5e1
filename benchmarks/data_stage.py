"""The data stage on long sources: processor time by the row, and memory, where 1,300 rows are asked for.

Each size runs in a process of its own. Rows are JSON Lines of a text of 8 to 30 words and a score; filter and response
are expressions, as in the quickstart.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from common import ROOT, bar, write_result

SIZES = (20_000, 200_000, 2_000_000)
SPLITS = {"train": 1000, "validation": 100, "calibration": 100, "test": 100}
EXPRESSIONS = {
    "template": "plain",
    "filter": "score >= 0.5 or score <= -0.5",
    "prompt": "Review: {{ text }}\nSentiment:",
    "response": "{{ ' positive' if score > 0 else ' negative' }}",
    "choices": [" negative", " positive"],
}


def main() -> None:
    """Measure every size, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="measure so many rows in this process, and print the figures")
    options = parser.parse_args()
    if options.rows:
        print(json.dumps(measure(options.rows)))
        return
    found = {}
    for rows in SIZES:
        command = [sys.executable, __file__, "--rows", str(rows)]
        found[str(rows)] = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
        print(f"{rows:,} rows: {found[str(rows)]}", flush=True)
    least, most = found[str(SIZES[0])], found[str(SIZES[-1])]
    grown = most["peak_mb"] - least["peak_mb"]
    path = write_result(
        "data_stage",
        "python benchmarks/data_stage.py",
        description=f"data stage over {SIZES[-1]:,} rows, {sum(SPLITS.values()):,} of which are asked for",
        bars=[
            bar(f"memory that {SIZES[-1]:,} rows take over {SIZES[0]:,}", grown, "<=", 100, unit="MB"),
            bar(f"peak memory at {SIZES[-1]:,} rows", most["peak_mb"], "<=", 400, unit="MB", note="was 1.6 GB"),
            bar(f"processor time at {SIZES[-1]:,} rows", most["cpu_s"], "<=", 124, unit="s", note="half of 247 s"),
        ],
        samples=found,
        metrics={rows: {"microseconds_per_row": 1e6 * each["cpu_s"] / int(rows)} for rows, each in found.items()},
        seeds=[0],
    )
    print(f"written: {path}")


def measure(rows: int) -> dict[str, float]:
    """Processor and wall seconds of the stage alone, and the peak of the whole process in MB."""
    from distill2edge.data.prepare import prepare
    from distill2edge.recipe import schema
    from distill2edge.util.progress import SilentProgress

    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "rows.jsonl")
        _write(source, rows)
        data = schema.Data.model_validate({"source": str(source), "splits": SPLITS, **EXPRESSIONS})
        wall, cpu = time.monotonic(), time.process_time()
        prepare(data, 0, Path(folder, "work"), SilentProgress())
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "peak_mb": round(peak, 1)}


def _write(path: Path, rows: int) -> None:
    random = Random(0)
    words = [f"word{n}" for n in range(3000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            text = " ".join(random.choices(words, k=random.randint(8, 30)))
            file.write(f'{{"text": "{text}", "score": {random.uniform(-4, 4)}}}\n')


if __name__ == "__main__":
    main()
