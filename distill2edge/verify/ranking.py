"""How well a model ranks the texts of each query: rows that share the first text of a pair. Pure.

DCG is the sum over ranks r of gain / log2(1 + r) (Jarvelin and Kekalainen 2002), the gain being the grade itself; nDCG
divides it by that of the best order. Texts that a model scores alike share their ranks: each has their mean discount
(McSherry and Najork 2008), so that a model which scores all alike gains nothing by the order of the file.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distill2edge.util.bootstrap import mean_interval, ratio_interval

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded

Floats = NDArray[np.float64]
TOP = 10
DEFINITIONS = {
    "ndcg": f"mean over queries (rows that share the first text) of nDCG at {TOP}; gains are the grades, counted from "
    "the lowest where that is below 0; texts scored alike share their ranks; queries whose texts are all of one "
    "grade have no order and are left out",
    "mrr": "mean over queries of 1 / rank of the first text of the query's highest grade; others that are scored alike "
    "come before it",
    "ndcg_retained": f"nDCG at {TOP} / the teacher's, of the same queries, paired",
}


def ndcg(score: Floats, gain: Floats, top: int = TOP) -> float:
    """nDCG at `top` of one query's texts.

    Args:
        score: [n] of the model.
        gain: [n] from 0, not all 0.
    """
    discount = 1 / np.log2(np.arange(2, len(gain) + 2))
    discount[top:] = 0
    _, place, counts = np.unique(-score, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    sums = np.concatenate([[0.0], np.cumsum(discount)])
    shared = (sums[ends] - sums[ends - counts]) / counts
    best = float(np.sort(gain)[::-1] @ discount)
    return float(gain @ shared[place]) / best


def reciprocal_rank(score: Floats, gain: Floats) -> float:
    """1 / rank of the first text of the highest gain; others with its score come before it."""
    wanted = gain == gain.max()
    first = score[wanted].max()
    return 1 / (1 + int((score[~wanted] >= first).sum()))


@dataclass(frozen=True)
class Queries:
    """Held-out texts by query.

    Attributes:
        gain: [n] of every row.
        groups: rows of each query that has an order.
    """

    gain: Floats
    groups: tuple[NDArray[np.int64], ...]

    def ndcg(self, score: Floats) -> list[float]:
        """Of each query, by the model's scores [n] of the rows."""
        return [ndcg(score[group], self.gain[group]) for group in self.groups]

    def add(self, entries: Sequence[dict[str, Any]], scores: Mapping[str, Floats], seed: int) -> None:
        """Write figures into the entries of verify.json.

        Args:
            scores: [n] of each model that ran, by id.
        """
        teacher = scores.get("teacher")
        for entry in entries:
            name = entry["id"]
            if name in scores:
                entry |= self._figures(scores[name], None if name == "teacher" else teacher, seed)

    def _figures(self, score: Floats, teacher: Floats | None, seed: int) -> dict[str, Any]:
        own = self.ndcg(score)
        mrr = [reciprocal_rank(score[group], self.gain[group]) for group in self.groups]
        kept = None if teacher is None else ratio_interval(own, self.ndcg(teacher), seed=seed)
        return {
            "ndcg": mean_interval(own, seed=seed).as_dict(),
            "mrr": mean_interval(mrr, seed=seed).as_dict(),
            "ndcg_retained": kept and kept.as_dict(),
        }


def queries_of(rows: Sequence[Encoded], grades: Sequence[float]) -> Queries | None:
    """The queries of held-out rows; None where no two rows of different grades share their first text.

    Args:
        grades: [n] of the rows.
    """
    gain = np.asarray(grades, dtype=np.float64)
    gain = gain - min(0.0, float(gain.min()))
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        if row.query:
            groups[row.query].append(index)
    kept = tuple(np.array(group) for group in groups.values() if len({gain[index] for index in group}) > 1)
    return Queries(gain, kept) if kept else None
