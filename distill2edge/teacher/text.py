"""Responses that the teacher writes: batched generation in resumable shards, truncated ones dropped and counted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge import ledger
from distill2edge.data.encode import Row, encode_prompts, row_id, stop_token_ids
from distill2edge.data.filters import refusal
from distill2edge.data.leakage import overlaps
from distill2edge.errors import UserError
from distill2edge.files import write_text
from distill2edge.precision import compute_dtype, default_device
from distill2edge.progress import Progress
from distill2edge.sampling import draw_token
from distill2edge.teacher.backends import load_model, needs_gguf

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal

SHARD_ROWS = 64
DROPS = ("truncated", "empty", "refusal")
_BATCH = 16


class _Writer(Protocol):
    def __call__(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Generated ids of each prompt; the stop token, where one came, is the last."""


def write_responses(
    model_dir: Path,
    rows: Sequence[Row],
    signal: TextSignal,
    work: Path,
    progress: Progress,
    *,
    template: str,
    system: str | None,
    seed: int,
    backend: str = "auto",
    gguf_path: Path | None = None,
    origin: ledger.Origin | None = None,
    test: Sequence[Row] = (),
) -> dict[str, Any]:
    """Write `shard-00000.jsonl`, ... and the ledger.

    A line has id of the data's row, prompt, response, finish (`stop` or `length`), prompt_tokens, tokens. A shard is
    written whole or not at all, so a killed run loses one shard at most. What is drawn depends on the seed and the
    shard alone, so a resumed run draws the same.

    Args:
        origin: the teacher, for the ledger; the directory's name where there is none.
        test: held-out rows, whose overlap with each written row the ledger states.

    Returns:
        counts: rows, written, truncated, empty, refusal, tokens; and the ledger's summary.

    Raises:
        UserError: template `text`, llama.cpp without a GGUF, a prompt too long for the teacher, or no usable response.
    """
    if template == "text":
        raise UserError(
            "template text has no prompts to answer", where="data.template", fix="set chat or plain, or signal: logits"
        )
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    stop = stop_token_ids(tokenizer, template)
    context = _context(model_dir)
    writer: _Writer | None = None
    with progress.task("teacher writes", len(rows)) as task:
        for number, begin in enumerate(range(0, len(rows), SHARD_ROWS)):
            shard, path = rows[begin : begin + SHARD_ROWS], work / f"shard-{number:05d}.jsonl"
            if not path.is_file():
                if writer is None:
                    writer = _open(model_dir, tokenizer, signal, stop, backend, gguf_path)
                prompts = encode_prompts([row.prompt for row in shard], tokenizer, template, system)
                _check_room(prompts, shard, context, signal)
                answers = writer(prompts, (seed * 1_000_003 + number) % (1 << 31))
                lines = zip(shard, prompts, answers, strict=True)
                write_text(path, "".join(_line(*line, tokenizer, stop) for line in lines))
            task.advance(len(shard))
    settings = {**signal.model_dump(mode="json", exclude={"kind"}), "seed": seed, "backend": backend}
    written = _enter(list(_records(work)), origin or ledger.Origin(model_dir.name), settings, test)
    ledger.write(work, written)
    counts = Counter(row.dropped_because or "written" for row in written)
    if not counts["written"]:
        dropped = ", ".join(f"{counts[reason]} {reason}" for reason in DROPS)
        raise UserError(
            f"no usable response: {dropped} of {len(written)}",
            where="signal",
            fix="raise signal.max_new_tokens, or fit the teacher to the task first",
        )
    tokens = sum(row.response_tokens for row in written)
    facts = {"rows": len(written), "written": counts["written"], **{reason: counts[reason] for reason in DROPS}}
    return {**facts, "tokens": tokens, "ledger": ledger.summary(written)}


def read_responses(directory: Path) -> list[Row]:
    """The usable responses as rows, in the data's order."""
    return [Row(row.id, row.prompt, row.response) for row in ledger.read(directory) if row.kept]


def _enter(
    records: Sequence[dict[str, Any]], origin: ledger.Origin, settings: dict[str, Any], test: Sequence[Row]
) -> list[ledger.LedgerRow]:
    """The ledger's rows, in the order of the records."""
    asked = overlaps((record["prompt"] for record in records), [row.prompt for row in test])
    created = ledger.now()
    return [
        ledger.LedgerRow.make(
            record["prompt"],
            record["response"],
            origin,
            id=row_id(record["prompt"], record["response"]),
            method="text",
            settings=settings,
            dropped_because=_drop(record) or "",
            overlap=overlap if test else None,
            prompt_tokens=record.get("prompt_tokens", 0),
            response_tokens=record["tokens"],
            parent=record["id"],
            created=created,
        )
        for record, overlap in zip(records, asked, strict=True)
    ]


