"""Runtimes: one protocol over PyTorch, ONNX Runtime and llama.cpp. Imports each only when it is opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from distill2edge.errors import UserError
from distill2edge.models.architectures import is_classifier, is_encoder_decoder

if TYPE_CHECKING:
    from distill2edge.runtimes.protocol import Runtime

KINDS = ("torch", "onnxruntime", "llama.cpp")


def open_runtime(
    kind: str,
    path: Path | str,
    *,
    threads: int,
    device: str = "cpu",
    context: int = 2048,
    dtype: str = "float32",
) -> Runtime:
    """Load a model file in its runtime.

    Args:
        kind: `torch` (a Hugging Face directory), `onnxruntime` (a directory with `model.onnx`, or `encoder.onnx` and
            `decoder.onnx`) or
            `llama.cpp` (a `.gguf`, or a directory with `model.gguf`).
        path: the file or directory. An encoder-decoder is told by its files.
        threads: intra-operator threads.
        device: `cpu` or `cuda`.
        context: the most tokens of prompt and response together.
        dtype: `float32`, `bfloat16` or `float16`; torch only, the other formats carry their own.

    Raises:
        UserError: unknown kind, or nothing at `path`.
        EnvironmentFault: the runtime or the device is not there.
    """
    path = Path(path)
    if kind not in KINDS:
        raise UserError(f"unknown runtime {kind!r}", fix=f"one of {', '.join(KINDS)}")
    if not path.exists():
        raise UserError("no such model file", where=str(path), fix="give the path of an exported model")
    if kind == "torch" and is_classifier(path):
        from distill2edge.runtimes.torch_classifier import TorchClassifier

        return cast("Runtime", TorchClassifier(path, threads=threads, device=device, context=context, dtype=dtype))
    if kind == "torch" and is_encoder_decoder(path):
        from distill2edge.runtimes.torch_seq2seq import TorchSeq2Seq

        return cast("Runtime", TorchSeq2Seq(path, threads=threads, device=device, context=context, dtype=dtype))
    if kind == "torch":
        from distill2edge.runtimes.torch_runtime import TorchRuntime

        return TorchRuntime(path, threads=threads, device=device, context=context, dtype=dtype)
    if kind == "onnxruntime" and (path / "encoder.onnx").is_file():
        from distill2edge.runtimes.onnx_seq2seq import OnnxSeq2Seq

        return cast("Runtime", OnnxSeq2Seq(path, threads=threads, device=device, context=context))
    if kind == "onnxruntime":
        from distill2edge.runtimes.onnx_classifier import OnnxClassifier, is_classifier_graph

        if is_classifier_graph(path):
            return cast("Runtime", OnnxClassifier(path, threads=threads, device=device, context=context))
        from distill2edge.runtimes.onnx_runtime import OnnxRuntime

        return OnnxRuntime(path, threads=threads, device=device, context=context)
    from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
    from distill2edge.runtimes.llama_cpp_classifier import LlamaCppClassifier, output_labels
    from distill2edge.runtimes.llama_cpp_seq2seq import LlamaCppSeq2Seq, is_seq2seq_file

    if is_seq2seq_file(path):
        return cast("Runtime", LlamaCppSeq2Seq(path, threads=threads, device=device, context=context))
    if output_labels(path):
        return LlamaCppClassifier(path, threads=threads, device=device, context=context)
    return LlamaCppRuntime(path, threads=threads, device=device, context=context)
