"""The quickstart's figures from a finished run with its control arm: scores with intervals, time, sizes, speed-ups.

distill2edge run recipes/quickstart.yaml --set distill.control=true
python benchmarks/quickstart.py runs/quickstart
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import bar, write_result


def main() -> None:
    """Read the run's report, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory with the control arm")
    report: dict[str, Any] = json.loads((parser.parse_args().run / "report.json").read_text(encoding="utf-8"))
    models = {model["id"]: model for model in report["models"]}
    # The main job has no control arm: its training is evidence and is not part of the time.
    seconds = {s["stage"]: s["wall_s"] for s in report["stages"] if not s["stage"].endswith(" control")}
    files = [model for name, model in models.items() if name.startswith("student/")]
    gap = models["student"]["score"]["value"] - models["control"]["score"]["value"]
    write_result(
        "quickstart",
        "distill2edge run recipes/quickstart.yaml --set distill.control=true && "
        "python benchmarks/quickstart.py runs/quickstart",
        description="movie sentiment, SmolLM2-135M to its lowest layers; one seed",
        bars=[
            bar("quickstart: stages from an empty store", sum(seconds.values()), "<=", 600, unit="s"),
            bar("quickstart: least score kept by a file", min(m["retained"]["value"] for m in files), ">=", 0.95),
            bar("quickstart: student - control, accuracy", gap, ">=", 0.0, note="one seed, no paired test"),
        ],
        samples={f"seconds {stage}": [wall] for stage, wall in seconds.items()},
        metrics={
            "models": {
                name: {key: model[key] for key in ("score", "retained", "kl_student", "size_bytes", "parameters")}
                for name, model in models.items()
            },
            "speedups": report["bench"]["speedups"],
        },
        seeds=[report["seed"]],
    )


if __name__ == "__main__":
    main()
