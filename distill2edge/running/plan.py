"""What a run will do before it does it: stages, what is cached, estimated time, memory and disk."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distill2edge.pipeline.artifact import Artifact
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.pipeline.store import Store
from distill2edge.planning.sizes import Sizes, SizesOf, as_json, sizes_of
from distill2edge.planning.speed import free_share, machine_speed
from distill2edge.planning.steps import evaluation_of
from distill2edge.preflight import RecipeLike, checked_recipe
from distill2edge.recipe.changes import Changes
from distill2edge.recipe.schema import Recipe
from distill2edge.running.housekeeping import free_disk, open_store
from distill2edge.stages import KINDS, Stage, build_stages
from distill2edge.stages.learning import InitStudent, Train
from distill2edge.stages.teaching import Data, Teacher
from distill2edge.util import progress as progress_module
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes, readable_seconds, readable_share

_STAYS = 1.15  # of a run: what earlier stages freed stays in the process (allocator.py)
_LEAST = 0.25  # of a core: a moment says little about hours
_EVALUATED = 0.25  # share of a training's work from which the plan says how evaluation takes less
_BUSY = 0.8  # share of a core below which the plan says that the machine is busy


@dataclass(frozen=True)
class PlannedStage:
    """A stage of a plan.

    Attributes:
        cached: whether the store has its artifact, so that it will be reused.
        here: whether it is on this machine: of a store that machines share, it may have to be fetched.
        path: of the artifact, now or then.
        seconds, memory, disk: as estimated, in seconds and bytes; null where they are not known. Of a cached one
            `disk` is what it takes.
    """

    name: str
    key: str
    cached: bool
    path: Path
    seconds: float | None
    memory: int | None
    disk: int | None
    here: bool = True


@dataclass(frozen=True)
class Plan:
    """What a run will do. `print(plan)` shows it as a table.

    Attributes:
        name: of the run.
        store: the artifact store's directory.
        address: of a store that machines share.
        disk_free: bytes there.
        endpoint: what a teacher behind an endpoint may be paid, at most.
        basis: what the estimates reckon with.
    """

    name: str
    stages: tuple[PlannedStage, ...]
    store: Path
    disk_free: int
    endpoint: dict[str, Any] | None
    basis: dict[str, Any]
    address: str = ""

    @property
    def to_do(self) -> tuple[PlannedStage, ...]:
        """The stages that are not cached."""
        return tuple(stage for stage in self.stages if not stage.cached)

    @property
    def seconds(self) -> float:
        """What they take, as far as it is known."""
        return sum(stage.seconds or 0 for stage in self.to_do)

    @property
    def memory(self) -> int:
        """Bytes of memory at the highest, as far as it is known."""
        return round(_STAYS * max((stage.memory or 0 for stage in self.to_do), default=0))

    @property
    def disk(self) -> int:
        """Bytes that they add to the store."""
        return sum(stage.disk or 0 for stage in self.to_do)

    @property
    def unknown(self) -> tuple[str, ...]:
        """Names of stages whose time or memory is not known yet."""
        return tuple(stage.name for stage in self.to_do if None in (stage.seconds, stage.memory))

    def as_json(self) -> dict[str, Any]:
        """For scripts: what `distill2edge plan --json` prints."""
        return {
            "schema_version": 1,
            "name": self.name,
            "stages": [
                {
                    "stage": stage.name,
                    "key": stage.key,
                    "cached": stage.cached,
                    "here": stage.here,
                    "path": str(stage.path),
                    "seconds": stage.seconds,
                    "memory_bytes": stage.memory,
                    "disk_bytes": stage.disk,
                }
                for stage in self.stages
            ],
            "seconds": self.seconds,
            "peak_memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "unknown": list(self.unknown),
            "disk_free_bytes": self.disk_free,
            "store": self.address or str(self.store),
            "endpoint": self.endpoint,
            "basis": self.basis,
        }

    def __str__(self) -> str:
        """A table with totals."""
        lines = [f"{'stage':<28} {'state':<8} {'time':>8} {'memory':>10} {'disk':>10}"]
        for stage in self.stages:
            if stage.cached:
                lines.append(f"{stage.name:<28} {'cached':<8} {'':>8} {'':>10} {readable_bytes(stage.disk or 0):>10}")
                continue
            took, memory, disk = (
                "unknown" if value is None else shown(value)
                for value, shown in (
                    (stage.seconds, readable_seconds),
                    (stage.memory, readable_bytes),
                    (stage.disk, readable_bytes),
                )
            )
            lines.append(f"{stage.name:<28} {'to do':<8} {took:>8} {memory:>10} {disk:>10}")
        if not self.to_do:
            return "\n".join(
                [*lines, *self._fetched(), f"nothing to do: every stage is in {self.address or self.store}"]
            )
        return "\n".join([*lines, *self._fetched(), self._totals(), *self._remarks()])

    def _fetched(self) -> list[str]:
        """What has to be brought here, of a store that machines share."""
        size = sum(stage.disk or 0 for stage in self.stages if stage.cached and not stage.here)
        return [f"to fetch: {readable_bytes(size)} that other machines have published"] if size else []

    def _totals(self) -> str:
        if len(self.unknown) == len(self.to_do):
            return "to do: how long it takes, and how much memory, is not known yet"
        others = f"; not counted, as not known yet: {_listed(self.unknown)}" if self.unknown else ""
        return (
            f"to do: about {readable_seconds(self.seconds)}, at most {readable_bytes(self.memory)} of memory, "
            f"{readable_bytes(self.disk)} of disk ({readable_bytes(self.disk_free)} free in {self.store}){others}"
        )

    def _remarks(self) -> list[str]:
        lines = []
        if self.basis["free_share"] < _BUSY:
            share = readable_share(self.basis["free_share"])
            lines.append(f"the machine is busy: a process gets {share} of a core now, and the times assume that")
        if self.basis["rows_from"] == "guess":
            known = f"until `distill2edge {Data.kind}` has run"
            lines.append(f"the data is not here yet: rows and their tokens are guessed {known}")
        if (evaluation := self.basis["evaluation"]) and any(stage.name == Train.kind for stage in self.to_do):
            lines.append(_evaluated(**evaluation))
        if self.basis["teacher_load"]:
            lines.append(f"the teacher: {self.basis['teacher_load']}")
        if self.basis["teacher_workers"]:
            lines.append(f"the teacher's work: {self.basis['teacher_workers']}{_reckoned(self.basis)}")
        if self.endpoint:
            from distill2edge.teacher.endpoint_estimate import sentence

            return [*lines, sentence(self.endpoint)]
        for role, stage in (("teacher", Teacher), ("student", InitStudent)):
            if self.basis[f"{role}_parameters"] is None:
                fix = f"`distill2edge {stage.kind}` brings it here"
                lines.append(f"the {role} is not here yet, so its size is not known: {fix}")
                break
        else:
            counts = (f"{role} {self.basis[f'{role}_parameters']:,}" for role in ("teacher", "student"))
            lines.append(f"parameters: {', '.join(counts)}")
        return lines


def plan(
    recipe: RecipeLike,
    changes: Changes = (),
    *,
    store: Path | str | None = None,
    converter: Path | str | None = None,
    quiet: bool = False,
) -> Plan:
    """What a run of a recipe will do: stages, what is cached, estimated time, memory and disk.

        plan = d2e.plan("tickets.yaml", {"distill.epochs": 2})
        print(plan)
        [stage.name for stage in plan.to_do]

    Args:
        changes: applied first.
        store: artifact store; by default $DISTILL2EDGE_STORE.
        converter: convert_hf_to_gguf.py of a llama.cpp checkout, where GGUF files will be written by it.
        quiet: don't print what the user should know.

    Raises:
        UserError: as `run`, before anything is written.
    """
    progress = progress_module.for_stream(quiet)
    checked = checked_recipe(recipe, changes, progress, converter=converter is not None)
    opened = open_store(store)
    script = None if converter is None else Path(converter)
    return plan_of(checked, opened, progress, speed=machine_speed(), share=free_share(), converter=script)


def plan_of(
    recipe: Recipe,
    store: Store,
    progress: Progress,
    *,
    speed: float,
    share: float = 1.0,
    converter: Path | None = None,
) -> Plan:
    """The plan of a checked recipe.

    Args:
        speed: FLOPs per second of a matrix product, on all threads of the quiet machine.
        share: of a core that a process gets now.
    """
    from distill2edge.teacher.endpoint_estimate import estimate

    stages = build_stages(recipe, progress, converter)
    paced = speed * max(share, _LEAST)
    planned, sizes = planned_stages(recipe, stages, store, progress, paced)
    evaluation = evaluation_of(recipe, sizes)
    return Plan(
        name=recipe.name,
        stages=planned,
        store=store.root,
        address="" if store.name == str(store.root) else store.name,
        disk_free=free_disk(store.root),
        endpoint=estimate(recipe, sizes.train, sizes.tokens),
        basis={
            "flops_per_second": speed,
            "free_share": round(share, 2),
            "teacher_load": recipe.teacher.placement.words,
            "workers_known": recipe.teacher.workers is None or not recipe.teacher.workers.gpus,
            "teacher_workers": None if recipe.teacher.workers is None else recipe.teacher.workers.words,
            "evaluation": None if evaluation is None else asdict(evaluation),
            **as_json(sizes),
        },
    )


def planned_stages(
    recipe: Recipe, stages: Sequence[Stage], store: Store, progress: Progress, speed: float
) -> tuple[tuple[PlannedStage, ...], Sizes]:
    """Some stages of a recipe as a plan has them, and the sizes that it reckons with.

    Args:
        speed: FLOPs per second of a matrix product, that a process gets now.
    """
    found = _found(stages, store, progress)
    sizes = sizes_of(recipe, _telling(found))
    return tuple(_planned(each, store, sizes, speed) for each in found), sizes


def warn_of_room(recipe: Recipe, stages: Sequence[Stage], store: Store, progress: Progress) -> None:
    """Say where the disk has less room than the stages that are to be made are estimated to take."""
    found = _found(stages, store, progress)
    telling = _telling(found)
    if all(each.here for each in found) or not {kind.sizes for kind in KINDS.values() if kind.sizes} <= telling.keys():
        return
    sizes = sizes_of(recipe, telling)
    planned = (_planned(each, store, sizes, 1.0) for each in found)
    needed = sum(stage.disk or 0 for stage in planned if not (stage.cached and stage.here))
    free = free_disk(store.root)
    if needed > free:
        progress.warn(
            f"about {readable_bytes(needed)} of disk will be needed, and {readable_bytes(free)} are free in "
            f"{store.root}: make space (`distill2edge store gc`), or name a store on another disk"
        )


def require_workers(
    recipe: Recipe, stages: Sequence[Stage], store: Store, progress: Progress, *, again: bool = False
) -> None:
    """See that the teacher's workers are there and have the room, where a stage of theirs is to be made.

    Args:
        again: whether stages that are there may be made again.

    Raises:
        EnvironmentFault: as `workers.preflight.require_workers`.
    """
    workers = recipe.teacher.workers
    if workers is None:
        return
    found = _found(stages, store, progress)
    if not any(each.stage.by_workers and (again or each.artifact is None) for each in found):
        return
    from distill2edge.planning.costs import worker_weights
    from distill2edge.stages.sharing import file_weights
    from distill2edge.workers import preflight

    weights = file_weights(recipe, progress)
    if not weights and (teacher := sizes_of(recipe, _telling(found)).teacher) is not None:
        weights = worker_weights(recipe, teacher.body, teacher.embedding)
    store.prepare()
    preflight.require_workers(workers, weights, store.root)


@dataclass(frozen=True)
class _Found:
    stage: Stage
    key: str
    artifact: Artifact | None

    @property
    def here(self) -> bool:
        """Whether its files can be read."""
        return self.artifact is not None and self.artifact.path.is_dir()


def _found(stages: Sequence[Stage], store: Store, progress: Progress) -> list[_Found]:
    keys = keys_of(stages)
    return [
        _Found(stage, keys[stage.name], store.peek(stage.kind, keys[stage.name], progress.warn)) for stage in stages
    ]


def _telling(found: Sequence[_Found]) -> dict[SizesOf, Artifact | None]:
    """The artifacts that say how large the work is."""
    plain = (each for each in found if not each.stage.arm)
    return {each.stage.sizes: each.artifact if each.here else None for each in plain if each.stage.sizes is not None}


def _planned(found: _Found, store: Store, sizes: Sizes, speed: float) -> PlannedStage:
    stage, artifact = found.stage, found.artifact
    path = store.path(stage.kind, found.key)
    if artifact is not None:
        return PlannedStage(stage.name, found.key, True, path, 0.0, None, artifact.size, found.here)
    cost = stage.estimate(sizes, speed)
    memory, disk = (None if value is None else round(value) for value in (cost.memory, cost.disk))
    return PlannedStage(stage.name, found.key, False, path, cost.seconds, memory, disk)


def _evaluated(times: int, rows: int, share: float) -> str:
    said = f"evaluation of the student: {times} x {rows} validation rows, about {share:.0%} of its training's work"
    return said if share <= _EVALUATED else f"{said}; lower distill.checkpoints or data.splits.validation"


def _reckoned(basis: dict[str, Any]) -> str:
    return (
        "; their time is reckoned as if their cores were this machine's"
        if basis["workers_known"]
        else ("; how long GPUs take for it is not known here")
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
