"""Runs stages in order: keys first, then each stage that the store does not have."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from distill2edge.pipeline.artifact import Artifact, make_key
from distill2edge.pipeline.stage_files import Files
from distill2edge.pipeline.store import Store
from distill2edge.util.allocator import give_back_memory, resident_bytes
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_seconds

Inputs = Mapping[str, Artifact]


class Stage(Protocol):
    """What the runner asks of a node of the graph (`stages.stage.Stage` has more)."""

    @property
    def name(self) -> str:
        """Unique in the graph: `distill`, `export student/gguf:Q4_0`."""

    @property
    def kind(self) -> str:
        """The stage's directory in the store: `export`."""

    @property
    def version(self) -> int:
        """Raised when the code makes another artifact of the same inputs."""

    @property
    def section(self) -> Any:
        """The canonical part of the recipe that the artifact depends on."""

    @property
    def parents(self) -> tuple[str, ...]:
        """Names of the stages whose artifacts it reads."""

    @property
    def seed(self) -> int:
        """Of the run that its artifact belongs to."""

    @property
    def files(self) -> Files:
        """What of its directory is the artifact, and what a killed try leaves to the next."""

    def write(self, work: Path, inputs: Inputs, progress: Progress) -> dict[str, Any]:
        """Make the artifact in a directory, and return its facts."""


Kind = TypeVar("Kind", bound=Stage)


@dataclass(frozen=True)
class Done:
    """A stage and its artifact."""

    stage: Stage
    artifact: Artifact
    cached: bool


def keys_of(stages: Sequence[Stage]) -> dict[str, str]:
    """The key of every stage; a stage comes after its parents."""
    keys: dict[str, str] = {}
    for stage in stages:
        parents = {name: keys[name] for name in stage.parents}
        keys[stage.name] = make_key(stage.kind, stage.version, {"seed": stage.seed, "of": stage.section}, parents)
    return keys


def run_stages(
    stages: Sequence[Stage],
    store: Store,
    progress: Progress,
    force: frozenset[str] = frozenset(),
    made: Callable[[Done], None] = lambda done: None,
) -> list[Done]:
    """Run or reuse every stage in order.

    Args:
        force: kinds whose artifacts are made again, and with them what reads them: a measurement differs each time.
        made: told of every artifact the moment it is there.

    Raises:
        UserError: from a stage. What was finished before stays in the store.
    """
    keys = keys_of(stages)
    if force or not all(store.holds(stage.kind, keys[stage.name]) for stage in stages):
        store.prepare(progress)
    with store.locks.in_use(progress):
        return _run(stages, keys, store, progress, force, made)


def _run(
    stages: Sequence[Stage],
    keys: Mapping[str, str],
    store: Store,
    progress: Progress,
    force: frozenset[str],
    made: Callable[[Done], None],
) -> list[Done]:
    done: dict[str, Done] = {}
    again: set[str] = set()
    for number, stage in enumerate(stages, 1):
        head = f"[{number}/{len(stages)}] {stage.name}"
        if stage.kind in force or not again.isdisjoint(stage.parents):
            again.add(stage.name)
            store.forget(stage.kind, keys[stage.name])
        found = store.get(stage.kind, keys[stage.name], progress.warn)
        if found is not None:
            progress.say(f"{head}: reused")
            done[stage.name] = Done(stage, found, cached=True)
            made(done[stage.name])
            continue
        progress.say(head)
        progress.stage = stage.name
        start, held = time.monotonic(), resident_bytes()
        inputs = {name: done[name].artifact for name in stage.parents}
        writes: list[str] = []

        def write(work: Path, stage: Stage = stage, inputs: Inputs = inputs, writes: list[str] = writes) -> Any:
            writes.append(stage.name)
            return stage.write(work, inputs, progress)

        artifact = store.build(
            stage.kind,
            keys[stage.name],
            {name: keys[name] for name in stage.parents},
            stage.section,
            stage.seed,
            write,
            progress,
            # What is forced is to be made again, and not of what others had.
            replace(stage.files, shares=()) if stage.kind in force else stage.files,
        )
        give_back_memory(held)
        # Another process may have made it while this one waited for its turn.
        took = readable_seconds(time.monotonic() - start)
        progress.say(f"{head}: done in {took}" if writes else f"{head}: reused, made by another run; waited {took}")
        done[stage.name] = Done(stage, artifact, cached=not writes)
        made(done[stage.name])
    return list(done.values())


def upto(stages: Sequence[Kind], kind: str) -> list[Kind]:
    """The stages of one kind and everything they read, in order."""
    wanted = {stage.name for stage in stages if stage.kind == kind}
    for stage in reversed(stages):
        if stage.name in wanted:
            wanted.update(stage.parents)
    return [stage for stage in stages if stage.name in wanted]
