"""What each file keeps of the student's task score: trained on its grid, calibrated, plain, mixed; of a finished run.

distill2edge run recipes/quantization-aware.yaml     # or quantization-mix
python benchmarks/quantization_task.py runs/quantization-aware
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import bar, write_result

from distill2edge.quantize.schemes import is_compared


def main() -> None:
    """Read the run's report, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    report: dict[str, Any] = json.loads((parser.parse_args().run / "report.json").read_text(encoding="utf-8"))
    name = report["name"]
    models = {model["id"]: model for model in report["models"]}
    student = models["student"]["score"]
    files = {model_id: model for model_id, model in models.items() if model_id.startswith("student/")}
    write_result(
        f"{name.replace('-', '_')}_task",
        f"distill2edge run recipes/{name}.yaml && python benchmarks/quantization_task.py runs/{name}",
        description=f"the quickstart's student in small files: accuracy on {student['n']} held-out reviews against the "
        "student in full precision; one seed",
        bars=[
            bar(
                f"{file.removeprefix('student/')}: task score / that of the full-precision student",
                model["score"]["value"] / student["value"], ">=", 0.99,
                note=f"{model['score']['value']:.3f} of {student['value']:.3f}",
            )
            for file, model in files.items()
            if not is_compared(file)
        ],
        samples={f"seconds {stage['stage']}": [stage["wall_s"]] for stage in report["stages"]},
        metrics={
            model_id: {key: model.get(key) for key in ("score", "kl_student", "top1_student", "size_bytes")}
            for model_id, model in models.items()
        },
        seeds=[report["seed"]],
    )  # fmt: skip


if __name__ == "__main__":
    main()
