"""`distill2edge chat` on a classifier: text in, the probability of each label out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from distill2edge.architectures import is_classifier
from distill2edge.checkpoint import load_tokenizer
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.base import Classifier
from distill2edge.runtimes.threads import available_threads
from distill2edge.terminal import echo


@dataclass(frozen=True)
class Sorter:
    """A loaded classifier with its tokenizer."""

    runtime: Classifier
    encode: Callable[[str], list[int]]


def open_sorter(path: Path) -> Sorter | None:
    """Load a `.gguf` file, an ONNX directory or a Hugging Face directory; None where it is no classifier."""
    threads = available_threads()
    gguf = path if path.suffix == ".gguf" else path / "model.gguf"
    if gguf.is_file():
        from distill2edge.gguf_format.isolated import tokenize
        from distill2edge.runtimes.llama_cpp_classifier import output_labels

        if not output_labels(gguf):
            return None
        runtime = cast("Classifier", open_runtime("llama.cpp", gguf, threads=threads))
        return Sorter(runtime, lambda text: tokenize(gguf, [text])[0])
    if not is_classifier(path):
        return None
    tokenizer: Any = load_tokenizer(path)
    kind = "onnxruntime" if (path / "model.onnx").is_file() else "torch"
    runtime = cast("Classifier", open_runtime(kind, path, threads=threads))
    limit: int = runtime.context  # type: ignore[attr-defined]
    return Sorter(runtime, lambda text: list(tokenizer(text, truncation=True, max_length=limit)["input_ids"]))


def classify_with(sorter: Sorter, prompt: str | None) -> None:
    """Answer one text, or every line until the end of input."""
    try:
        if prompt is not None:
            _show(sorter, prompt)
            return
        echo("one text per line: an empty line or Ctrl-D ends", err=True)
        for line in sys.stdin:
            if not line.strip():
                break
            _show(sorter, line.strip())
    finally:
        sorter.runtime.close()


def _show(sorter: Sorter, text: str) -> None:
    """The labels, the likeliest first."""
    logits = sorter.runtime.classify(sorter.encode(text)).astype(np.float64)
    share = np.exp(logits - logits.max())
    share /= share.sum()
    for index in np.argsort(-share):
        echo(f"{sorter.runtime.labels[index]}\t{share[index]:.4f}")
