"""A training process that `LocalGroup` starts: takes a job from standard input, makes the call, tells its parent."""

from __future__ import annotations

import os
import sys
from pkgutil import resolve_name
from typing import Any

from distill2edge.processes.local_group import MEETING, unpacked
from distill2edge.processes.messages import Mute, ToParent, ending_of
from distill2edge.util import interrupts
from distill2edge.util.allocator import keep_freed_memory
from distill2edge.util.libraries import settle_libraries


def main() -> None:
    """Work, and say how it ended."""
    interrupts.die_with_parent(int(os.environ[interrupts.PARENT]))
    # Libraries write to standard output too: keep a copy for the parent and send theirs to the log.
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    tell = ToParent(channel, "")
    try:
        with interrupts.caught():
            result = _work(sys.stdin.buffer.read(), tell)
            tell.send(result=result)
    except BaseException as error:
        tell.send(**ending_of(error))
        channel.close()
        os._exit(1)  # at once: the others wait for this process's part of a sum


def _work(payload: bytes, tell: ToParent) -> Any:
    settle_libraries()
    keep_freed_memory()
    from distill2edge.processes import ranks

    ranks.join(init_method=f"file://{os.environ[MEETING]}")
    job = unpacked(payload)
    tell.stage = job.stage
    progress = tell if ranks.rank() == 0 else Mute(job.stage)
    result = resolve_name(job.function)(**job.arguments, progress=progress)
    ranks.leave()
    return result


if __name__ == "__main__":
    main()
