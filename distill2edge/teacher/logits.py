"""The logits signal: what a teacher says at supervised positions, in resumable shards.

A shard is a safetensors file, made by `logit_shards`. Tokens, ids and positions are those of the model that learns:
where its tokenizer is another than the teacher's, `aligned.Aligned` makes them of what the teacher says of its own.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from distill2edge.data.encoded_rows import unique
from distill2edge.data.examples import Encoded
from distill2edge.errors import UserError
from distill2edge.generation.backends import Backend
from distill2edge.generation.open_backend import open_backend
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.logit_shards import open_shard, settings_of
from distill2edge.teacher.token_views import OwnTokens, Tokens
from distill2edge.util.files import replacing, write_json
from distill2edge.util.progress import Progress, Task
from distill2edge.util.tensor_files import save_arrays
from distill2edge.workers.mapping import map_shards

SHARD_ROWS = 512
SHARD_TOKENS = 16_384  # about 20 s of a 135M teacher on two cores: what a kill can cost


def cache_logits(
    model_dir: Path,
    encoded: Sequence[Encoded],
    signal: LogitsSignal,
    work: Path,
    progress: Progress,
    *,
    backend: str = "auto",
    gguf_path: Path | None = None,
    dtype: str = "auto",
    tokens: Tokens | None = None,
    runner: Backend | None = None,
    placement: Placement = WHOLE,
    seed: int = 0,
    shard_rows: int = SHARD_ROWS,
    shard_tokens: int = SHARD_TOKENS,
) -> dict[str, Any]:
    """Write the teacher's distributions over `encoded` as shards, and `signal.json`.

    Examples with the same id are computed once. A shard that is there already, from an earlier try of the same
    inputs, is kept. Only one shard is in memory at a time.

    Args:
        model_dir: the teacher as a Hugging Face directory; its tokenizer names the vocabulary.
        backend: `auto` (transformers), `transformers` or `llama.cpp`.
        gguf_path: the teacher as a GGUF, for llama.cpp.
        dtype: `auto`, `float32` or `bfloat16`, of the transformers forward pass; the output head is always float32.
        tokens: where those of `encoded` are not the teacher's own.
        runner: the teacher where it is open already, in place of the last three; it stays open.
        placement: of its weights in transformers.
        seed: of a sample's draws.

    Returns:
        facts: examples, positions, shards, bytes, bytes_per_position, temperature, seconds, tokens_per_s, backend,
        dtype; what is kept (`_kept`); and those of `tokens`.

    Raises:
        UserError: no examples, or a backend that does not fit the teacher.
    """
    if not encoded:
        raise no_rows()
    work.mkdir(parents=True, exist_ok=True)
    examples = unique(encoded)
    shards = list(_shards(examples, shard_rows, shard_tokens))
    for stale in sorted(work.glob("shard-*.safetensors"))[len(shards) :]:
        stale.unlink()
    tokens = tokens or OwnTokens(model_dir)
    settings = settings_of(signal, tokens, seed)
    missing = [n for n, shard in enumerate(shards) if not _complete(_path(work, n), examples[shard], settings)]
    ran: dict[str, Any] = {"seconds": 0.0, "tokens_per_s": None, "backend": None, "dtype": None}
    with progress.task("teacher logits", len(examples)) as task:
        task.advance(len(examples) - sum(shards[n].stop - shards[n].start for n in missing))
        if missing:
            todo = [(number, examples[shards[number]]) for number in missing]
            read = _extent((each for _, shard in todo for each in shard), tokens)
            load = partial(
                open_backend, backend, model_dir, gguf_path, dtype, longest=read.longest, placement=placement
            )
            said = _Said(load, runner, signal, seed, read.largest)
            given = ((number, _Part(list(lazy), tokens)) for number, lazy in todo)
            reads = [model_dir, *([] if gguf_path is None else [gguf_path])]
            ran = _run(said, given, len(todo), read, work, settings, task, reads)
            said.close()
    facts = {**_facts(work, len(shards), signal, tokens), "examples": len(examples), **ran}
    write_json(work / "signal.json", facts)
    return facts


def _run(
    said: _Said,
    parts: Iterable[tuple[int, _Part]],
    count: int,
    read: _Extent,
    work: Path,
    settings: dict[str, str],
    task: Task,
    reads: Sequence[Path],
) -> dict[str, Any]:
    """Write the shards that are not there; seconds (without loading), tokens_per_s, backend, dtype."""
    begin, last = time.monotonic(), None
    for number, last in map_shards(said, parts, count, task, reads=reads):
        _write_shard(_path(work, number), last, settings)
    assert last is not None
    seconds = time.monotonic() - begin - last.loading_s
    rate = round(read.tokens / seconds, 1) if seconds else None
    return {"seconds": round(seconds, 3), "tokens_per_s": rate, "backend": last.backend, "dtype": last.dtype}


class _Part(NamedTuple):
    """The examples of a shard, and whose tokens its distributions are over."""

    examples: list[Encoded]
    tokens: Tokens

    def __reduce__(self) -> Any:
        return _Part, (self.examples, self.tokens.of(self.examples))


class _Made(NamedTuple):
    """A shard as it is written, and what ran."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]
    backend: str
    dtype: str
    loading_s: float


