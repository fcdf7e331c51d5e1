"""Runtimes: one protocol over PyTorch, ONNX Runtime and llama.cpp. Imports each only when it is opened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from distill2edge.errors import UserError
from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER_DECODER,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
    Kind,
    kind_of_directory,
    kind_of_gguf,
    kind_of_onnx,
)
from distill2edge.models.kv_cache import PLAIN
from distill2edge.models.placement import WHOLE, Placement, of_spec

if TYPE_CHECKING:
    from distill2edge.runtimes.protocol import Runtime


class Opened(NamedTuple):
    """What opens the files of one format.

    Attributes:
        kind_of: the kind of model at a path.
        classes: for each kind the class that runs it, imported now.
        options: of `open_runtime` that its classes take beside threads, device and context.
    """

    kind_of: Callable[[Path], Kind]
    classes: Callable[[], Mapping[Kind, Any]]
    options: tuple[str, ...] = ()


def _torch() -> Mapping[Kind, Any]:
    from distill2edge.runtimes.torch_encoder import TorchClassifier, TorchEmbedder, TorchTagger
    from distill2edge.runtimes.torch_runtime import TorchRuntime
    from distill2edge.runtimes.torch_seq2seq import TorchSeq2Seq

    heads = dict.fromkeys((CLASSIFIER, MULTI_LABEL, REGRESSOR), TorchClassifier)
    encoders = {**heads, TAGGER: TorchTagger, EMBEDDER: TorchEmbedder}
    return {DECODER: TorchRuntime, ENCODER_DECODER: TorchSeq2Seq, **encoders}


def _onnx() -> Mapping[Kind, Any]:
    from distill2edge.runtimes.onnx_encoder import OnnxClassifier, OnnxEmbedder, OnnxTagger
    from distill2edge.runtimes.onnx_runtime import OnnxRuntime
    from distill2edge.runtimes.onnx_seq2seq import OnnxSeq2Seq

    heads = dict.fromkeys((CLASSIFIER, MULTI_LABEL, REGRESSOR), OnnxClassifier)
    encoders = {**heads, TAGGER: OnnxTagger, EMBEDDER: OnnxEmbedder}
    return {DECODER: OnnxRuntime, ENCODER_DECODER: OnnxSeq2Seq, **encoders}


def _llama_cpp() -> Mapping[Kind, Any]:
    from distill2edge.runtimes.llama_cpp import LlamaCppRuntime
    from distill2edge.runtimes.llama_cpp_encoder import LlamaCppClassifier, LlamaCppEmbedder
    from distill2edge.runtimes.llama_cpp_seq2seq import LlamaCppSeq2Seq

    encoders = {CLASSIFIER: LlamaCppClassifier, EMBEDDER: LlamaCppEmbedder}
    return {DECODER: LlamaCppRuntime, ENCODER_DECODER: LlamaCppSeq2Seq, **encoders}


def _kind_of_gguf_at(path: Path) -> Kind:
    from distill2edge.gguf.reader import read_gguf
    from distill2edge.runtimes.llama_library import model_file

    file = read_gguf(model_file(path))
    return kind_of_gguf(file.architecture, file.get(".classifier.output_labels"), file.get(".pooling_type"))


RUNTIMES: dict[str, Opened] = {
    "torch": Opened(kind_of_directory, _torch, ("dtype", "placement")),
    "onnxruntime": Opened(kind_of_onnx, _onnx),
    "llama.cpp": Opened(_kind_of_gguf_at, _llama_cpp),
}
RUNTIME_OF = {"onnx": "onnxruntime", "gguf": "llama.cpp"}
"""Format of a file -> the runtime that verify and bench run it in."""


def open_for(spec: Mapping[str, Any]) -> Runtime:
    """The model of a worker's spec: `runtime path threads context`; `device placement cache` where it has them.

    Raises:
        as `open_runtime`.
    """
    return open_runtime(
        spec["runtime"],
        spec["path"],
        threads=spec["threads"],
        device=spec.get("device", "cpu"),
        context=spec["context"],
        placement=of_spec(spec),
        cache=spec.get("cache", PLAIN),
    )


def open_runtime(
    kind: str,
    path: Path | str,
    *,
    threads: int,
    device: str = "cpu",
    context: int = 2048,
    dtype: str = "float32",
    placement: Placement = WHOLE,
    cache: str = PLAIN,
) -> Runtime:
    """Load a model file in its runtime.

    Args:
        kind: `torch` (a Hugging Face directory), `onnxruntime` (a directory with `model.onnx`, or `encoder.onnx` and
            `decoder.onnx`) or `llama.cpp` (a `.gguf`, or a directory with `model.gguf`).
        path: the file or directory; its kind of model is read there.
        threads: intra-operator threads.
        device: `cpu` or `cuda`.
        context: the most tokens of prompt and response together.
        dtype: `float32`, `bfloat16` or `float16`; torch only, the other formats carry their own.
        placement: of the weights; torch only.
        cache: type of keys and values: of decoders in llama.cpp alone.

    Raises:
        UserError: unknown kind, or nothing at `path`.
        EnvironmentFault: the runtime or the device is not there.
    """
    path = Path(path)
    if kind not in RUNTIMES:
        raise UserError(f"unknown runtime {kind!r}", fix=f"one of {', '.join(RUNTIMES)}")
    if not path.exists():
        raise UserError("no such model file", where=str(path), fix="give the path of an exported model")
    found = RUNTIMES[kind]
    classes = found.classes()
    # An encoder without a head for a class is opened as a decoder, whose runtime says what it lacks.
    kind_of_model = found.kind_of(path)
    runtime = classes.get(kind_of_model, classes[DECODER])
    if cache != PLAIN and not (kind == "llama.cpp" and kind_of_model is DECODER):
        raise UserError(
            f"keys and values in {cache} are for decoders in llama.cpp, not for models of the kind {kind_of_model} in "
            f"{kind}",
            where=str(path),
            fix="take the GGUF of a decoder, or leave it out",
        )
    more: dict[str, Any] = {} if cache == PLAIN else {"cache": cache}
    more |= {name: value for name, value in (("dtype", dtype), ("placement", placement)) if name in found.options}
    return cast("Runtime", runtime(path, threads=threads, device=device, context=context, **more))
