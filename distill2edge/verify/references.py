"""What a model's distributions are compared with: those of the dense teacher or student, on the same tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill2edge.data.full_tokens import same_rows
from distill2edge.util.files import write_json
from distill2edge.verify import fidelity

if TYPE_CHECKING:
    from distill2edge.models.model_file import Encodings
    from distill2edge.recipe.schema import Verify
    from distill2edge.verify.fidelity import Span
    from distill2edge.verify.scores import Floats

COLUMNS = "columns-teacher.json"


@dataclass(frozen=True)
class Reference:
    """A reference's log-probabilities, and where each compared row has its own.

    Attributes:
        logprob: [n, V].
        starts: of each compared row its first position here; None: it is read in other tokens.
        columns: of a model with fewer tokens: which of the V are its own.
    """

    logprob: Floats
    starts: Sequence[int | None]
    columns: NDArray[np.int64] | None = None

    def compared(self, spans: Sequence[Span]) -> list[int]:
        """Count of positions of each row that is compared with it."""
        return [len(span.positions) for span, start in zip(spans, self.starts, strict=True) if start is not None]

    def compare(self, index: int, logprob: Floats) -> tuple[list[float], list[float]]:
        """KL(reference || model) and agreement of the first token at each position of a row; empty: not compared."""
        start = self.starts[index]
        if start is None:
            return [], []
        there = self.logprob[start : start + len(logprob)]
        kl = fidelity.kl_divergence(fidelity.among(there, self.columns), logprob)
        return kl.tolist(), fidelity.agreement(there, logprob, self.columns).tolist()


def open_reference(role: str, spec: Mapping[str, Any], here: Path, spans: Sequence[Span]) -> Reference | None:
    """The reference of a role in a worker's spec; None where there is none.

    Args:
        spans: of the model's own rows.
    """
    if not spec[f"{role}_reference"]:
        return None
    path, starts = here / spec[f"{role}_reference"], [span.start for span in spans]
    if role != "teacher" or "teacher_columns" not in spec:
        return Reference(fidelity.open_reference(path, fidelity.count_positions(spans)), starts)
    columns = np.asarray(json.loads((here / spec["teacher_columns"]).read_text()), dtype=np.int64)
    return Reference(fidelity.open_reference(path, spec["teacher_positions"]), spec["teacher_starts"], columns)


def is_trimmed(ours: Encodings, theirs: Encodings) -> bool:
    """Whether our tokens are some of theirs."""
    return ours.full is not None and ours.full.full == theirs.vocabulary


def fewer_tokens(ours: Encodings, theirs: Encodings, spec: Verify, directory: Path) -> dict[str, Any]:
    """For a worker's spec: how a model with a trimmed vocabulary finds its rows and tokens in the teacher's reference;
    empty where it has the same tokens. Writes the columns into `directory`."""
    if not is_trimmed(ours, theirs):
        return {}
    assert ours.full is not None
    write_json(directory / COLUMNS, ours.full.new_to_old.tolist())
    same = same_rows(ours.rows, theirs.rows, ours.full)
    mine, others = (fidelity.choose_positions(side.rows, spec.max_tokens, spec.positions) for side in (ours, theirs))
    there = {span.row: span for span in others}
    starts = [
        there[span.row].start
        if same[span.row] and span.row in there and there[span.row].positions == span.positions
        else None
        for span in mine
    ]
    positions = fidelity.count_positions(others)
    return {"teacher_columns": COLUMNS, "teacher_starts": starts, "teacher_positions": positions}