class _Said:
    """As `workers.mapping.Pass`: what the teacher says of the examples of a shard.

    It is pickled without the teacher.

    Args:
        load: opens the teacher.
        runner: that is open already; it stays open.
        largest: id of a token that it is given.
    """

    def __init__(
        self, load: Callable[[], Backend], runner: Backend | None, signal: LogitsSignal, seed: int, largest: int
    ) -> None:
        self._load, self._signal, self._seed, self._largest = load, signal, seed, largest
        self._teacher, self._given, self._loading_s = runner, runner is not None, 0.0

    def __call__(self, part: _Part, done: Callable[..., None]) -> _Made:
        teacher = self._open()
        kept = open_shard(part.examples, self._signal, part.tokens, teacher.vocab_size, self._seed)
        for number, logits in _asked(part, teacher):
            kept.keep(number, logits)
            done(1)
        metadata = {**kept.metadata(), "ids": json.dumps([example.id for example in part.examples])}
        return _Made(kept.arrays(), metadata, teacher.name, teacher.dtype, self._loading_s)

    def _open(self) -> Backend:
        if self._teacher is None:
            begin = time.monotonic()
            self._teacher = self._load()
            self._loading_s = time.monotonic() - begin
        _check_ids(self._largest, self._teacher.vocab_size)
        return self._teacher

    def close(self) -> None:
        """Free the weights, where they were loaded here."""
        if self._teacher is not None and not self._given:
            self._teacher.close()

    def __getstate__(self) -> dict[str, Any]:
        assert not self._given, "a teacher that is open already stays in its process"
        return {**self.__dict__, "_teacher": None}


def no_rows() -> UserError:
    """The error where no row is left to run the teacher on."""
    return UserError("no rows to run the teacher on", where="data", fix="check data.filter and data.max_length")


class _Extent(NamedTuple):
    """What the teacher reads of all examples: the most tokens of one, all tokens, the largest id."""

    longest: int = 1
    tokens: int = 0
    largest: int = 0


def _extent(examples: Iterable[Encoded], tokens: Tokens) -> _Extent:
    found = _Extent()
    for example in examples:
        if (read := tokens.read(example)) is not None:
            size, largest = len(read.ids), max(read.ids)
            found = _Extent(max(found.longest, size), found.tokens + size, max(found.largest, largest))
    return found


def _check_ids(largest: int, rows: int) -> None:
    if largest >= rows:
        raise UserError(
            f"the rows hold the token id {largest}, and the teacher's embedding has {rows} rows",
            where="teacher.model",
            fix="use the tokenizer that the model was trained with, or leave such rows out with data.filter",
        )


def _shards(examples: Sequence[Encoded], rows: int, tokens: int) -> Iterator[slice]:
    """Runs of examples, cut by rows and by tokens; the same cuts for the same examples."""
    begin = held = 0
    for number, example in enumerate(examples):
        if number > begin and (number - begin == rows or held + len(example.ids) > tokens):
            yield slice(begin, number)
            begin, held = number, 0
        held += len(example.ids)
    if begin < len(examples):
        yield slice(begin, len(examples))


