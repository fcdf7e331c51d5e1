"""Experiment trackers beside `train.jsonl`: Trainer's own integrations, named on the command line (`run --track`).

Which tracker is a matter of the user's machine and no part of a recipe or a key, so it travels by environment variable,
as the trackers' own settings do (WANDB_API_KEY, TRACKIO_DIR, ...).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from distill2edge.errors import EnvironmentFault

TRACKERS = ("tensorboard", "trackio", "wandb")
_NAMES, _PROJECT, _FOLDER = "DISTILL2EDGE_TRACK", "DISTILL2EDGE_TRACK_PROJECT", "DISTILL2EDGE_TRACK_FOLDER"


def start_tracking(names: Sequence[str], project: str, run: Path) -> None:
    """Let every training of this process report to these trackers, under the project's name.

    TensorBoard's files go to `run/tensorboard/STAGE`; the others keep theirs where they always do.

    Raises:
        EnvironmentFault: a tracker that is not installed.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise EnvironmentFault(
                f"{name} is not installed", where=f"--track {name}", fix=f"pip install 'distill2edge[{name}]'"
            )
    os.environ[_NAMES], os.environ[_PROJECT], os.environ[_FOLDER] = ",".join(names), project, str(run.resolve())


def trackers(stage: str) -> tuple[list[str], str]:
    """What Trainer is to report to, and the project; where TensorBoard is among them, it is told the folder."""
    names = [name for name in os.environ.get(_NAMES, "").split(",") if name]
    project = os.environ.get(_PROJECT, "distill2edge")
    if "tensorboard" in names:
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(Path(os.environ[_FOLDER], "tensorboard", stage.replace("/", "-")))
    if "wandb" in names:
        os.environ.setdefault("WANDB_PROJECT", project)
    return names, project


def end_tracking(names: Sequence[str]) -> None:
    """Close what Trainer leaves open: the next training of this process is a run of its own."""
    if "wandb" in names:
        importlib.import_module("wandb").finish()
