"""How far a student is from its teacher on rows that it was not trained on: KL in nats per token, weights as stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from distill2edge.models.id_map import IdMap
    from distill2edge.util.progress import Progress


@dataclass(frozen=True)
class Compared:
    """A row as both read it.

    Attributes:
        tokens, places: the teacher's, and the positions whose distributions are compared.
        own_tokens, own_places: the student's, after the same text.
    """

    tokens: Sequence[int]
    places: Sequence[int]
    own_tokens: Sequence[int]
    own_places: Sequence[int]


def same(tokens: Sequence[int], places: Sequence[int]) -> Compared:
    """Of a student with the teacher's vocabulary."""
    return Compared(tokens, places, tokens, places)


def aligned(
    tokens: Sequence[int], places: Sequence[int], own: Sequence[int], ids: IdMap, piece: Callable[[int], str]
) -> Compared:
    """Of a student with a trimmed vocabulary, which reads some tokens in pieces: the places that end the same text.

    Args:
        own: the row in the student's tokens.
        piece: of an id of the whole vocabulary, the token's string.
    """
    whole, trimmed = (list(accumulate(len(piece(token)) for token in each)) for each in (tokens, ids.to_old(own)))
    at = {length: index for index, length in enumerate(trimmed)}
    both = [(place, at[whole[place]]) for place in places if whole[place] in at]
    return Compared(tokens, [place for place, _ in both], own, [place for _, place in both])


def divergences(
    teacher_dir: Path, student_dir: Path, rows: Sequence[Compared], ids: IdMap | None, progress: Progress
) -> list[tuple[float, int]]:
    """Of each row that has some: KL(teacher || student) summed over positions, and how many there are.

    Args:
        ids: of a trimmed vocabulary.
    """
    import torch

    from distill2edge.models.loading import load_model

    teacher, student = (load_model(place, dtype=torch.float32).eval() for place in (teacher_dir, student_dir))
    found = []
    with torch.no_grad(), progress.task("comparing with the teacher", len(rows)) as task:
        for row in rows:
            if row.places:
                found.append((float(of_row(said(teacher, row.tokens), student, row, ids)), len(row.places)))
            task.advance()
    return found


def of_row(whole: torch.Tensor, student: Any, row: Compared, ids: IdMap | None) -> torch.Tensor:
    """KL(teacher || student) summed over a row's positions, in nats.

    The teacher of a student with a trimmed vocabulary is the one restricted to its tokens, and what that costs is
    added: -ln of the mass that the teacher has on them.

    Args:
        whole: [tokens, vocabulary], what the teacher says.
    """
    import torch

    with torch.no_grad():
        p = whole[list(row.places)]
        lost = torch.zeros(len(row.places))
        if ids is not None:
            kept = p[:, torch.from_numpy(ids.new_to_old)]
            lost, p = p.logsumexp(-1) - kept.logsumexp(-1), kept
        p = torch.log_softmax(p, -1)
    q = torch.log_softmax(said(student, row.own_tokens)[list(row.own_places)], -1)
    return ((p.exp() * (p - q[:, : p.shape[1]])).sum(-1) + lost).sum()


def said(model: Any, tokens: Sequence[int]) -> torch.Tensor:
    """Logits [tokens, vocabulary] in float32."""
    import torch

    found: torch.Tensor = model(input_ids=torch.tensor([list(tokens)]), use_cache=False).logits[0]
    return found.float()