def _records(directory: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(directory.glob("shard-*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield json.loads(line)


def _drop(record: dict[str, Any]) -> str | None:
    if record["finish"] != "stop":
        return "truncated"
    if not record["response"].strip():
        return "empty"
    return "refusal" if refusal(record["response"]) else None


def _line(row: Row, prompt: Sequence[int], ids: list[int], tokenizer: Any, stop: tuple[int, ...]) -> str:
    ended = bool(ids) and ids[-1] in stop
    text = tokenizer.decode(ids[:-1] if ended else ids, skip_special_tokens=True)
    record = {
        "id": row.id,
        "prompt": row.prompt,
        "response": text,
        "finish": "stop" if ended else "length",
        "prompt_tokens": len(prompt),
        "tokens": len(ids),
    }
    return json.dumps(record, ensure_ascii=True) + "\n"


def _context(model_dir: Path) -> int:
    """Tokens that the teacher can look at."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_dir, local_files_only=True).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 1 << 30)


def _check_room(prompts: Sequence[Sequence[int]], rows: Sequence[Row], context: int, signal: TextSignal) -> None:
    for prompt, row in zip(prompts, rows, strict=True):
        if len(prompt) + signal.max_new_tokens > context:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and {signal.max_new_tokens} new ones do not fit the teacher's "
                f"context of {context}: {row.prompt[:80]!r}",
                where="signal.max_new_tokens",
                fix="lower it, or leave such rows out with data.filter",
            )


def _open(
    model_dir: Path,
    tokenizer: Any,
    signal: TextSignal,
    stop: tuple[int, ...],
    backend: str,
    gguf_path: Path | None,
) -> _Writer:
    if backend != "llama.cpp":
        return _transformers(model_dir, tokenizer, signal, stop)
    if gguf_path is None:
        raise needs_gguf()
    return _llama_cpp(gguf_path, signal, stop)


def _transformers(model_dir: Path, tokenizer: Any, signal: TextSignal, stop: tuple[int, ...]) -> _Writer:
    import torch
    from transformers import GenerationConfig

    device = default_device()
    model = load_model(model_dir, compute_dtype("auto", device), device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (*stop, 0)[0]
    sampling: dict[str, Any] = {"do_sample": False}
    if signal.temperature > 0:
        sampling = {"do_sample": True, "temperature": signal.temperature, "top_p": signal.top_p, "top_k": 0}
    # The whole configuration: a model's own defaults (penalties, top_k) would make another signal than the recipe says.
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=signal.max_new_tokens, eos_token_id=list(stop) or None, pad_token_id=pad, **sampling
    )
    model.generation_config = config

    def write(prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        answers: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
        for begin in range(0, len(prompts), _BATCH):
            numbers = order[begin : begin + _BATCH]
            batch = [prompts[number] for number in numbers]
            width = max(map(len, batch))
            # Left padding: every row's next token is at the same place.
            ids = torch.tensor([[pad] * (width - len(p)) + list(p) for p in batch], device=device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch], device=device)
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for number, row in zip(numbers, out[:, width:].tolist(), strict=True):
                answers[number] = _until(row, stop)
        return answers

    return write


def _llama_cpp(path: Path, signal: TextSignal, stop: tuple[int, ...]) -> _Writer:
    import numpy as np

    from distill2edge.runtimes import open_runtime
    from distill2edge.runtimes.base import Runtime
    from distill2edge.runtimes.threads import available_threads

    runtime: Runtime | None = None
    held = 0

    def write(prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        nonlocal runtime, held
        needed = max(map(len, prompts)) + signal.max_new_tokens
        if runtime is None or needed > held:
            if runtime is not None:
                runtime.close()
            held = max(2 * held, needed, 512)
            runtime = open_runtime("llama.cpp", path, threads=available_threads(), context=held)
        random = np.random.default_rng(seed)
        answers = []
        for prompt in prompts:
            ids: list[int] = []
            logits = runtime.prefill(prompt)
            while len(ids) < signal.max_new_tokens:
                ids.append(draw_token(logits, signal.temperature, signal.top_p, random))
                if ids[-1] in stop:
                    break
                logits = runtime.decode(ids[-1])
            answers.append(ids)
        return answers

    return write


def _until(ids: list[int], stop: tuple[int, ...]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids
