"""The teacher's distributions in the tokens of a student whose tokenizer is another.

The teacher reads its own tokens of the same text. Where both tokenizations have a border (`data.borders`), its
distribution over the next token becomes one over the student's tokens (`vocabulary_map`), and what the text itself
shows is accounted exactly: the probability of the teacher's tokens up to the next common border, by the chain rule,
goes to the student's token there. The rest is the mass that no token of the student can carry; it is in the tail. At
every other position nothing is known: the whole mass is in the tail, where any student agrees with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data.borders import Match, matches
from distill2edge.data.spelling import spelling_of
from distill2edge.errors import UserError
from distill2edge.intake.vocabularies import vocabulary_hash
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.teacher.token_views import shift_of
from distill2edge.teacher.vocabulary_map import VocabularyMap, vocabulary_map

if TYPE_CHECKING:
    import torch

    from distill2edge.data.examples import Encoded

LEAST = 1 / 3
"""Share of the student's supervised tokens that must be matched: below, text is the better signal."""

LOG_NOTHING = -6e4
"""Log-probability of what is named no event: the least of float16; its exponential is 0."""


class Aligned:
    """As `token_views.Tokens`, across two tokenizers.

    Args:
        teacher_dir, student_dir: Hugging Face directories.
        template: as `data.template`.
        theirs: the rows in the teacher's tokens; ours: in the student's. They are paired by `Encoded.row`.

    Attributes:
        vocabulary: hash of the student's token -> id.
        settings: of the shards, beside those of every signal.

    Raises:
        UserError: a tokenizer whose tokens cannot be spelt, or too little that can be matched.
    """

    def __init__(
        self,
        teacher_dir: Path,
        student_dir: Path,
        template: str,
        theirs: Sequence[Encoded],
        ours: Sequence[Encoded],
    ) -> None:
        teacher, student = load_tokenizer(teacher_dir), load_tokenizer(student_dir)
        its, own = spelling_of(teacher, template), spelling_of(student, template)
        self.vocabulary = vocabulary_hash(student)
        self.settings = {"align": "vocabulary", "teacher_vocabulary": vocabulary_hash(teacher)}
        self._map = vocabulary_map(its, own, student)
        by_row = {example.row: example for example in theirs}
        self._read = {example.id: by_row.get(example.row) for example in ours}
        self._matches = {
            example.id: [] if (read := self._read[example.id]) is None else matches(example, read, own, its)
            for example in ours
        }
        examples = {example.id: example for example in ours}
        self._positions = sum(example.supervised for example in examples.values())
        self._matched = sum(map(len, self._matches.values()))
        require_matched(self._matched, self._positions)

    def of(self, examples: Sequence[Encoded]) -> Aligned:
        """As `token_views.Tokens.of`."""
        part, names = copy(self), [example.id for example in examples]
        part._read = {name: self._read[name] for name in names}
        part._matches = {name: self._matches[name] for name in names}
        return part

    @property
    def share(self) -> float:
        """Of the student's supervised tokens that are matched."""
        return self._matched / self._positions

    def size(self, rows: int) -> int:
        """As `token_views.Tokens.size`: of the student."""
        return self._map.size

    def wide(self, rows: int) -> bool:
        """As `token_views.Tokens.wide`: there must be an id far beyond any padding of the student's rows."""
        return self._map.size > 1 << 15

    def read(self, example: Encoded) -> Encoded | None:
        """As `token_views.Tokens.read`: nothing of a row that is too long in the teacher's tokens."""
        return self._read[example.id] if self._matches[example.id] else None

    def compress(
        self, example: Encoded, logits: torch.Tensor | None, k: int, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, float]]:
        """As `token_views.Tokens.compress`; the sums, over the matched positions, are of the probability on tokens that
        both have (`whole`), and on those that the student begins with a token of its own (`begun`)."""
        import torch

        beyond, device = (1 << 31) - 1 if self.wide(0) else (1 << 16) - 1, None if logits is None else logits.device
        index = torch.full((example.supervised, k), beyond, dtype=torch.int64, device=device)
        logprob = torch.full((example.supervised, k), LOG_NOTHING, device=device)
        shift = torch.zeros(example.supervised, device=device)
        sums = {"whole": 0.0, "begun": 0.0}
        found = self._matches[example.id]
        if logits is None or not found:
            return index, logprob, shift, sums
        at = torch.tensor([match.position for match in found], device=device)
        z, sums = mapped(logits, found, self._map)
        top, kept = torch.topk(z[:, : self._map.size], k, dim=-1)
        nothing = top == -torch.inf
        if z.shape[1] > k == self._map.size:
            z[~nothing.any(-1), -1] = -torch.inf  # where every token is named there is no tail to hold the rest
        lse = torch.logsumexp(z, -1)
        shift[at] = shift_of(z, lse, temperature)
        index[at] = torch.where(nothing, beyond, kept)
        logprob[at] = torch.where(nothing, LOG_NOTHING, top - lse[:, None])
        return index, logprob, shift, sums

    def facts(self, sums: dict[str, float]) -> dict[str, Any]:
        """As `token_views.Tokens.facts`: what was matched, and what became of the teacher's probability there."""
        matched = max(self._matched, 1)
        return {
            "align": "vocabulary",
            "matched_positions": self._matched,
            "matched_share": round(self.share, 4),
            "mass_mapped": round(
                min((sums["whole"] + sums["begun"]) / matched, 1.0), 6
            ),  # float32 adds up to a bit more
            "mass_on_shared_tokens": round(min(sums["whole"] / matched, 1.0), 6),
            "tokens_shared": int(self._map.whole.sum()),
            "tokens_begun": int(((self._map.to >= 0) & ~self._map.whole).sum()),
            "tokens_of_teacher": len(self._map.to),
        }

    def known(self, positions: int) -> int:
        """As `token_views.Tokens.known`."""
        return self._matched