def _asked(part: _Part, teacher: Backend) -> Iterator[tuple[int, Any]]:
    """The number of each example, and the logits of its supervised tokens; None where the teacher reads nothing."""
    import torch

    examples = part.examples
    read = [(number, found) for number, each in enumerate(examples) if (found := part.tokens.read(each)) is not None]
    for number in set(range(len(examples))).difference(number for number, _ in read):
        yield number, None
    for place, logits in teacher.supervised_logits([found for _, found in read]):
        number, asked = read[place]
        if logits.shape[0] != asked.supervised:
            raise AssertionError(f"{logits.shape[0]} distributions for {asked.supervised} supervised tokens")
        if not torch.isfinite(logits.sum()):  # one number that is not finite makes the sum so
            raise UserError(
                "the teacher gives infinite or undefined logits",
                where="teacher.model",
                fix="use another dtype or backend for the teacher: its weights overflow in this one",
            )
        yield number, logits


def _write_shard(path: Path, made: _Made, settings: dict[str, str]) -> None:
    with replacing(path) as temporary:
        save_arrays(made.arrays, temporary, {**settings, **made.metadata})


def _complete(path: Path, examples: Sequence[Encoded], settings: dict[str, str]) -> bool:
    """Whether a shard is there, whole, and of these examples and settings."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="numpy") as shard:
            metadata = shard.metadata() or {}
            same = all(metadata.get(key) == value for key, value in settings.items())
            return same and json.loads(metadata.get("ids", "[]")) == [example.id for example in examples]
    except (SafetensorError, OSError, ValueError):
        return False


def _facts(work: Path, count: int, signal: LogitsSignal, tokens: Tokens) -> dict[str, Any]:
    from safetensors import safe_open

    size, k = 0, 0
    totals: defaultdict[str, float] = defaultdict(float)
    sums: defaultdict[str, float] = defaultdict(float)
    for number in range(count):
        path = _path(work, number)
        size += path.stat().st_size
        with safe_open(path, framework="numpy") as shard:
            added: dict[str, float] = json.loads((shard.metadata() or {}).get("sums", "{}"))
            for into, values in ((totals, _counted(shard, signal)), (sums, added)):
                for name, value in values.items():
                    into[name] += value
            k = signal.top_k if signal.compact else shard.get_slice("index").get_shape()[1]
    positions = int(totals["positions"])
    return {
        "schema_version": 1,
        "kind": "logits",
        **_kept(signal, k, totals, tokens.known(positions)),
        "temperature": signal.temperature,
        "positions": positions,
        "shards": count,
        "bytes": size,
        "bytes_per_position": round(size / positions, 1),
        **tokens.facts(sums),
    }


def _counted(shard: Any, signal: LogitsSignal) -> dict[str, float]:
    """Sums over the positions of a shard: their number, tokens, and the mass on those with their own probability."""
    if signal.compact:
        counts, rest = shard.get_tensor("counts"), shard.get_tensor("rest").astype(np.float64)
        own = float((1.0 - np.exp(rest)).sum())
        return {"positions": len(counts), "tokens": float(counts.sum(dtype=np.int64)), "own": own}
    logprob = shard.get_tensor("logprob")
    inside = float(np.minimum(np.exp(logprob, dtype=np.float32).sum(axis=1), 1.0).sum())
    return {"positions": len(logprob), "tokens": float(logprob.size), "own": inside}


def _kept(signal: LogitsSignal, k: int, totals: Mapping[str, float], known: int) -> dict[str, Any]:
    """What is kept: top_k and tail_mass (mean probability outside the top k, at temperature 1); of a compact form
    tokens_per_position, and with `mass` and top_k the tail_mass, with `sample` the drawn_mass, at the signal's own."""
    outside = round(1.0 - totals["own"] / known, 6)
    if not signal.compact:
        return {"top_k": k, "tail_mass": outside}
    tokens = {"tokens_per_position": round(totals["tokens"] / totals["positions"], 2)}
    if signal.sample is not None:
        return {"sample": signal.sample, **tokens, "drawn_mass": outside}
    return {"top_k": k, "mass": signal.mass, **tokens, "tail_mass": outside}


def _path(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.safetensors"
