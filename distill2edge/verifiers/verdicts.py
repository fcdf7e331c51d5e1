"""Every verifier over what a teacher wrote, shard by shard; a killed run loses one shard of verdicts at most."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

from distill2edge.data import ledger
from distill2edge.data.conversation import plain_answer
from distill2edge.errors import EnvironmentFault
from distill2edge.teacher.text import Check, Checked, Text
from distill2edge.util.files import write_text
from distill2edge.util.progress import Progress
from distill2edge.verifiers.verifier import Group, Verdict, Verifier, one_line

Said: TypeAlias = list[tuple[str, Verdict]]
"""Who was asked about a response, in order, and what each said. The first refusal ends it."""


def check_of(verifiers: Sequence[Verifier]) -> Check | None:
    """The verifiers as what `teacher.text.write_responses` takes; None where there are none."""
    if not verifiers:
        return None

    def check(
        shards: Mapping[int, Sequence[Text]], work: Path, progress: Progress
    ) -> tuple[list[Checked], dict[str, Any]]:
        said = verify_texts(shards, verifiers, work, progress)
        outcomes = summary(said)
        for name, counts in outcomes.items():
            progress.say(f"  {name}: {', '.join(f'{count:,} {outcome}' for outcome, count in counts.items())}")
        return [_checked(item) for item in said], {"outcomes": outcomes, "held_by": walls_of(verifiers)}

    return check


def verify_texts(
    shards: Mapping[int, Sequence[Text]], verifiers: Sequence[Verifier], work: Path, progress: Progress
) -> list[Said]:
    """Ask the verifiers in their order, each about what those before it accepted.

    Args:
        shards: number -> texts, all samples of a prompt in one shard.
        work: `verdicts-00000.jsonl`, ... are written here, and read where an earlier try left them.

    Returns:
        one item for each text, in order.
    """
    found: list[Said] = []
    with progress.task("verify", sum(map(len, shards.values()))) as task:
        for number, shard in shards.items():
            path = work / f"verdicts-{number:05d}.jsonl"
            if not path.is_file():
                write_text(path, "".join(_line(item) for item in _verify(shard, verifiers)))
            found += map(_read, path.read_text(encoding="utf-8").splitlines())
            task.advance(len(shard))
    return found


def summary(said: Sequence[Said]) -> dict[str, dict[str, int]]:
    """How often each verifier gave each outcome."""
    counts: dict[str, Counter[str]] = {}
    for item in said:
        for name, verdict in item:
            counts.setdefault(name, Counter())[verdict.outcome] += 1
    return {name: dict(found.most_common()) for name, found in counts.items()}


def walls_of(verifiers: Sequence[Verifier]) -> dict[str, dict[str, str]]:
    """What holds the checks of each verifier that runs in processes of its own: namespaces, or a filter alone."""
    return {verifier.name: dict(verifier.held) for verifier in verifiers if hasattr(verifier, "held")}


def _checked(said: Said) -> Checked:
    """For the ledger: the reason is `numeric rejected: 8 is not 7`, `python crashed: ...`."""
    verdicts = tuple(
        ledger.Verdict(
            name,
            verdict.accepted,
            verdict.reason if verdict.outcome in ("accepted", "rejected") else f"{verdict.outcome}: {verdict.reason}",
        )
        for name, verdict in said
    )
    because = next((f"{name} {v.outcome}: {v.reason}".rstrip(": ") for name, v in said if not v.accepted), "")
    return Checked(verdicts, because)


def _verify(shard: Sequence[Text], verifiers: Sequence[Verifier]) -> list[Said]:
    said: list[Said] = [[] for _ in shard]
    left = list(range(len(shard)))
    for verifier in verifiers:
        by_prompt: dict[str, list[int]] = {}
        for number in left:
            by_prompt.setdefault(shard[number].prompt_id, []).append(number)
        groups = [
            Group(shard[ns[0]].prompt, tuple(shard[n].response for n in ns), plain_answer(shard[ns[0]].reference))
            for ns in by_prompt.values()
        ]
        for numbers, verdicts in zip(by_prompt.values(), _ask(verifier, groups), strict=True):
            for number, verdict in zip(numbers, verdicts, strict=True):
                said[number].append((verifier.name, verdict))
        left = [number for number in left if said[number][-1][1].accepted]
    return said


def _ask(verifier: Verifier, groups: Sequence[Group]) -> list[list[Verdict]]:
    """A verifier that raises fails for the groups that make it raise, found by asking about each alone."""
    if not groups:
        return []
    try:
        return verifier.verify(groups)
    except EnvironmentFault:
        raise  # the machine's fault, not the row's
    except Exception as error:  # the fault of a plug-in costs the rows it can't judge, told and counted, not the run
        if len(groups) > 1:
            return [_ask(verifier, [group])[0] for group in groups]
        return [[Verdict("crashed", one_line(f"{type(error).__name__}: {error}"))] * len(groups[0].responses)]


def _line(item: Said) -> str:
    return json.dumps([[name, asdict(verdict)] for name, verdict in item]) + "\n"


def _read(line: str) -> Said:
    said: list[Any] = json.loads(line)
    return [(name, Verdict(**verdict)) for name, verdict in said]
