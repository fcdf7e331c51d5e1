"""Training processes that a launcher has started, on one machine or several (torchrun, accelerate launch).

Process 0 runs the recipe as if it were alone. The others wait, make each training call with it, and leave when it ends.
They agree on what is to be done before any work: recipe, package versions, keys of the stages.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from pkgutil import resolve_name
from types import TracebackType
from typing import Any, NoReturn, Self

from distill2edge.errors import EXIT_ENVIRONMENT, EnvironmentFault, UserError
from distill2edge.processes.group import Job
from distill2edge.processes.local_group import RESUME, check_batches, packed, unpacked
from distill2edge.processes.messages import Mute, ending_of, error_of
from distill2edge.util.progress import Progress

_WHERE = "the launcher's processes"
_POLL_S = 0.25
_TELL_S = 5.0  # in which a process that has failed may say why, and process 0 may say it to the user
_TRUE = ("1", "true", "yes")


class LaunchedGroup:
    """All processes of the launcher, this one among them; a context manager around the run.

    Attributes:
        rank: of this process.
        local: whether it is the first of its machine.
    """

    def __init__(self) -> None:
        """Join, and see that nothing of the launcher's own settings changes the training.

        Raises:
            UserError: it asks for another way to share the model out.
        """
        settle_launcher(os.environ)
        import torch.distributed as dist

        from distill2edge.processes import ranks

        ranks.join()
        self.rank, self.world = ranks.rank(), ranks.world()
        self.local = int(os.environ.get("LOCAL_RANK", self.rank)) == 0
        self._store: Any = dist.PrefixStore("distill2edge", dist.distributed_c10d._get_default_store())  # type: ignore[attr-defined]
        self._calls, self._whole = count(1), True

    # --- process 0 ------------------------------------------------------------------

    def compare(self, about: Mapping[str, Any]) -> None:
        """See that all processes are about to do the same.

        Args:
            about: as `follow`'s.

        Raises:
            UserError: one is not, with the first difference.
        """
        for rank in range(1, self.world):
            told = self._awaited("about", rank)
            if found := difference(about, told):
                raise UserError(f"process {rank} on {told['host']}: {found}", where=_WHERE,
                                fix="start all of them with the same command, files and packages")  # fmt: skip

    def call(self, job: Job, progress: Progress) -> Any:
        """As `Group.call`."""
        from distill2edge.processes import ranks

        check_batches(job, self.world)
        number = next(self._calls)
        self._store.set(f"call/{number}", "")
        ranks.agreed((packed(job), places_of(job)))
        for rank in range(1, self.world):
            told = self._awaited(f"ready/{number}", rank)
            if told["missing"]:
                raise UserError(
                    f"process {rank} on {told['host']} does not see {told['missing']}", where=_WHERE,
                    fix="put the store on a file system that all machines have under the same path: --store",
                )  # fmt: skip
        try:
            return resolve_name(job.function)(**job.arguments, progress=progress)
        except Exception as error:
            self._whole = False
            raise self._cause(error) from error

    def _cause(self, error: Exception) -> Exception:
        """Why a call failed here: what another process has noted, or that one is gone, or the error itself."""
        if isinstance(error, UserError):
            return error
        end = time.monotonic() + _TELL_S
        with suppress(KeyboardInterrupt):  # a launcher that has lost a process ends the others
            while time.monotonic() < end:
                found = (self._failed(rank) for rank in range(1, self.world))
                if cause := next((each for each in found if each is not None), None):
                    return cause
                time.sleep(_POLL_S)
        if is_loss(str(error)):
            return EnvironmentFault("a training process has ended, or cannot be reached any more", where=_WHERE,
                                    fix=RESUME)  # fmt: skip
        return error

    def _failed(self, rank: int) -> Exception | None:
        """What another process has noted, unless it is what the end of yet another did to it."""
        if not self._has(f"failed/{rank}"):
            return None
        told = json.loads(self._store.get(f"failed/{rank}"))
        if "error" in told:
            return error_of(told)
        if "fault" in told and not is_loss(told["fault"]):
            return RuntimeError(f"process {rank} on {told['host']}:\n{told['fault']}")
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let the others leave."""
        from distill2edge.processes import ranks

        with suppress(Exception):  # where the launcher's store is gone, so are they
            self._store.set("end", "")
            if self._whole and error is None:
                ranks.leave()

    # --- the others -----------------------------------------------------------------

    def follow(self, about: Callable[[], Mapping[str, Any]]) -> NoReturn:
        """Say what this process would do, then make every call that process 0 makes, and exit when it has ended.

        What goes wrong in a call, process 0 says; nothing of it is printed here.

        Args:
            about: `recipe`, `versions` and perhaps `keys`, to be compared.
        """
        code = 0
        try:
            self._store.set(f"about/{self.rank}", json.dumps({**_told(about), "host": socket.gethostname()}))
            for number in self._called():
                if (failed := self._serve(number)) is not None:
                    self._store.set(f"failed/{self.rank}", json.dumps({**failed, "host": socket.gethostname()}))
                    break
        except (KeyboardInterrupt, SystemExit, RuntimeError):  # asked to end, or process 0 and its store are gone
            code = EXIT_ENVIRONMENT
        except Exception:  # a mistake of this package's own, which process 0 cannot know of
            code = EXIT_ENVIRONMENT
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(code)  # without waiting for connections to the others

    def _called(self) -> Iterator[int]:
        """The numbers of the calls, until there are no more."""
        for number in count(1):
            while not self._has(f"call/{number}"):
                if self._has("end"):
                    return
                time.sleep(_POLL_S)
            yield number

    def _serve(self, number: int) -> dict[str, Any] | None:
        """Make one call; how it failed, if it did."""
        from distill2edge.processes import ranks

        try:
            payload, places = ranks.agreed((b"", [""]))
            job, missing = unpacked(payload), unseen(places)
            told = json.dumps({"missing": missing, "host": socket.gethostname()})
            self._store.set(f"ready/{number}/{self.rank}", told)
            if not missing:
                resolve_name(job.function)(**job.arguments, progress=Mute(job.stage))
        except BaseException as error:
            return ending_of(error)
        return None

    def _has(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _awaited(self, key: str, rank: int) -> dict[str, Any]:
        """What a process tells, once it does; a request to end is seen meanwhile.

        Raises:
            Exception: it has failed.
        """
        while not self._has(f"{key}/{rank}"):
            if cause := self._failed(rank):
                raise cause
            time.sleep(_POLL_S)
        told: dict[str, Any] = json.loads(self._store.get(f"{key}/{rank}"))
        return told


def settle_launcher(environment: Any) -> None:
    """Take back what `accelerate launch` says of the training itself: the recipe says that.

    Raises:
        UserError: it asks for FSDP, DeepSpeed or another way to share the model out.
    """
    for name, what in (("ACCELERATE_USE_FSDP", "FSDP"), ("ACCELERATE_USE_DEEPSPEED", "DeepSpeed")):
        if environment.get(name, "").lower() in _TRUE:
            raise UserError(f"accelerate's configuration asks for {what}", where="accelerate launch",
                            fix="use a configuration without it, or torchrun")  # fmt: skip
    if environment.get("ACCELERATE_USE_CPU", "").lower() in _TRUE:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    for name in [name for name in environment if name.startswith("ACCELERATE_")]:
        del environment[name]


def difference(own: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first difference between what two processes are about to do, in words; empty where there is none.

    Args:
        own, other: `recipe` (text), `versions` and `keys` (by name; None: not looked at), or `error`.
    """
    if "error" in other:
        return str(other["error"])
    mine, theirs = own["recipe"].splitlines(), other["recipe"].splitlines()
    if mine != theirs:
        lines = next((pair for pair in zip(mine, theirs, strict=False) if pair[0] != pair[1]), ("more", "fewer lines"))
        return f"another recipe than process 0: {lines[1].strip()!r}, not {lines[0].strip()!r}"
    for what, named in (("versions", "{0} {1}, and process 0 has {2}"), ("keys", "other data, models or code in {0}")):
        found = own[what].keys() | other[what].keys() if other[what] is not None else ()
        for name in sorted(found):
            here, there = own[what].get(name), other[what].get(name)
            if here != there:
                return named.format(name, there, here)
    return ""


def is_loss(words: str) -> bool:
    """Whether an error says that another process is gone."""
    return any(sign in words for sign in ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL"))


def _told(about: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    try:
        return about()
    except Exception as error:
        return {"error": str(error)}


def places_of(job: Job) -> list[str]:
    """The directories and files that a job reads, as far as they are there."""
    found = [value for value in _flat(job.arguments.values()) if isinstance(value, Path)]
    return [str(place) for place in found if place.exists()]


def unseen(places: Sequence[str], patience_s: float = 30.0) -> str:
    """The first of the places that is not there; empty where all are. A shared file system takes its time."""
    end = time.monotonic() + patience_s
    for place in places:
        while not Path(place).exists():
            if time.monotonic() > end:
                return place
            time.sleep(_POLL_S)
    return ""


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    """The values, those of pairs and of `Beside` among them."""
    for value in values:
        if isinstance(value, tuple) and not hasattr(value, "_fields"):
            yield from _flat(value)
        elif hasattr(value, "directory") and isinstance(value.directory, Path):
            yield value.directory
        else:
            yield value
