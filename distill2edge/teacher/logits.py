"""The logits signal: top-k log-probabilities and the tail, at supervised positions only, in resumable shards.

A shard is a safetensors file. P is the count of supervised positions in it (ascending within an example), n of
examples:

    index    [P, k]   uint16, or int32 above 65,536 tokens
    logprob  [P, k]   float16, at temperature 1
    shift    [P]      float32, lse(z) / T - lse(z / T): log p_T = logprob / T + shift
    start    [n + 1]  int64, where each example's positions begin

with the metadata `ids` (JSON list of n example ids), `temperature`, `top_k` (as asked) and `vocabulary` (a hash of
token -> id). Tokens, ids and positions are those of the model that learns: where its tokenizer is another than the
teacher's, `aligned.Aligned` makes them of what the teacher says of its own.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.data.encode import Encoded
from distill2edge.errors import UserError
from distill2edge.generation.backends import Backend
from distill2edge.generation.open_backend import open_backend
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.token_views import OwnTokens, Tokens
from distill2edge.util.files import replacing, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import torch

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

    Returns:
        facts: examples, positions, shards, bytes, bytes_per_position, top_k, temperature, tail_mass (mean
        probability outside the top k at temperature 1), seconds, tokens_per_s, backend, dtype; and those of `tokens`.

    Raises:
        UserError: no examples, or a backend that does not fit the teacher.
    """
    if not encoded:
        raise no_rows()
    work.mkdir(parents=True, exist_ok=True)
    examples = list({example.id: example for example in encoded}.values())
    shards = list(_shards(examples, shard_rows, shard_tokens))
    for stale in sorted(work.glob("shard-*.safetensors"))[len(shards) :]:
        stale.unlink()
    tokens = tokens or OwnTokens(model_dir)
    settings = {"temperature": repr(signal.temperature), "top_k": str(signal.top_k)}
    settings |= {"vocabulary": tokens.vocabulary, **tokens.settings}
    missing = [n for n, shard in enumerate(shards) if not _complete(_path(work, n), shard, settings)]
    ran: dict[str, Any] = {"seconds": 0.0, "tokens_per_s": None, "backend": None, "dtype": None}
    with progress.task("teacher logits", len(examples)) as task:
        task.advance(len(examples) - sum(len(shards[n]) for n in missing))
        if missing:
            todo = [(_path(work, number), shards[number]) for number in missing]
            read = [found for _, shard in todo for each in shard if (found := tokens.read(each)) is not None]
            longest = max((len(each.ids) for each in read), default=1)
            teacher = runner or open_backend(backend, model_dir, gguf_path, dtype, longest=longest, placement=placement)
            ran = _run(todo, read, teacher, tokens, signal, settings, task)
            if runner is None:
                teacher.close()
    facts = {**_facts(work, len(shards), signal, tokens), "examples": len(examples), **ran}
    write_json(work / "signal.json", facts)
    return facts


def _run(
    todo: Sequence[tuple[Path, list[Encoded]]],
    read: Sequence[Encoded],
    teacher: Backend,
    tokens: Tokens,
    signal: LogitsSignal,
    settings: dict[str, str],
    task: Any,
) -> dict[str, Any]:
    """Write the shards that are not there; seconds, tokens_per_s, backend, dtype."""
    _check_ids(read, teacher.vocab_size)
    begin = time.monotonic()
    for path, shard in todo:
        _write_shard(path, shard, teacher, tokens, signal, settings, task)
    seconds = time.monotonic() - begin
    rate = round(sum(len(each.ids) for each in read) / seconds, 1) if seconds else None
    return {"seconds": round(seconds, 3), "tokens_per_s": rate, "backend": teacher.name, "dtype": teacher.dtype}


def no_rows() -> UserError:
    """The error where no row is left to run the teacher on."""
    return UserError("no rows to run the teacher on", where="data", fix="check data.filter and data.max_length")


