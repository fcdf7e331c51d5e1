"""What runs a teacher for the logits signal: transformers, or llama.cpp on a GGUF."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from distill2edge.data.examples import Encoded
from distill2edge.errors import UserError
from distill2edge.models.kinds import kind_of_directory
from distill2edge.models.loading import load_to_run
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.models.precision import compute_dtype, default_device

if TYPE_CHECKING:
    import torch

LOGIT_BYTES = {"cpu": 128 << 20, "cuda": 256 << 20}  # float32 logits that may be in memory at once
BATCH_TOKENS = {"cpu": 1024, "cuda": 16_384}  # padded tokens of a forward pass


class Backend(Protocol):
    """A loaded teacher.

    Attributes:
        name: of what runs it.
        dtype: that its layers compute in.
        vocab_size: length V of every logit vector.
    """

    name: str
    dtype: str
    vocab_size: int

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        """For each example, in any order, its number and the logits [supervised, V] float32 of its supervised tokens.

        Row i is the distribution from which the i-th supervised token is drawn.
        """

    def close(self) -> None:
        """Free the weights."""


def needs_gguf() -> UserError:
    """The error of a llama.cpp backend without a file for it."""
    return UserError(
        "the llama.cpp backend needs a GGUF: this teacher has none, or was fitted, and the file has the weights before",
        where="teacher.backend",
        fix="set teacher.backend: transformers, or give a .gguf file as teacher.model without teacher.fit",
    )


def load_frozen(model_dir: Path, dtype: torch.dtype, device: str, placement: Placement = WHOLE) -> Any:
    """A language model in eval mode: safetensors only, no remote code, no network.

    Raises:
        UserError: neither a decoder nor an encoder-decoder.
    """
    try:
        if not (kind := kind_of_directory(model_dir)).writes:
            raise ValueError(f"a model of the kind {kind}")
        return load_to_run(model_dir, dtype, device, placement)
    except ValueError as error:
        raise UserError(
            f"not a model that writes text: {str(error).splitlines()[0]}",
            where="teacher.model",
            fix="take a decoder, such as bundled:smollm2-135m-instruct",
        ) from error


class TransformersBackend:
    """A Hugging Face directory in PyTorch.

    The decoder runs in `dtype`. The output head runs in float32, since bfloat16 logits of magnitude 16 come in steps of
    1/8; and at supervised positions only, selected where the hidden states enter the head, so that a model's own
    scaling or capping of logits still applies.

    Args:
        model_dir: of a decoder.
        dtype: `auto`, or a type of torch.
        placement: where its weights lie, and in how many bits.

    Raises:
        UserError: a model that writes no text.
    """

    name = "transformers"

    def __init__(self, model_dir: Path, dtype: str = "auto", placement: Placement = WHOLE) -> None:
        import torch

        from distill2edge.util.threads import available_threads

        self.device = default_device()
        if self.device == "cpu":
            torch.set_num_threads(available_threads())
        kind = compute_dtype(dtype, self.device)
        self.dtype = str(kind).removeprefix("torch.")
        self._model = load_frozen(model_dir, kind, self.device, placement)
        head = self._model.get_output_embeddings()
        if head is None:
            raise UserError("the teacher has no output head", where="teacher.model", fix="take a decoder")
        self.vocab_size = int(head.weight.shape[0])
        self._select: torch.Tensor | None = None
        if kind != torch.float32:
            head = _float_copy(head)
            self._model.set_output_embeddings(head)
        head.register_forward_pre_hook(self._enter_head)

    def _enter_head(self, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
        assert self._select is not None
        entered = inputs[0][self._select.to(inputs[0].device)].unsqueeze(0).float()
        place = module.weight.device
        return (entered if place.type == "meta" else entered.to(place),)  # meta: accelerate brings both together

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        """As `Backend.supervised_logits`; batches of similar length."""
        import torch

        positions = max(1, LOGIT_BYTES[self.device] // (4 * self.vocab_size))
        for batch in batches(examples, BATCH_TOKENS[self.device], positions):
            width = max(len(examples[number].ids) for number in batch)
            ids = torch.zeros(len(batch), width, dtype=torch.long)
            attended = torch.zeros(len(batch), width, dtype=torch.long)
            select = torch.zeros(len(batch), width, dtype=torch.bool)
            for row, number in enumerate(batch):
                example = examples[number]
                ids[row, : len(example.ids)] = torch.tensor(example.ids)
                attended[row, : len(example.ids)] = 1
                # Token t is predicted at position t - 1.
                select[row, : len(example.ids) - 1] = torch.tensor(example.mask[1:])
            self._select = select.to(self.device)
            with torch.inference_mode():
                out = self._model(
                    input_ids=ids.to(self.device), attention_mask=attended.to(self.device), use_cache=False
                ).logits[0]
            parts = out.float().split([examples[number].supervised for number in batch])
            yield from zip(batch, parts, strict=True)

    def close(self) -> None:
        """Drop the weights."""
        self._model = None


class LlamaCppBackend:
    """A GGUF in llama.cpp, on the CPU: several short examples in one pass.

    Args:
        gguf_path: the file.
        longest: tokens of the longest example.
    """

    name = "llama.cpp"
    dtype = "gguf"

    def __init__(self, gguf_path: Path, longest: int) -> None:
        from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
        from distill2edge.util.threads import available_threads

        context = max(longest, 256)
        self._runtime = LlamaCppRuntime(
            gguf_path, threads=available_threads(), context=context, batch=max(512, context), sequences=8
        )
        self.vocab_size = self._runtime.vocab_size

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        """As `Backend.supervised_logits`."""
        import torch

        positions = max(1, LOGIT_BYTES["cpu"] // (4 * self.vocab_size))
        for batch in batches(examples, 4096, positions):
            requests = []
            for number in batch:
                example = examples[number]
                requests.append((example.ids, [t - 1 for t, on in enumerate(example.mask) if on]))
            for number, found in zip(batch, self._runtime.logits_many(requests), strict=True):
                yield number, torch.from_numpy(_copied(found))

    def close(self) -> None:
        """Free the model."""
        self._runtime.close()


def _copied(array: Any) -> Any:
    """A writable, contiguous copy where the array is a view of a buffer that the next call overwrites."""
    import numpy as np

    return np.array(array, dtype=np.float32, order="C", copy=True)


def _float_copy(head: torch.nn.Module) -> torch.nn.Module:
    """The head in float32, where it computes, apart from the embedding that it may share its weight with."""
    import copy

    import torch
    from accelerate.utils import align_module_device

    twin = copy.copy(head)
    for hooked in ("_hf_hook", "_old_forward", "forward"):  # accelerate's, of a head that lies elsewhere
        twin.__dict__.pop(hooked, None)
    with align_module_device(head):
        twin._parameters = {
            name: None if value is None else torch.nn.Parameter(value.detach().float(), requires_grad=False)
            for name, value in head._parameters.items()
        }
    return twin


def batches(examples: Sequence[Encoded], tokens: int, positions: int) -> Iterator[list[int]]:
    """Batches of the numbers of examples, shortest first.

    Args:
        tokens: of a batch at most, padding included.
        positions: supervised ones of a batch at most. A single example may exceed both.
    """
    batch: list[int] = []
    supervised = 0
    for number in sorted(range(len(examples)), key=lambda number: (len(examples[number].ids), number)):
        width = len(examples[number].ids)
        if batch and ((len(batch) + 1) * width > tokens or supervised + examples[number].supervised > positions):
            yield batch
            batch, supervised = [], 0
        batch.append(number)
        supervised += examples[number].supervised
    if batch:
        yield batch
