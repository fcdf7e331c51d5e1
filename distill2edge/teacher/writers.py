"""What makes a model write: batched sampling in transformers, or llama.cpp on a GGUF. Token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.architectures import start_token_id
from distill2edge.precision import compute_dtype, default_device
from distill2edge.sampling import draw_token
from distill2edge.teacher.backends import load_frozen, needs_gguf

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal

_BATCH, _MOST = 16, 256  # prompts in one pass: at least, and at most
_TOKENS = 4096  # of all prompts of a pass with their answers, where that gives more than `_BATCH`


class Writer(Protocol):
    """A loaded model that writes."""

    def __call__(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Generated ids of each prompt; the stop token, where one came, is the last."""


def open_writer(
    model_dir: Path,
    tokenizer: Any,
    signal: TextSignal,
    stop: tuple[int, ...],
    backend: str,
    gguf_path: Path | None,
) -> Writer:
    """What makes a teacher write.

    Args:
        signal: its length, temperature and top_p.
        stop: ids that end a response.
        backend, gguf_path: `transformers`, or `llama.cpp` and its file.

    Raises:
        UserError: llama.cpp without a GGUF.
    """
    if backend != "llama.cpp":
        return _transformers(model_dir, tokenizer, signal, stop)
    if gguf_path is None:
        raise needs_gguf()
    return _llama_cpp(gguf_path, signal, stop)


def _transformers(model_dir: Path, tokenizer: Any, signal: TextSignal, stop: tuple[int, ...]) -> Writer:
    import torch
    from transformers import GenerationConfig

    device = default_device()
    model = load_frozen(model_dir, compute_dtype("auto", device), device)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (*stop, 0)[0]
    sampling: dict[str, Any] = {"do_sample": False}
    if signal.temperature > 0:
        sampling = {"do_sample": True, "temperature": signal.temperature, "top_p": signal.top_p, "top_k": 0}
    # The whole configuration: a model's own defaults (penalties, top_k) would make another signal than the recipe says.
    pairs = bool(model.config.is_encoder_decoder)  # then the output is a start token and the answer alone
    if pairs:
        sampling["decoder_start_token_id"] = start_token_id(model.config)
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=signal.max_new_tokens, eos_token_id=list(stop) or None, pad_token_id=pad, **sampling
    )
    model.generation_config = config

    def write(prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        torch.manual_seed(seed)
        answers: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
        longest = max(map(len, prompts)) + signal.max_new_tokens
        size = max(_BATCH, min(_MOST, _TOKENS // longest))
        for begin in range(0, len(prompts), size):
            numbers = order[begin : begin + size]
            batch = [prompts[number] for number in numbers]
            width = max(map(len, batch))
            # Left padding: every row's next token is at the same place. An encoder is padded as in training.
            ids = torch.tensor([_padded(p, width, pad, pairs) for p in batch], device=device)
            mask = torch.tensor([_padded([1] * len(p), width, 0, pairs) for p in batch], device=device)
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for number, row in zip(numbers, out[:, 1 if pairs else width :].tolist(), strict=True):
                answers[number] = _until(row, stop)
        return answers

    return write


def _llama_cpp(path: Path, signal: TextSignal, stop: tuple[int, ...]) -> Writer:
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


def _padded(values: Sequence[int], width: int, pad: int, right: bool) -> list[int]:
    filler = [pad] * (width - len(values))
    return [*values, *filler] if right else [*filler, *values]


def _until(ids: list[int], stop: tuple[int, ...]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids
