"""Text generation: batched sampling in transformers, or llama.cpp on a GGUF. Token ids in, token ids out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.generation.backends import load_frozen, needs_gguf
from distill2edge.generation.sampling import draw_token
from distill2edge.models.kinds import kind_of_model, start_token_id
from distill2edge.models.placement import WHOLE, Placement, device_of
from distill2edge.models.precision import compute_dtype, default_device

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal
    from distill2edge.runtimes.llama_cpp import LlamaCppRuntime

_BATCH, _MOST = {"cpu": 16, "cuda": 1}, 256  # prompts in one pass: at least, and at most
# Of all prompts of a pass with their answers, where that gives more than `_BATCH`; on a GPU as many as fit, up to this.
_TOKENS = {"cpu": 4096, "cuda": 65_536}
SEQUENCES = 8  # texts that llama.cpp writes at once
_LLAMA_BATCH = 512  # tokens of a llama.cpp pass; a longer prompt raises it


@dataclass(frozen=True)
class Sampling:
    """How a text is sampled.

    Attributes:
        max_new_tokens: of a text at most.
        temperature: 0 is greedy.
        top_p: nucleus sampling (Holtzman 2020).
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0


class Writer(Protocol):
    """A loaded model that writes."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], seed: int, sampling: Sampling | TextSignal | None = None
    ) -> list[list[int]]:
        """Generated ids of each prompt; a stop token, if one was generated, is the last.

        Args:
            prompts: token ids of each.
            sampling: in place of that which the writer was opened with.
        """


def open_writer(
    model_dir: Path,
    tokenizer: Any,
    signal: TextSignal | Sampling,
    stop: tuple[int, ...],
    backend: str,
    gguf_path: Path | None,
    tokens: int | None = None,
    placement: Placement = WHOLE,
) -> Writer:
    """Load a model to generate text with.

    Args:
        model_dir: Hugging Face directory.
        tokenizer: of the model.
        signal: length, temperature and top_p.
        stop: ids that end a response.
        backend: `auto`, `transformers` or `llama.cpp`.
        gguf_path: the file for llama.cpp.
        tokens: ids from here on are never drawn: rows that pad the embedding and stand for no token. Transformers only.
        placement: of the weights. Transformers only.

    Raises:
        UserError: llama.cpp without a GGUF.
    """
    if backend != "llama.cpp":
        return _transformers(model_dir, tokenizer, signal, stop, tokens, placement)
    if gguf_path is None:
        raise needs_gguf()
    return LlamaWriter(gguf_path, stop, signal)


def _transformers(
    model_dir: Path,
    tokenizer: Any,
    signal: TextSignal | Sampling,
    stop: tuple[int, ...],
    tokens: int | None,
    placement: Placement,
) -> Writer:
    import torch
    from transformers import GenerationConfig

    device = default_device()
    model = load_frozen(model_dir, compute_dtype("auto", device), device, placement)
    first = device_of(model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (*stop, 0)[0]
    pairs = kind_of_model(model).pairs  # then the output is a start token and the answer alone
    room = min(_TOKENS[device], cacheable_tokens(model)) if device == "cuda" else _TOKENS[device]

    def configure(drawn: TextSignal | Sampling) -> Any:
        sampling: dict[str, Any] = {"do_sample": False}
        if drawn.temperature > 0:
            sampling = {"do_sample": True, "temperature": drawn.temperature, "top_p": drawn.top_p, "top_k": 0}
        rows = model.get_output_embeddings().weight.shape[0]
        if tokens is not None and tokens < rows:
            sampling["suppress_tokens"] = list(range(tokens, rows))
        if pairs:
            sampling["decoder_start_token_id"] = start_token_id(model.config)
        # The whole configuration: a model's own defaults (penalties, top_k) would make another signal than the recipe.
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=drawn.max_new_tokens, eos_token_id=list(stop) or None, pad_token_id=pad, **sampling
        )
        return model.generation_config

    def write(
        prompts: Sequence[Sequence[int]], seed: int, sampling: TextSignal | Sampling | None = None
    ) -> list[list[int]]:
        drawn = sampling or signal
        config = configure(drawn)
        torch.manual_seed(seed)
        answers: list[list[int]] = [[] for _ in prompts]
        order = sorted(range(len(prompts)), key=lambda number: (len(prompts[number]), number))
        longest = max(map(len, prompts)) + drawn.max_new_tokens
        size = max(_BATCH[device], min(_MOST, room // longest))
        for begin in range(0, len(prompts), size):
            numbers = order[begin : begin + size]
            batch = [prompts[number] for number in numbers]
            width = max(map(len, batch))
            # Left padding: every row's next token is at the same place. An encoder is padded as in training.
            ids = torch.tensor([_padded(p, width, pad, pairs) for p in batch], device=first)
            mask = torch.tensor([_padded([1] * len(p), width, 0, pairs) for p in batch], device=first)
            with torch.no_grad():
                out = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)
            for number, row in zip(numbers, out[:, 1 if pairs else width :].tolist(), strict=True):
                answers[number] = _until(row, stop)
        return answers

    return write


def cacheable_tokens(model: Any) -> int:
    """Tokens whose keys and values take half of the GPU's free memory; the rest is for activations and logits."""
    import torch

    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kept = 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * width
    return int(torch.cuda.mem_get_info()[0] // 2 // (kept * model.dtype.itemsize))


class LlamaWriter:
    """A GGUF in llama.cpp, several texts at once. Each has its own random stream, so their order changes nothing.

    Args:
        path: of the file.
        stop: ids that end a text.
        signal: how texts are drawn.
        sequences: texts at once.
    """

    def __init__(
        self, path: Path, stop: Sequence[int], signal: TextSignal | Sampling, sequences: int = SEQUENCES
    ) -> None:
        self._path, self._stop, self._signal, self._sequences = path, tuple(stop), signal, sequences
        self._runtime: LlamaCppRuntime | None = None

    def __call__(
        self, prompts: Sequence[Sequence[int]], seed: int, sampling: TextSignal | Sampling | None = None
    ) -> list[list[int]]:
        """As `Writer`."""
        import numpy as np

        from distill2edge.runtimes.llama_batch import generate_many

        if not prompts:
            return []
        drawn = sampling or self._signal
        longest = max(map(len, prompts))
        runtime = self._open(longest, longest + drawn.max_new_tokens)
        randoms: dict[int, np.random.Generator] = {}

        def draw(number: int, logits: np.ndarray) -> int:
            if number not in randoms:
                randoms[number] = np.random.default_rng((seed, number))
            return draw_token(logits, drawn.temperature, drawn.top_p, randoms[number])

        return generate_many(runtime, prompts, drawn.max_new_tokens, self._stop, draw)

    def close(self) -> None:
        """Free the weights."""
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None

    def _open(self, longest: int, context: int) -> LlamaCppRuntime:
        from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
        from distill2edge.util.threads import available_threads

        runtime = self._runtime
        if runtime is None or context > runtime.context or longest > runtime.batch:
            self.close()
            context = max(512, 1 << (context - 1).bit_length())
            self._runtime = LlamaCppRuntime(
                self._path,
                threads=available_threads(),
                context=context,
                batch=max(_LLAMA_BATCH, 1 << (longest + self._sequences - 1).bit_length()),
                sequences=self._sequences,
            )
        assert self._runtime is not None
        return self._runtime


def _padded(values: Sequence[int], width: int, pad: int, right: bool) -> list[int]:
    filler = [pad] * (width - len(values))
    return [*values, *filler] if right else [*filler, *values]


def _until(ids: list[int], stop: tuple[int, ...]) -> list[int]:
    for position, token in enumerate(ids):
        if token in stop:
            return ids[: position + 1]
    return ids
