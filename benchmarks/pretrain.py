"""DistilBERT's task-agnostic form from finished runs: with masked-language-model distillation first, and without.

distill2edge run recipes/distilbert/pretrain.yaml
distill2edge run recipes/distilbert/pretrain.yaml --set student.pretrain=null --set name=distilbert-no-pretrain
python benchmarks/pretrain.py runs/distilbert-pretrain runs/distilbert-no-pretrain
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import bar, write_result


def main() -> None:
    """Read both reports, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("without", type=Path, help="run directory of the same without student.pretrain")
    options = parser.parse_args()
    reports: dict[str, Any] = {
        arm: json.loads((run / "report.json").read_text(encoding="utf-8"))
        for arm, run in (("pretrained", options.run), ("not pretrained", options.without))
    }
    models = {arm: {model["id"]: model for model in report["models"]} for arm, report in reports.items()}
    if models["pretrained"]["teacher"]["score"] != models["not pretrained"]["teacher"]["score"]:
        raise SystemExit("the two runs have different teachers or rows")
    teacher, student, plain = (
        models[arm][name]
        for arm, name in (("pretrained", "teacher"), ("pretrained", "student"), ("not pretrained", "student"))
    )
    gain = student["score"]["value"] - plain["score"]["value"]
    write_result(
        "pretrain",
        " && ".join(line for line in (__doc__ or "").splitlines() if line.startswith(("distill2edge", "python"))),
        description=f"movie polarity, every second layer of MiniLM; {teacher['score']['n']} held-out rows, one seed",
        bars=[
            bar("pretrained student / teacher, accuracy", student["retained"]["value"], ">=", 0.9, note="one seed"),
            bar("pretrained - not pretrained, accuracy", gain, ">=", 0.0, note="one seed, no paired test"),
        ],
        samples={f"seconds {stage['stage']}": [stage["wall_s"]] for stage in reports["pretrained"]["stages"]},
        metrics={
            arm: {
                name: {key: model.get(key) for key in ("score", "retained", "size_bytes", "parameters")}
                for name, model in found.items()
            }
            for arm, found in models.items()
        },
        seeds=[reports["pretrained"]["seed"]],
    )


if __name__ == "__main__":
    main()
