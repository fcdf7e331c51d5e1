"""The logits signal: what a teacher says at supervised positions, in resumable shards.

A shard is a safetensors file, made by `logit_shards`. Tokens, ids and positions are those of the model that learns:
where its tokenizer is another than the teacher's, `aligned.Aligned` makes them of what the teacher says of its own.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from distill2edge.teacher.logit_shards import Shard, open_shard, settings_of
from distill2edge.teacher.token_views import OwnTokens, Tokens
from distill2edge.util.files import replacing, write_json
from distill2edge.util.progress import Progress

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
            todo = [(_path(work, number), examples[shards[number]]) for number in missing]
            read = _extent((each for _, shard in todo for each in shard), tokens)
            teacher = runner or open_backend(
                backend, model_dir, gguf_path, dtype, longest=read.longest, placement=placement
            )
            ran = _run(todo, read, teacher, tokens, signal, settings, seed, task)
            if runner is None:
                teacher.close()
    facts = {**_facts(work, len(shards), signal, tokens), "examples": len(examples), **ran}
    write_json(work / "signal.json", facts)
    return facts


def _run(
    todo: Sequence[tuple[Path, Sequence[Encoded]]],
    read: _Extent,
    teacher: Backend,
    tokens: Tokens,
    signal: LogitsSignal,
    settings: dict[str, str],
    seed: int,
    task: Any,
) -> dict[str, Any]:
    """Write the shards that are not there; seconds, tokens_per_s, backend, dtype."""
    _check_ids(read.largest, teacher.vocab_size)
    begin = time.monotonic()
    for path, lazy in todo:
        shard = list(lazy)
        kept = open_shard(shard, signal, tokens, teacher.vocab_size, seed)
        _write_shard(path, shard, teacher, tokens, kept, settings, task)
    seconds = time.monotonic() - begin
    rate = round(read.tokens / seconds, 1) if seconds else None
    return {"seconds": round(seconds, 3), "tokens_per_s": rate, "backend": teacher.name, "dtype": teacher.dtype}


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


def _write_shard(
    path: Path,
    examples: list[Encoded],
    runner: Backend,
    tokens: Tokens,
    kept: Shard,
    settings: dict[str, str],
    task: Any,
) -> None:
    import torch
    from safetensors.numpy import save_file

    read = [(number, found) for number, each in enumerate(examples) if (found := tokens.read(each)) is not None]
    for number in set(range(len(examples))).difference(number for number, _ in read):
        kept.keep(number, None)
        task.advance(1)
    for place, logits in runner.supervised_logits([found for _, found in read]):
        number, asked = read[place]
        if logits.shape[0] != asked.supervised:
            raise AssertionError(f"{logits.shape[0]} distributions for {asked.supervised} supervised tokens")
        if not torch.isfinite(logits.sum()):  # one number that is not finite makes the sum so
            raise UserError(
                "the teacher gives infinite or undefined logits",
                where="teacher.model",
                fix="use another dtype or backend for the teacher: its weights overflow in this one",
            )
        kept.keep(number, logits)
        task.advance(1)
    metadata = {**settings, **kept.metadata(), "ids": json.dumps([example.id for example in examples])}
    with replacing(path) as temporary:
        save_file(kept.arrays(), temporary, metadata=metadata)


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
