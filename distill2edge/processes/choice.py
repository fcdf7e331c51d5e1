"""The group of a run: none, processes on this machine, or those of a launcher."""

from __future__ import annotations

import os
from collections.abc import Callable

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.processes.group import Group
from distill2edge.processes.local_group import MEETING, LocalGroup
from distill2edge.util.threads import available_threads

_OPTION = "--processes"


def is_launched() -> bool:
    """Whether a launcher (torchrun, accelerate launch) has started this process as one of several."""
    several = int(os.environ.get("WORLD_SIZE") or 1) > 1 and "RANK" in os.environ
    return several and MEETING not in os.environ


def local_group(count: int | None, warn: Callable[[str], None]) -> Group | None:
    """The group of `--processes`; None for one process.

    Raises:
        UserError: no number of processes, or this is a training process itself.
        EnvironmentFault: more than there are GPUs, where there are some.
    """
    if MEETING in os.environ:
        raise UserError(
            "a training process is starting a run: the file that registers a loss does, when it is imported",
            where=_OPTION,
            fix="put register_loss into a file of its own, or the run under `if __name__ == '__main__':`",
        )  # fmt: skip
    if count is None or count == 1:
        return None
    if count < 1:
        raise UserError(f"{count} is no number of processes", where=_OPTION, fix="use 1 or more")
    import torch

    if torch.cuda.is_available():
        if count > (devices := torch.cuda.device_count()):
            raise EnvironmentFault(
                f"{count} processes, and {devices} GPU{'s' if devices > 1 else ''} that each needs one of",
                where=_OPTION, fix=f"use {_OPTION} {devices}, or several machines: docs/scale.md",
            )  # fmt: skip
    elif count > (cores := available_threads()):
        warn(
            f"{_OPTION} {count}: {cores} cores are usable here, so processes wait for each other; use {cores} or fewer"
        )
    return LocalGroup(count)
