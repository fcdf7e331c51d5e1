"""Workloads: the same token ids for every runtime, cut from the held-out rows, with a forced output length."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings
from distill2edge.util.nearest import nearest

_CHAT = re.compile(r"chat-([1-9]\d*)-([1-9]\d*)")
_ROWS_SEED = 0
"""Chooses the rows of every workload."""


@dataclass(frozen=True)
class Request:
    """One request: prompt token ids, and how many tokens come out whatever the model says."""

    ids: list[int]
    output: int


@dataclass(frozen=True)
class Workload:
    """Requests by the vocabulary they are written in: `teacher`, and `student` where it reads other tokens."""

    name: str
    requests: Mapping[str, list[Request]]

    def of(self, role: str) -> list[Request]:
        """The requests a role gets."""
        return self.requests["teacher" if role == "teacher" or "student" not in self.requests else "student"]

    def as_dict(self) -> dict[str, Any]:
        """For `bench.json`: mean lengths in the teacher's tokens, and a hash of every id."""
        requests = self.requests["teacher"]
        return {
            "name": self.name,
            "prompt_tokens": _mean([len(request.ids) for request in requests]),
            "output_tokens": _mean([request.output for request in requests]),
            "requests": len(requests),
            "sha256": self.sha256,
        }

    @property
    def sha256(self) -> str:
        """Over all ids and lengths: two benches with the same one did the same work."""
        content = {role: [[r.ids, r.output] for r in requests] for role, requests in sorted(self.requests.items())}
        return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()


def check_names(names: Sequence[str]) -> None:
    """Refuse workloads that cannot be made, before there are rows.

    Raises:
        UserError: an unknown name, the same one twice, or lengths that no model takes.
    """
    if len(set(names)) != len(names):
        raise UserError("bench.workloads names one twice", where="bench.workloads", fix="name each once")
    for name in names:
        if name != "task":
            _shape(name)


def _shape(name: str) -> tuple[int, int]:
    """Tokens in and out of `chat-P-N`."""
    shape = _CHAT.fullmatch(name)
    if not shape:
        lengths = re.findall(r"\d+", name)
        near = f"chat-{lengths[0]}-{lengths[1]}" if len(lengths) == 2 else nearest(name, ["task"])
        hint = f"did you mean {near}? " if near else ""
        fix = f"{hint}task, or chat-P-N with P tokens in and N out (chat-128-64)"
        raise UserError(f"unknown workload {name[:60]!r}", where="bench.workloads", fix=fix)
    if max(len(shape[1]), len(shape[2])) > 6:
        raise UserError(f"{name[:60]}: no model reads or writes that much", where="bench.workloads", fix="chat-128-64")
    prompt, output = int(shape[1]), int(shape[2])
    if output < 2:
        raise UserError(
            f"{name}: one token out has no speed to measure", where="bench.workloads", fix="ask for at least 2"
        )
    return prompt, output


def build_workloads(names: Sequence[str], encodings: Mapping[str, Encodings], requests: int) -> list[Workload]:
    """The named workloads.

    `task`: prompts of held-out rows with the length of their own response, at least 2 tokens (one has no pace);
    a row without a prompt is cut in half; a text to classify goes in whole, and one label comes out.
    `chat-P-N`: P tokens of the rows' text, N tokens out.

    The same rows give the same workloads, whatever seed trained the models: those of several seeds compare.

    Args:
        names: of the workloads.
        encodings: as for `verify`.
        requests: of each workload.

    Raises:
        UserError: an unknown name, or the same one twice.
    """
    check_names(names)
    count = len(encodings["teacher"].rows)
    chosen = np.random.default_rng(_ROWS_SEED).permutation(count)
    rows = [int(chosen[index % count]) for index in range(requests)]
    return [Workload(name, {role: _cut(name, side, rows) for role, side in encodings.items()}) for name in names]


def _cut(name: str, side: Encodings, rows: Sequence[int]) -> list[Request]:
    if name == "task":
        return [_task(side, index) for index in rows]
    prompt, output = _shape(name)
    need = prompt * len(rows)
    text: list[int] = []
    while len(text) < need:
        text += [token for row in side.rows for token in row.ids]
    return [Request(text[start : start + prompt], output) for start in range(0, need, prompt)]


def _task(side: Encodings, index: int) -> Request:
    row = side.rows[index]
    if not any(row.mask):  # a text to classify: one label comes out
        return Request(list(row.ids), 1)
    if side.output is not None:
        return Request(list(row.ids[: row.prompt_length]), side.output)
    begin = row.prompt_length if row.prompt_length > 1 else max(1, len(row.ids) // 2)
    return Request(list(row.ids[:begin]), max(2, len(row.ids) - begin))


def _mean(values: Sequence[int]) -> float | int:
    mean = sum(values) / len(values)
    return int(mean) if mean.is_integer() else round(mean, 1)
