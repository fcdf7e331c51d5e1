"""Answers in numbered shards: a killed synthesis replays what it has, and asks only for what is missing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.generation.generate import Answer, Ask, Generator
from distill2edge.generation.writers import Sampling
from distill2edge.util.files import write_text

if TYPE_CHECKING:
    from distill2edge.recipe.synthesis import Writing


class Recorded:
    """A generator whose every call is one shard, `written-00000.jsonl`, ...; whole or not there.

    Everything else in a synthesis follows from the seed and these answers, so a run that replays them continues as if
    it had never been stopped. A shard of other questions (a recipe that changed) is written again.
    """

    def __init__(self, generator: Generator, work: Path, seed: int) -> None:
        self.generator, self._work, self._seed, self._number = generator, work, seed, 0

    def ask(self, asks: Sequence[Ask], writing: Writing, done: Callable[..., None] | None = None) -> list[Answer]:
        """The answers, in order; from the shard where it is there.

        Raises:
            UserError: as `Generator.generate`.
        """
        path = self._work / f"written-{self._number:05d}.jsonl"
        seed = (self._seed * 1_000_003 + self._number) % (1 << 31)
        self._number += 1
        sampling = Sampling(writing.max_new_tokens, writing.temperature, writing.top_p)
        asked = json.dumps([[ask.messages for ask in asks], asdict(sampling), seed])
        name = hashlib.sha256(asked.encode()).hexdigest()
        found = _read(path, name)
        if found is not None:
            if done:
                done(len(asks))
            return found
        answers = self.generator.generate(asks, sampling, seed, done)
        lines = [{"of": name}, *(asdict(answer) for answer in answers)]
        write_text(path, "".join(json.dumps(line, ensure_ascii=True) + "\n" for line in lines))
        return answers


def _read(path: Path, name: str) -> list[Answer] | None:
    if not path.is_file():
        return None
    head, *lines = path.read_text(encoding="utf-8").splitlines()
    return [Answer(**json.loads(line)) for line in lines] if json.loads(head) == {"of": name} else None
