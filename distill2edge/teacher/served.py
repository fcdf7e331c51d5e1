"""The logits signal of a served teacher: a server scores each row's own text, one request to a row.

How the server does that is found with the shortest rows, before the others are paid for: by `prompt_logprobs` it is
sent token ids; by `echo` a text, whose tokens must then be ours, one by one. What it lists is the k of the signal; the
mass beside it is spread evenly over the tokens that it does not name, which is what a top-k and its tail say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.errors import UserError
from distill2edge.generation.endpoint.asking import Asking, Heard
from distill2edge.generation.endpoint.client import COMPLETIONS
from distill2edge.generation.endpoint.reply import Failure, counted, read_choice
from distill2edge.generation.endpoint.scores import read_echo, read_prompt_logprobs
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.teacher.endpoint_record import prices_of
from distill2edge.teacher.served_rows import OTHER, SCORED, by_echo, by_ids, left_out, unpacked
from distill2edge.teacher.served_way import FIX, Texts, Way, other_tokens
from distill2edge.util.files import write_json

if TYPE_CHECKING:
    import torch

    from distill2edge.data.examples import Encoded
    from distill2edge.recipe.schema import Recipe
    from distill2edge.tasks.work import Facts
    from distill2edge.util.progress import Progress

_TRIED = 32  # rows that are read before the others are asked for
_PART = 1024


class ServedTeacher:
    """A server that scores texts.

    Args:
        tokenizer: of the student, which must be the teacher's too.
        work: directory of the answers.

    Attributes:
        name, dtype, vocab_size: as `generation.backends.Backend`.

    Raises:
        UserError: as `Asking`.
    """

    name, dtype = "endpoint", "served"

    def __init__(
        self, recipe: Recipe, tokenizer: Any, examples: Sequence[Encoded], work: Path, progress: Progress
    ) -> None:
        teacher, signal = recipe.teacher, recipe.signal
        assert teacher.url is not None
        assert teacher.endpoint is not None
        assert signal.kind == "logits"
        self._examples = list({example.id: example for example in examples}.values())
        self._top_k, self._progress = signal.top_k, progress
        room = 1024 + max(example.supervised for example in examples) * (signal.top_k + 1) * 12
        self._asking = Asking(
            teacher.url, COMPLETIONS, teacher.endpoint, prices_of(teacher.endpoint), work, progress, room
        )
        self._texts = Texts(self._asking, teacher.endpoint, tokenizer, signal.top_k, progress)
        self._records: dict[str, dict[str, Any]] = {}
        self.vocab_size = self._texts.names.size

    def ask(self) -> list[Encoded]:
        """Score the rows; returns those that could be.

        Raises:
            UserError: the server gives no log-probabilities, or has other tokens. And what `Asking.ask` raises.
        """
        way = self._texts.way(self._examples)
        rows = self._examples
        with self._progress.task("teacher scores", len(rows)) as task:
            for part in (rows[:_TRIED], *(rows[at : at + _PART] for at in range(_TRIED, len(rows), _PART))):
                requests = [self._texts.request(each, way) for each in part]
                read = {
                    request.key: partial(self._read, each, way) for request, each in zip(requests, part, strict=True)
                }
                found = self._asking.ask(requests, lambda request, read=read: read[request.key], task.advance)  # type: ignore[misc]
                self._records |= {each.id: record for each, record in zip(part, found, strict=True)}
                if len(self._records) == len(part):
                    self._check()
        if self.lost:
            reasons = "; ".join(f"{count:,} x {reason}" for reason, count in self.lost.most_common())
            self._progress.warn(
                f"{self.lost.total():,} of {len(rows):,} rows are left out: {reasons}: {self._instance()}"
            )
        return [each for each in rows if self._records[each.id]["finish"] == SCORED]

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        """As `generation.backends.Backend`: what is not listed shares the remaining mass evenly."""
        import torch

        for number, example in enumerate(examples):
            ids, logprobs = unpacked(self._records[example.id], example.supervised)
            known = ids >= 0
            listed = np.where(known, np.exp(logprobs), 0.0)
            rest = np.maximum(1.0 - listed.sum(-1), 2.0**-20) / np.maximum(self.vocab_size - known.sum(-1), 1)
            rows = np.repeat(np.log(rest)[:, None], self.vocab_size, axis=1).astype(np.float32)
            at, column = np.nonzero(known)
            rows[at, ids[at, column]] = logprobs[at, column]
            yield number, torch.from_numpy(rows)

    @property
    def top_k(self) -> int:
        """Log-probabilities that it has given at most, no more than were asked for."""
        return min(self._top_k, max(record.get("k", 1) for record in self._records.values()))

    @property
    def lost(self) -> Counter[str]:
        """Rows that were not scored, by the reason."""
        return Counter(_reason(record) for record in self._records.values() if record["finish"] != SCORED)

    @property
    def facts(self) -> dict[str, Any]:
        """What the scores have cost, how many rows were lost to what, and what was asked for."""
        unnamed = sum(record.get("unnamed", 0) for record in self._records.values())
        return {**self._asking.facts, "asked_top_k": self._top_k, "dropped": dict(self.lost), "unnamed": unnamed}

    def close(self) -> None:
        """Close connections and the file of answers."""
        self._asking.close()

    # --- one row ----------------------------------------------------------------------

    def _read(self, example: Encoded, way: Way, content: bytes) -> Heard | Failure:
        found = read_choice(content)
        if isinstance(found, Failure):
            return found
        choice, usage = found
        prompt, tokens = counted(usage)
        if prompt is not None and prompt != len(example.ids):
            kept: dict[str, Any] = left_out(OTHER, self._texts.names.count(prompt, example.ids))
        elif way.by_ids:
            kept = by_ids(example, self._texts.names, read_prompt_logprobs(choice))
        else:
            kept = by_echo(example, self._texts.names, read_echo(choice), way.late)
        return Heard(kept, prompt, tokens if tokens is not None else 1)

    # --- what was lost ----------------------------------------------------------------

    def _check(self) -> None:
        """Raise UserError where most of the first rows are lost."""
        if 2 * self.lost.total() <= len(self._records):
            return
        reason = self.lost.most_common(1)[0][0]
        if reason == OTHER:
            raise other_tokens(self._instance())
        raise UserError(
            f"{self.lost.total():,} of the first {len(self._records):,} rows cannot be scored ({reason}): "
            f"{self._instance()}",
            where="signal.kind",
            fix=FIX,
        )

    def _instance(self) -> str:
        """What is said of the first row that was lost."""
        return next(_said(record) for record in self._records.values() if record["finish"] != SCORED)


def _reason(record: Mapping[str, Any]) -> str:
    return str(record["finish"]).partition(":")[0]


def _said(record: Mapping[str, Any]) -> str:
    return str(record.get("said") or record["finish"])


def cache_served(recipe: Recipe, model_dir: Path, rows: Sequence[Encoded], work: Path, progress: Progress) -> Facts:
    """Have the endpoint of a recipe score rows, and write the shards of `logits.cache_logits`.

    Args:
        model_dir: holds the tokenizer of the student, which must be the teacher's too.

    Returns:
        facts: those of `cache_logits`, where `top_k` is what the server gives; and of `ServedTeacher.facts`.

    Raises:
        UserError: no rows; the server gives no log-probabilities, or has other tokens. And what `Asking.ask` raises.
    """
    from distill2edge.teacher.logits import cache_logits, no_rows

    if not rows:
        raise no_rows()
    served = ServedTeacher(recipe, load_tokenizer(model_dir), rows, work, progress)
    try:
        kept = served.ask()
        signal = recipe.signal.model_copy(update={"top_k": served.top_k})
        facts = cache_logits(model_dir, kept, signal, work, progress, runner=served)
        facts |= {"tokens_per_s": None, **served.facts}  # how fast a server is, is not measured here
    finally:
        served.close()
    write_json(work / "signal.json", facts)
    return facts
