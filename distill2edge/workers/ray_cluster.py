"""Joining a Ray cluster, or starting one on this machine: quietly, on the loopback, and gone with the work."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.recipe.teacher_workers import AUTO
from distill2edge.util.interrupts import SIGNALS
from distill2edge.workers.room import WHERE, Need, Node

if TYPE_CHECKING:
    from distill2edge.recipe.teacher_workers import Workers

_ANSWER_S = 5.0
ANSWERING: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
"""How a cluster is joined: what it prints is not for here."""
_SETTLED = {
    "RAY_USAGE_STATS_ENABLED": "0",  # else it reports to its makers
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns; `Worker` hides GPUs itself
    "RAY_DEDUP_LOGS": "1",
}
_STORE_BYTES = 128 << 20  # of objects on their way, for each worker; more goes to the disk
_LOOPBACK = "127.0.0.1"
_PREFIX = "d2e-ray-"
_BASE = 620_000_000  # bytes of a process with PyTorch and transformers


class Cluster:
    """A joined cluster.

    Attributes:
        ray: the module.
        own: whether it was started here, and ends when it is left.
    """

    def __init__(self, ray: Any, own: bool) -> None:
        self.ray, self.own = ray, own

    @property
    def nodes(self) -> dict[str, Node]:
        """The nodes that are alive, by their ids."""
        found = {}
        for node in self.ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                cpus, gpus, memory = (int(has.get(name, 0)) for name in ("CPU", "GPU", "memory"))
                found[node["NodeID"]] = Node(node["NodeManagerHostname"], cpus, gpus, memory)
        return found


def need_of(workers: Workers, weights: int) -> Need:
    """What each worker takes; `weights`: bytes of the model's."""
    return Need(workers.cpus, workers.gpus, weights, _BASE)


def this_machine(workers: Workers) -> Node:
    """What a cluster that is started here would have."""
    import psutil

    from distill2edge.util.threads import available_threads

    gpus = _gpus() if workers.gpus else []
    return Node("this machine", available_threads(), len(gpus), psutil.virtual_memory().available, tuple(gpus))


def require_ray() -> None:
    """Refuse a machine without Ray.

    Raises:
        EnvironmentFault: it is not installed.
    """
    if find_spec("ray") is None:
        raise EnvironmentFault("Ray is not installed", where=WHERE, fix="pip install 'distill2edge[ray]'")


def settle_ray() -> None:
    """See that Ray neither phones home nor prints between our lines; before it is imported."""
    for name, value in _SETTLED.items():
        os.environ.setdefault(name, value)


def address_of(workers: Workers) -> str:
    """Of the cluster that is joined; empty where one is started here.

    `auto` finds the one that RAY_ADDRESS names, or of which this machine is a node, but for those that runs of ours
    have started: they end with their run.
    """
    import psutil

    if workers.ray != AUTO:
        return workers.ray
    if named := os.environ.get("RAY_ADDRESS", ""):
        return named
    for process in psutil.process_iter(["name", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["name"] == "raylet" and not any(_PREFIX in word for word in words):
            found: list[str] = [word.partition("=")[2] for word in words if word.startswith("--gcs-address=")]
            if found:
                return found[0]
    return ""


def require_answer(address: str) -> None:
    """Refuse an address at which nothing answers: Ray itself would wait for minutes.

    Raises:
        EnvironmentFault: nobody is there.
    """
    host, _, port = address.rpartition(":")
    if not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
    except OSError as error:
        raise EnvironmentFault(
            f"no Ray cluster answers at {address}: {error.strerror or error}", where=f"{WHERE}.ray",
            fix="start it (ray start --head --port 6379), correct the address, or write auto",
        ) from error  # fmt: skip


@contextmanager
def joined(workers: Workers) -> Iterator[Cluster]:
    """The cluster of a recipe; one that was started here ends with the block.

    Raises:
        EnvironmentFault: it is not there, of another version, or Ray is not installed.
    """
    require_ray()
    require_answer(address := address_of(workers))
    settle_ray()
    import ray

    if ray.is_initialized():  # by who calls us: theirs to end
        yield Cluster(ray, own=False)
        return
    place = _place()
    try:
        with _signals_kept():
            cluster = Cluster(ray, _join(ray, workers, address, place))
        yield cluster
    finally:
        with _signals_kept():
            ray.shutdown()
        shutil.rmtree(place, ignore_errors=True)


def _place() -> str:
    """A directory for a cluster's sockets and logs; those that killed runs have left are removed."""
    import psutil

    root = "/tmp" if os.access("/tmp", os.W_OK) else tempfile.gettempdir()  # short: the path of a socket has 107 bytes
    for left in Path(root).glob(f"{_PREFIX}*-*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    return tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=root)


def _join(ray: Any, workers: Workers, address: str, place: str) -> bool:
    """Connect; whether the cluster was started for it."""
    if address:
        try:
            ray.init(address=address, **ANSWERING)
        except Exception as error:
            raise refused(address, error) from error
        return False
    here = this_machine(workers)
    try:
        ray.init(
            address="local",
            num_cpus=here.cpus,
            num_gpus=here.gpus,
            _memory=here.memory,
            object_store_memory=workers.replicas * _STORE_BYTES,
            include_dashboard=False,
            _node_ip_address=_LOOPBACK,
            _temp_dir=place,
            **ANSWERING,
        )
    except Exception as error:
        raise EnvironmentFault(
            f"Ray does not start here: {_sentence(error)}", where=f"{WHERE}.ray", fix="see `ray start --head`"
        ) from error
    return True


def refused(address: str, error: BaseException | str) -> EnvironmentFault:
    """The error of a cluster that cannot be joined, from what Ray says."""
    said = " ".join(str(error).split())
    if "ersion mismatch" in said:
        what, fix = f"the cluster is of other versions: {said}", "install the same Ray and Python here and there"
    elif "AuthToken" in said or "uthentication" in said:
        what = f"the cluster at {address} asks for a token that this machine does not have"
        fix = "set RAY_AUTH_MODE here as on its nodes, and give it their token (ray get-auth-token)"
    elif "node" in said and ("ip address" in said or "node_ip_address" in said or "raylet" in said.lower()):
        what = f"this machine is no node of the cluster at {address}"
        fix = f"run here: ray start --address {address}"
    else:
        what, fix = f"the cluster cannot be joined: {_sentence(error)}", "see `ray status` there"
    return EnvironmentFault(what, where=f"{WHERE}.ray", fix=fix)


def _sentence(error: BaseException | str) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Give back the handlers that Ray puts its own in the place of: a request to end must stay `Stopped`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


def _gpus() -> list[int]:
    """Bytes of each GPU here."""
    import torch

    return [torch.cuda.get_device_properties(each).total_memory for each in range(torch.cuda.device_count())]
