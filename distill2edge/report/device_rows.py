"""The row of a device in the report: what its proof measured, and what 1,000 requests cost there."""

from __future__ import annotations

from typing import Any

from distill2edge.cost.catalogue import load_catalogue
from distill2edge.cost.serving_places import Spot

Document = dict[str, Any]


def device_row(proof: Document, report: Document) -> Document:
    """One row: device, file, verdict, fidelity, speed, memory, cost.

    Args:
        proof: that was checked.
        report: of the run; its tokens of a request and its utilisation price the device.
    """
    fidelity, speed, device = proof["checks"]["fidelity"] or {}, proof["speed"], proof["device"]
    return {
        "device": device["name"],
        "cpu": device["cpu"],
        "versions": device["versions"],
        "model": proof["model"],
        "target": proof.get("target"),
        "created": proof["created"],
        "passed": proof["passed"],
        "faults": proof["faults"],
        "measure": fidelity.get("measure"),
        "divergence": fidelity.get("mean"),
        "tolerance": fidelity.get("tolerance"),
        "top1": fidelity.get("top1"),
        "positions": fidelity.get("positions"),
        **{name: speed.get(name) for name in ("prefill_tps", "decode_tps", "texts_per_s", "load_s")},
        "threads": proof["threads"],
        "peak_rss_bytes": proof["peak_rss_bytes"],
        "usd_per_1000": _cost(device["name"], speed, report),
        "digest": proof["digest"],
    }


def requests_per_s(speed: Document, tokens: Document) -> float | None:
    """Speed in requests of the run's workload: tokens read and written at the measured speeds, or texts."""
    if speed.get("texts_per_s"):
        return float(speed["texts_per_s"])
    reads, writes = speed.get("prefill_tps"), speed.get("decode_tps")
    if not reads or not writes or not tokens.get("output"):
        return None
    seconds = (float(tokens.get("input") or 0) + float(tokens.get("cached") or 0)) / reads + tokens["output"] / writes
    return float(1 / seconds)


def _cost(name: str, speed: Document, report: Document) -> float | None:
    """At the package's price of a device of that name; null where the catalogue has none, or the run no workload."""
    cost, catalogue = report.get("cost") or {}, load_catalogue()
    key = next((key for key, entry in catalogue.devices.items() if name in (key, entry.label)), None)
    rate = requests_per_s(speed, cost.get("tokens") or {})
    if key is None or rate is None or not cost.get("utilisation"):
        return None
    return Spot("device", key, catalogue.devices[key], catalogue).quote(rate, float(cost["utilisation"])).value
