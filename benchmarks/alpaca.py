"""Alpaca's figures from a finished run: what was kept and dropped, and how much of the teacher's answers a student has.

distill2edge run recipes/alpaca/alpaca.yaml
python benchmarks/alpaca.py runs/alpaca
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import bar, write_result


def main() -> None:
    """Read the run's report and ledger, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    report: dict[str, Any] = json.loads((parser.parse_args().run / "report.json").read_text(encoding="utf-8"))
    models = {model["id"]: model for model in report["models"]}
    rows = report["ledgers"]["synthesis"]
    seconds = {stage["stage"]: stage["wall_s"] for stage in report["stages"]}
    files = {name: model for name, model in models.items() if name.startswith("student/")}
    gain = models["student"]["score"]["value"] - models["control"]["score"]["value"]
    write_result(
        "alpaca",
        "distill2edge run recipes/alpaca/alpaca.yaml && python benchmarks/alpaca.py runs/alpaca",
        description="self-instruct, evolve and reverse by SmolLM2-135M-Instruct; a student of "
        f"{len(report['student']['layers'])} of its {report['student']['of']} layers",
        bars=[
            bar(
                "alpaca: student / teacher, likelihood of the teacher's held-out answers",
                models["student"]["retained"]["value"],
                ">=",
                0.8,
                note="one seed; the teacher wrote these answers itself",
            ),
            bar(
                "alpaca: distilled - trained on the text alone (as Alpaca), same likelihood",
                gain,
                ">=",
                0.0,
                note="one seed, no paired test",
            ),
            bar("alpaca: largest KL of a file from the student", max(f["kl_student"]["value"] for f in files.values()),
                "<=", 0.3, unit="nats"),
            bar("alpaca: generated rows with a reason in the ledger, of those dropped",
                sum(rows["dropped"].values()) / max(rows["rows"] - rows["kept"], 1), ">=", 1.0),
        ],
        samples={f"seconds {stage}": [wall] for stage, wall in seconds.items()},
        metrics={
            "ledger": rows,
            "rows": report["data"]["splits"],
            "metric": report["metric"],
            "models": {
                name: {
                    key: model[key]
                    for key in ("score", "retained", "kl_teacher", "kl_student", "top1_student", "size_bytes")
                }
                for name, model in models.items()
            },
            "speedups": report["bench"]["speedups"],
        },
        seeds=[report["seed"]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
