"""The backend of a teacher: what runs it for the logits signal."""

from __future__ import annotations

from pathlib import Path

from distill2edge.errors import UserError
from distill2edge.generation.backends import Backend, LlamaCppBackend, TransformersBackend, needs_gguf
from distill2edge.generation.seq2seq_backend import Seq2SeqBackend
from distill2edge.models.kinds import DECODER, ENCODER_DECODER, kind_of_directory
from distill2edge.models.placement import WHOLE, Placement

_TRANSFORMERS = {DECODER: TransformersBackend, ENCODER_DECODER: Seq2SeqBackend}


def open_backend(
    backend: str,
    model_dir: Path,
    gguf_path: Path | None,
    dtype: str,
    *,
    longest: int,
    placement: Placement = WHOLE,
) -> Backend:
    """Load the teacher.

    Args:
        backend: `auto`, `transformers` or `llama.cpp`.
        gguf_path: the file for llama.cpp.
        longest: tokens of the longest example.
        placement: of the weights, for transformers.

    Raises:
        UserError: unknown backend, llama.cpp without a GGUF, or a model that writes no text.
    """
    if backend == "llama.cpp":
        if gguf_path is None:
            raise needs_gguf()
        return LlamaCppBackend(gguf_path, longest)
    if backend in ("auto", "transformers"):
        # One that writes nothing is refused where it is loaded.
        return _TRANSFORMERS.get(kind_of_directory(model_dir), TransformersBackend)(model_dir, dtype, placement)
    raise UserError(f"unknown backend {backend!r}", where="teacher.backend", fix="auto, transformers or llama.cpp")
