"""The quickstart over five seeds, three with a control arm: scores, paired; time, sizes, speed-ups of the first seed.

python benchmarks/quickstart.py --store EMPTY   # a machine with nothing beside it: the stages are timed
"""

from __future__ import annotations

import argparse
from itertools import chain
from pathlib import Path
from typing import Any

from common import ROOT, bar, paired, verified, write_result

import distill2edge as d2e
from distill2edge.pipeline.artifact import Artifact
from distill2edge.util.bootstrap import mean_interval

RECIPE = ROOT / "recipes" / "quickstart.yaml"
SEEDS = (0, 1, 2, 3, 4)
CONTROLLED = SEEDS[:3]
KINDS = ("data", "teacher", "fit", "signal", "student", "distill", "merge", "export", "verify", "bench")


def main() -> None:
    """Run what is not in the store, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=None)
    store = parser.parse_args().store

    def stages(kind: str, seed: int) -> dict[str, Artifact]:
        changes = {"seed": seed, "distill.control": seed in CONTROLLED}
        return d2e.run(RECIPE, changes, upto=kind, store=store).of(kind)

    report: dict[str, Any] = stages("report", SEEDS[0])["report"].document("report.json")
    # The main job has no control arm: its training is evidence and is not part of the time.
    seconds = {
        name: item.manifest["wall_s"]
        for kind in KINDS
        for name, item in stages(kind, SEEDS[0]).items()
        if not name.endswith(" control")
    }
    found = [verified(stages("verify", seed)["verify"].path) for seed in SEEDS]

    # Every seed has held-out rows of its own: each row counts once.
    def scores(name: str, of: str) -> list[float]:
        """The scores of `name` on the rows of every seed that has `of`."""
        return list(chain.from_iterable(each[name]["scores"] for each in found if of in each))

    rows = {name: scores(name, name) for name in found[0]}
    files = [name for name in rows if name.startswith("student/")]
    retained = {name: paired([own], [scores("teacher", name)], ratio=True) for name, own in rows.items()}
    worst = min(files, key=lambda name: retained[name].value)
    gap = paired([scores("student", "control")], [rows["control"]])
    write_result(
        "quickstart",
        "python benchmarks/quickstart.py --store $(mktemp -d)",
        description=f"movie sentiment, SmolLM2-135M to its lowest layers; {len(SEEDS)} seeds, "
        f"{len(rows['student'])} held-out rows",
        bars=[
            bar("quickstart: stages from an empty store", sum(seconds.values()), "<=", 600, unit="s"),
            bar(f"quickstart: score kept by the least of the files, {worst.removeprefix('student/')}", retained[worst],
                ">=", 0.95),
            bar("quickstart: the same, of any seed",
                min(each[name]["retained"]["value"] for each in found for name in files), ">=", 0.95),
            bar("quickstart: student - control, accuracy", gap, ">=", 0.0),
        ],
        samples={
            **{f"seconds {stage}": [wall] for stage, wall in seconds.items()},
            **{f"accuracy, {name}": [each[name]["score"]["value"] for each in found if name in each] for name in rows},
        },
        metrics={
            "models": {
                name: {
                    "score": mean_interval(own),
                    "retained": retained[name],
                    **{key: found[0][name][key] for key in ("kl_student", "size_bytes", "parameters")},
                }
                for name, own in rows.items()
            },
            "student - control": gap,
            "speedups": report["bench"]["speedups"],
        },
        seeds=SEEDS,
    )  # fmt: skip


if __name__ == "__main__":
    main()
