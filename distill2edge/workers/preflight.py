"""What can be known of a recipe's workers before hours are spent: is the cluster there, and can it do the work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.workers.ray_cluster import address_of, need_of, refused, require_answer, require_ray, this_machine
from distill2edge.workers.room import WHERE, Node, require_room
from distill2edge.workers.worker import probe

if TYPE_CHECKING:
    from distill2edge.recipe.teacher_workers import Workers

_PATIENCE_S = 90.0


def require_workers(workers: Workers, weights: int, store: Path) -> None:
    """Refuse a cluster that cannot do a recipe's work. It is joined and left again; where `auto` finds none, this
    machine is looked at.

    Args:
        weights: bytes of the teacher's, as each worker holds them; 0 where they are not known yet.
        store: that every node must see; it can be written.

    Raises:
        EnvironmentFault: no Ray, nobody at the address, other versions, no room, a store of this machine alone.
    """
    require_ray()
    need = need_of(workers, weights)
    if not (address := address_of(workers)):
        require_room([this_machine(workers)], workers.replicas, need)
        return
    require_answer(address)
    found = _knock(address, store)
    if found.get("silent"):
        raise _silent(address)
    if "error" in found:
        raise refused(address, found["error"])
    require_room(_fit_nodes(found["nodes"], store), workers.replicas, need)


def _knock(address: str, store: Path) -> dict[str, Any]:
    """What a look at the cluster finds: `silent`, `error` or `nodes`."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    with tempfile.NamedTemporaryFile(prefix=".seen-", dir=store / "locks") as seen:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "distill2edge.workers.knock"],
                input=json.dumps({"address": address, "place": seen.name}),
                capture_output=True, text=True, timeout=_PATIENCE_S, env={**os.environ, "PYTHONPATH": path},
            )  # fmt: skip
        except subprocess.TimeoutExpired as ended:
            if "AuthToken" in str(ended.stderr):
                return {"error": "InvalidAuthToken"}
            return {"silent": True}
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {"error": (done.stderr.strip().splitlines() or ["Ray has ended without a word"])[-1]}
    return found


def _silent(address: str) -> EnvironmentFault:
    """The error of a look that was given up."""
    what = f"something answers at {address}, and no Ray cluster in {_PATIENCE_S:.0f} s"
    fix = "correct the address: that of `ray start --head --port`, not the dashboard's; see `ray status` there"
    if os.environ.get("RAY_ADDRESS") == address:
        fix = f"unset RAY_ADDRESS, or {fix}"
    return EnvironmentFault(what, where=f"{WHERE}.ray", fix=fix)


def _fit_nodes(nodes: Sequence[Mapping[str, Any]], store: Path) -> list[Node]:
    """The nodes, with what was told of them.

    Raises:
        EnvironmentFault: one that a worker may come to, and that is not as this machine is.
    """
    own, fit = probe("")()["versions"], []
    for node in nodes:
        told, where = node["told"], f"{WHERE}.ray"
        plain = {name: node[name] for name in ("name", "cpus", "gpus", "memory")}
        if not node["cpus"]:
            continue  # a head that takes no work
        if told is None:
            fix = "see `ray status`, and take it out of the cluster"
            raise EnvironmentFault(f"the node {node['name']} does not answer", where=where, fix=fix)
        for package, here in own.items():
            if (there := told["versions"][package]) != here:
                has = f"{package} {there}" if there else f"no {package}"
                raise EnvironmentFault(
                    f"the node {node['name']} has {has}, and this machine {here}: its shards would be others",
                    where=where, fix="install the same packages on every node (constraints.txt)",
                )  # fmt: skip
        if not told["sees"]:
            raise EnvironmentFault(
                f"the node {node['name']} does not see the store {store}", where=where,
                fix="put the store on a file system that all machines have under the same path: --store",
            )  # fmt: skip
        fit.append(replace(Node(**plain), gpu_bytes=tuple(told["gpu_bytes"])))
    return fit
