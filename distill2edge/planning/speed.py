"""How fast this machine multiplies: measured for a moment, and kept in the user's cache for a week."""

from __future__ import annotations

import json
import time
from contextlib import suppress

from distill2edge.errors import UserError
from distill2edge.util.files import write_json
from distill2edge.util.machine import cpu_model, versions
from distill2edge.util.remembered import cache_directory

_FILE = "speed.json"
_KEPT_S = 7 * 86400.0


def machine_speed() -> float:
    """FLOPs per second of a matrix product in the type that training uses, on all threads of the machine when idle.

    It is kept, so that the next plan need not load a library.
    """
    from distill2edge.util.threads import available_threads

    where = {"cpu": cpu_model(), "threads": available_threads(), "torch": versions(("torch",)).get("torch")}
    place = cache_directory() / _FILE
    try:
        kept = json.loads(place.read_text(encoding="utf-8"))
        if kept["of"] == where and 0 <= time.time() - float(kept["at"]) < _KEPT_S and float(kept["flops"]) > 0:
            return float(kept["flops"])
    except (OSError, ValueError, TypeError, LookupError):  # none yet, or not ours: it is measured anew
        pass
    speed = product_speed(available_threads())
    with suppress(OSError, UserError):  # a cache that cannot be written: measured again next time
        write_json(place, {"of": where, "at": time.time(), "flops": speed})
    return speed


def product_speed(threads: int) -> float:
    """The same, measured now: per second that the processor worked, so that other work beside it does not count."""
    import torch

    from distill2edge.models.precision import compute_dtype, default_device

    device = default_device()
    size = 4096 if device == "cuda" else 768
    a = torch.randn(size, size, device=device, dtype=compute_dtype("auto", device))
    before, best = torch.get_num_threads(), 0.0
    clock = time.perf_counter if device == "cuda" else time.process_time
    torch.set_num_threads(1)
    try:
        for _ in range(12):
            start = clock()
            (a @ a).sum().item()
            best = max(best, 2 * size**3 / max(clock() - start, 1e-9))
    finally:
        torch.set_num_threads(before)
    return best if device == "cuda" else best * threads


def free_share(seconds: float = 0.2) -> float:
    """Share of a core that a process gets now: 1 on a quiet machine."""
    wall, worked = time.perf_counter(), time.process_time()
    while time.perf_counter() - wall < seconds:
        sum(range(1000))
    return min(1.0, max((time.process_time() - worked) / (time.perf_counter() - wall), 0.02))
