"""What a run will do before it does it: stages, what is cached, estimated time, memory and disk."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.pipeline.store import Store, default_root
from distill2edge.planning.sizes import Sizes, SizesOf, as_json, sizes_of
from distill2edge.planning.speed import free_share, machine_speed
from distill2edge.preflight import checked_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.stages import KINDS, Stage, build_stages
from distill2edge.stages.learning import InitStudent
from distill2edge.stages.teaching import Data, Teacher
from distill2edge.util import progress as progress_module
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes, readable_seconds, readable_share

Row = dict[str, Any]

_STAYS = 1.15  # of a run: what earlier stages freed stays in the process (allocator.py)
_LEAST = 0.25  # of a core: a moment says little about hours
_BUSY = 0.8  # share of a core below which the plan says that the machine is busy


def plan_recipe(
    recipe: Path,
    overrides: Sequence[str],
    store: Path | None,
    out: Path | None,
    quiet: bool,
    converter: Path | None = None,
) -> dict[str, Any]:
    """The plan of a recipe as a document: one row per stage, and totals.

    Raises:
        UserError: as `distill2edge run`, before anything is written.
    """
    progress = progress_module.for_stream(quiet)
    loaded = checked_recipe(recipe, overrides, progress, converter=converter is not None)
    opened = Store(store or default_root())
    opened.check()
    speed = machine_speed(opened.root)
    return plan_of(loaded, opened, progress, speed=speed, share=free_share(), converter=converter)


def plan_of(
    recipe: Recipe,
    store: Store,
    progress: Progress,
    *,
    speed: float,
    share: float = 1.0,
    converter: Path | None = None,
) -> dict[str, Any]:
    """The plan of a checked recipe. Seconds and bytes are null where they are not known.

    Args:
        speed: FLOPs per second of a matrix product, on all threads of the quiet machine.
        share: of a core that a process gets now.
    """
    from distill2edge.teacher.endpoint_estimate import estimate

    stages = build_stages(recipe, progress, converter)
    keys = keys_of(stages)
    found = {stage.name: store.get(stage.kind, keys[stage.name], progress.warn) for stage in stages}
    sizes = sizes_of(recipe, _telling(stages, found))
    paced = speed * max(share, _LEAST)
    rows = [_row(stage, found[stage.name], keys[stage.name], store, sizes, paced) for stage in stages]
    missing = [row for row in rows if not row["cached"]]
    existing = next(path for path in (store.root, *store.root.parents) if path.exists())
    return {
        "schema_version": 1,
        "name": recipe.name,
        "stages": rows,
        "seconds": sum(row["seconds"] or 0 for row in missing),
        "peak_memory_bytes": round(_STAYS * max((row["memory_bytes"] or 0 for row in missing), default=0)),
        "disk_bytes": sum(row["disk_bytes"] or 0 for row in missing),
        "unknown": [row["stage"] for row in missing if None in (row["seconds"], row["memory_bytes"])],
        "disk_free_bytes": shutil.disk_usage(existing).free,
        "store": str(store.root),
        "endpoint": estimate(recipe, sizes.train, sizes.tokens),
        "basis": {"flops_per_second": speed, "free_share": round(share, 2), **as_json(sizes)},
    }


def warn_of_room(recipe: Recipe, stages: Sequence[Stage], store: Store, progress: progress_module.Progress) -> None:
    """Say where the disk has less room than the stages that are to be made are estimated to take."""
    keys = keys_of(stages)
    found = {stage.name: store.get(stage.kind, keys[stage.name], progress.warn) for stage in stages}
    telling = _telling(stages, found)
    if all(found.values()) or not {kind.sizes for kind in KINDS.values() if kind.sizes} <= telling.keys():
        return
    sizes = sizes_of(recipe, telling)
    rows = [_row(stage, found[stage.name], keys[stage.name], store, sizes, 1.0) for stage in stages]
    needed = sum(row["disk_bytes"] or 0 for row in rows if not row["cached"])
    place = next(path for path in (store.root.absolute(), *store.root.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if needed > free:
        progress.warn(
            f"about {readable_bytes(needed)} of disk will be needed, and {readable_bytes(free)} are free in "
            f"{store.root}: free room (`distill2edge store gc`), or name a store on another disk"
        )


def _telling(stages: Sequence[Stage], found: Mapping[str, Artifact | None]) -> dict[SizesOf, Artifact | None]:
    """The artifacts that say how large the work is."""
    return {stage.sizes: found[stage.name] for stage in stages if stage.sizes is not None}


def render_plan(plan: dict[str, Any]) -> str:
    """The plan as a table with totals."""
    lines = [f"{'stage':<28} {'state':<8} {'time':>8} {'memory':>10} {'disk':>10}"]
    for row in plan["stages"]:
        if row["cached"]:
            lines.append(f"{row['stage']:<28} {'cached':<8} {'':>8} {'':>10} {readable_bytes(row['disk_bytes']):>10}")
            continue
        took, memory, disk = (
            "unknown" if value is None else shown(value)
            for value, shown in (
                (row["seconds"], readable_seconds),
                (row["memory_bytes"], readable_bytes),
                (row["disk_bytes"], readable_bytes),
            )
        )
        lines.append(f"{row['stage']:<28} {'to do':<8} {took:>8} {memory:>10} {disk:>10}")
    missing = [row for row in plan["stages"] if not row["cached"]]
    if not missing:
        lines.append(f"nothing to do: every stage is in {plan['store']}")
        return "\n".join(lines)
    if len(plan["unknown"]) == len(missing):
        lines.append("to do: how long, and with how much memory, is not known yet")
    else:
        lines.append(
            f"to do: about {readable_seconds(plan['seconds'])}, at most {readable_bytes(plan['peak_memory_bytes'])} of "
            f"memory, {readable_bytes(plan['disk_bytes'])} of disk ({readable_bytes(plan['disk_free_bytes'])} free in "
            f"{plan['store']})" + (f", and what {_listed(plan['unknown'])} take" if plan["unknown"] else "")
        )
    lines += _remarks(plan)
    return "\n".join(lines)


def _remarks(plan: dict[str, Any]) -> list[str]:
    basis, lines = plan["basis"], []
    if basis["free_share"] < _BUSY:
        share = readable_share(basis["free_share"])
        lines.append(f"the machine is busy: a process gets {share} of a core, and times are by that")
    if basis["rows_from"] == "guess":
        known = f"until `distill2edge {Data.kind}` has run"
        lines.append(f"the data is not here yet: rows and their tokens are guessed {known}")
    if plan.get("endpoint"):
        from distill2edge.teacher.endpoint_estimate import sentence

        return [*lines, sentence(plan["endpoint"])]
    for role, stage in (("teacher", Teacher), ("student", InitStudent)):
        if basis[f"{role}_parameters"] is None:
            known = f"is known after `distill2edge {stage.kind}`"
            lines.append(f"the {role} is not here yet: its size, and so the rest, {known}")
            break
    return lines


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _row(stage: Stage, artifact: Artifact | None, key: str, store: Store, sizes: Sizes, speed: float) -> Row:
    row: Row = {
        "stage": stage.name,
        "key": key,
        "cached": artifact is not None,
        "path": str(store.path(stage.kind, key)),
    }
    if artifact is not None:
        return row | {"seconds": 0.0, "memory_bytes": None, "disk_bytes": artifact.size}
    cost = stage.estimate(sizes, speed)
    return row | {
        "seconds": cost.seconds,
        "memory_bytes": None if cost.memory is None else round(cost.memory),
        "disk_bytes": None if cost.disk is None else round(cost.disk),
    }
