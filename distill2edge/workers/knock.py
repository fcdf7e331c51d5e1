"""Looks at a Ray cluster in a process of its own, which can be given up: Ray waits for minutes where nobody answers.

`python -m distill2edge.workers.knock` takes `address` and `place` as JSON from its standard input, and prints `error`
or `nodes`.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from distill2edge.workers.ray_cluster import ANSWERING, Cluster, settle_ray
from distill2edge.workers.worker import probe

_PROBE_S = 45.0


def main() -> None:
    """Look, and say what was found."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Ray prints
    asked = json.load(sys.stdin)
    try:
        found = _look(asked["address"], asked["place"])
    except Exception as error:
        found = {"error": str(error) or type(error).__name__}
    channel.write(json.dumps(found))
    channel.close()
    os._exit(0)  # without waiting for anything of Ray's


def _look(address: str, place: str) -> dict[str, Any]:
    """Every node, with what a task on it says of it: `told`, or `silent` where it says nothing in time."""
    settle_ray()
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, **ANSWERING)
    task, asked = ray.remote(num_cpus=0, max_retries=0)(probe(place)), {}
    nodes = Cluster(ray, own=False).nodes
    for name in nodes:
        here = NodeAffinitySchedulingStrategy(name, soft=False)
        asked[task.options(scheduling_strategy=here).remote()] = name
    done, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_S)
    told = {asked[ref]: ray.get(ref) for ref in done}
    return {"nodes": [{**asdict(node), "told": told.get(name)} for name, node in nodes.items()]}


if __name__ == "__main__":
    main()
