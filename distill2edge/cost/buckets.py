"""Which one-off sum the seconds of a stage belong to: one declared bucket for each kind of stage."""

from __future__ import annotations

from typing import Literal

from distill2edge.schemes import PLAIN_SUFFIX

Bucket = Literal["teacher_generation", "training", "export", "evaluation"]
BUCKETS: dict[str, Bucket] = {
    "data": "teacher_generation",
    "teacher": "teacher_generation",
    "synthesis": "teacher_generation",
    "signal": "teacher_generation",
    "fit": "training",
    "pretrain": "training",
    "student": "training",
    "distill": "training",
    "merge": "training",
    "quantization-aware": "training",
    "calibration": "export",
    "sensitivity": "export",
    "export": "export",
    "verify": "evaluation",
    "judge": "evaluation",
    "bench": "evaluation",
    "rounds": "evaluation",
    "report": "evaluation",
}
"""By kind, of what makes the student."""
NAMED: dict[str, Bucket] = {"signal student": "training"}
"""By name, where a stage is something else than its kind: the student's own distributions, for training on a grid."""
_ARMS = ("control", "unverified", "teacher")


def bucket_of(stage: str) -> Bucket:
    """The bucket of a stage by its name.

    Arms to compare with are evidence and no part of the student, whatever their kind: the control, rounds without
    checks, the teacher's own files, files without calibration. (A file without training on its grid is where that
    training starts.)

    Raises:
        KeyError: a kind without a bucket: a new one must say where its time belongs.
    """
    kind, _, rest = stage.partition(" ")
    bucket = NAMED.get(stage, BUCKETS[kind])
    return "evaluation" if is_evidence(rest) else bucket


def is_evidence(rest: str) -> bool:
    """Whether what follows the kind in a stage's name is that of an arm to compare with.

    Args:
        rest: `control`, `unverified 2`, `teacher/gguf:Q4_0`, `student/gguf:Q4_0-plain`, ...
    """
    arm = rest.split(" ", 1)[0].split("/", 1)[0]
    return arm in _ARMS or rest.endswith(PLAIN_SUFFIX)