def _check_ids(examples: Sequence[Encoded], rows: int) -> None:
    largest = max(max(example.ids) for example in examples)
    if largest >= rows:
        raise UserError(
            f"the rows hold the token id {largest}, and the teacher's embedding has {rows} rows",
            where="teacher.model",
            fix="use the tokenizer that the model was trained with, or leave such rows out with data.filter",
        )


def _shards(examples: Sequence[Encoded], rows: int, tokens: int) -> Iterator[list[Encoded]]:
    """Runs of examples, cut by rows and by tokens; the same cuts for the same examples."""
    shard: list[Encoded] = []
    held = 0
    for example in examples:
        if shard and (len(shard) == rows or held + len(example.ids) > tokens):
            yield shard
            shard, held = [], 0
        shard.append(example)
        held += len(example.ids)
    if shard:
        yield shard


def _write_shard(
    path: Path,
    examples: list[Encoded],
    runner: Backend,
    tokens: Tokens,
    signal: LogitsSignal,
    settings: dict[str, str],
    task: Any,
) -> None:
    import torch
    from safetensors.numpy import save_file

    start = np.concatenate([[0], np.cumsum([example.supervised for example in examples])]).astype(np.int64)
    k = min(signal.top_k, tokens.size(runner.vocab_size))
    index = np.empty((start[-1], k), dtype=np.int32 if tokens.wide(runner.vocab_size) else np.uint16)
    logprob = np.empty((start[-1], k), dtype=np.float16)
    shift = np.empty(start[-1], dtype=np.float32)
    sums: defaultdict[str, float] = defaultdict(float)

    def keep(number: int, logits: torch.Tensor | None) -> None:
        at = slice(int(start[number]), int(start[number + 1]))
        *found, added = tokens.compress(examples[number], logits, k, signal.temperature)
        index[at], logprob[at], shift[at] = (each.cpu().numpy() for each in found)
        for name, value in added.items():
            sums[name] += value
        task.advance(1)

    read = [(number, found) for number, each in enumerate(examples) if (found := tokens.read(each)) is not None]
    for number in set(range(len(examples))).difference(number for number, _ in read):
        keep(number, None)
    for place, logits in runner.supervised_logits([found for _, found in read]):
        number, asked = read[place]
        if logits.shape[0] != asked.supervised:
            raise AssertionError(f"{logits.shape[0]} distributions for {asked.supervised} supervised tokens")
        if not torch.isfinite(logits).all():
            raise UserError(
                "the teacher gives infinite or undefined logits",
                where="teacher.model",
                fix="use another dtype or backend for the teacher: its weights overflow in this one",
            )
        keep(number, logits)
    if sums:
        settings = {**settings, "sums": json.dumps(sums)}
    metadata = {**settings, "ids": json.dumps([example.id for example in examples])}
    with replacing(path) as temporary:
        save_file({"index": index, "logprob": logprob, "shift": shift, "start": start}, temporary, metadata=metadata)


def _complete(path: Path, examples: list[Encoded], settings: dict[str, str]) -> bool:
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

    size, positions, inside, k = 0, 0, 0.0, 0
    sums: defaultdict[str, float] = defaultdict(float)
    for number in range(count):
        path = _path(work, number)
        size += path.stat().st_size
        with safe_open(path, framework="numpy") as shard:
            logprob = shard.get_tensor("logprob")
            added: dict[str, float] = json.loads((shard.metadata() or {}).get("sums", "{}"))
        for name, value in added.items():
            sums[name] += value
        positions, k = positions + len(logprob), logprob.shape[1]
        inside += float(np.minimum(np.exp(logprob, dtype=np.float32).sum(axis=1), 1.0).sum())
    return {
        "schema_version": 1,
        "kind": "logits",
        "top_k": k,
        "temperature": signal.temperature,
        "positions": positions,
        "shards": count,
        "bytes": size,
        "bytes_per_position": round(size / positions, 1),
        "tail_mass": round(1.0 - inside / tokens.known(positions), 6),
        **tokens.facts(sums),
    }


def _path(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.safetensors"
