"""Responses for held-out rows that have none: the teacher writes what files are then compared with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data import ledger
from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row
from distill2edge.data.split_files import describe_rows, read_rows, write_split
from distill2edge.errors import UserError
from distill2edge.generation.generate import Generator
from distill2edge.teacher.text import write_responses
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal

HELD_OUT = ("validation", "calibration", "test")


def write_references(
    generator: Generator,
    data_dir: Path,
    signal: TextSignal,
    work: Path,
    progress: Progress,
    *,
    template: str,
    system: str | None,
    seed: int,
    origin: ledger.Origin,
) -> dict[str, Any]:
    """Write the splits again, with the teacher's greedy answers in the held-out ones, `data.json` and the ledger.

    The training rows stay as they are: the signal writes theirs.

    Returns:
        what `write_responses` says, and `splits`.

    Raises:
        UserError: as `write_responses`, or no test row got a usable answer.
    """
    own = {name: read_rows(data_dir, name) for name in SPLITS}
    greedy = signal.model_copy(update={"temperature": 0.0, "top_p": 1.0, "samples": 1, "verify": ()})
    facts = write_responses(
        generator,
        [row for name in HELD_OUT for row in own[name]],
        greedy,
        work,
        progress,
        template=template,
        system=system,
        seed=seed,
        origin=origin,
    )
    written = {row.parent: Row(row.id, row.prompt, row.response) for row in ledger.read(work) if row.kept}
    splits = {
        name: [written[row.id] for row in own[name] if row.id in written] if name in HELD_OUT else own[name]
        for name in SPLITS
    }
    if own["test"] and not splits["test"]:
        raise UserError(
            f"none of the {len(own['test'])} test rows got a usable answer of the teacher",
            where="signal",
            fix="raise signal.max_new_tokens, or give data.response",
        )
    for name in SPLITS:
        write_split(work / f"{name}.parquet", splits[name])
    found = {name: describe_rows(splits[name]) for name in SPLITS}
    asked = {name: len(own[name]) for name in HELD_OUT}
    about = {**read_json(data_dir / "data.json"), "splits": found, "references": {"asked": asked}}
    write_json(work / "data.json", about)
    return {**facts, "splits": found}