def require_matched(matched: int, positions: int) -> None:
    """Refuse tokenizers that cut the text too differently.

    Raises:
        UserError: fewer than `LEAST` of the student's supervised tokens begin where one of the teacher's does.
    """
    if matched >= LEAST * positions:
        return
    raise UserError(
        f"{matched:,} of {positions:,} of the student's supervised tokens can be matched with the teacher's "
        f"({matched / positions:.0%}); fewer than a third teach less than text does",
        where="signal.align",
        fix="use signal: {kind: text} with distill.loss: {ce: 1}, or a student whose tokenizer cuts the text alike",
    )


def mapped(
    logits: torch.Tensor, found: Sequence[Match], vocabulary: VocabularyMap
) -> tuple[torch.Tensor, dict[str, float]]:
    """The teacher's distributions at the matched positions, over the student's tokens.

    Rows of the teacher's embedding beyond its tokens are no tokens: they get no probability.

    Args:
        logits: [P, V] float32 of the teacher, P its supervised tokens.
        found: m matches.

    Returns:
        z: [m, S + 1]: logits over the student's S ids, and last the mass that none of them carries. With two equal
            vocabularies and the same tokens they are the teacher's own logits, [m, S].
        sums: `whole`, `begun`, as `Aligned.compress`.
    """
    import torch

    own = logits[:, : len(vocabulary.to)]
    to, whole = (torch.from_numpy(each[: own.shape[1]]).to(own.device) for each in (vocabulary.to, vocabulary.whole))
    rows, token, begins = _columns(((match.first, match.token, match.spelt[0]) for match in found), own.device)
    if vocabulary.identical and all(match.spelt == (match.token,) for match in found):
        return own[rows], {"whole": float(len(rows)), "begun": 0.0}
    log_p = torch.log_softmax(own, -1)
    p, target = log_p[rows].exp(), torch.where(to < 0, vocabulary.size, to)
    q = p.new_zeros(len(rows), vocabulary.size + 1).index_add_(1, target, p)
    spelt = ((row, match.first + n, each) for row, match in enumerate(found) for n, each in enumerate(match.spelt))
    owner, place, each = _columns(spelt, own.device)
    joint = log_p.new_zeros(len(rows)).index_add_(0, owner, log_p[place, each]).exp()  # by the chain rule
    source = target[begins]
    (moved,) = (source != token).nonzero(as_tuple=True)
    q[moved, source[moved]] -= joint[moved]
    q[moved, token[moved]] += joint[moved]
    sums = {"whole": float(p[:, whole].sum()), "begun": float(p[:, ~whole & (to >= 0)].sum())}
    return q.clamp_min_(0.0).log_(), sums


def _columns(rows: Iterable[tuple[int, ...]], device: torch.device) -> Iterator[torch.Tensor]:
    """The columns of some rows of numbers."""
    import torch

    yield from torch.tensor(list(rows), device=device).unbind(1)
