"""The page of model families: which go out in which format, from the table that `recipe check` and the exports read."""

from __future__ import annotations

from distill2edge.export.support import GGUF, ONNX_DECODERS, Carries

HEAD = """# Models

Teacher and student are decoders (task `causal-lm`), encoder-decoders (`seq2seq`) or encoders with a classification
head (`classification`). A teacher that gives text, labels or logits and nothing else can be any model that
transformers loads without code of its own, a GGUF file of a family below, or a model behind an OpenAI-compatible
endpoint (text alone). What ships has to fit its format: `distill2edge recipe check` reads the same table as this page,
so an unsupported choice is refused before anything is computed.

Every exported graph is compared with PyTorch before it is rounded, whatever this table says.

## Decoders

A cell names the rotary scalings that the format carries beyond the plain one; *windows*: sliding-window attention too.
"""
TAIL = """
Families without a GGUF writer here are written by llama.cpp's own converter, which is fetched the first time
(`distill2edge fetch llama.cpp-converter`), runs in a process of its own, and is tried on the student before training
starts. `--converter PATH` names another llama.cpp's `convert_hf_to_gguf.py`.

## Encoders and encoder-decoders

| kind | ONNX | GGUF |
|---|---|---|
| classifiers: encoders, and decoders with a classification head | traced from the model itself: any family that \
PyTorch exports; what differs from PyTorch is refused | {classifiers} |
| encoder-decoders | as above, as two graphs | {seq2seq} |
"""
_KINDS = ("bert", "t5")  # of the GGUF table, no decoders


def models() -> str:
    """The page."""
    lines = [HEAD, "| family | `model_type` | ONNX | GGUF |", "|---|---|---|---|"]
    for name in dict.fromkeys([*ONNX_DECODERS, *GGUF]):
        if name not in _KINDS:
            onnx, gguf = ONNX_DECODERS.get(name), GGUF.get(name)
            label = (gguf or onnx or Carries(name)).label
            lines.append(f"| {label} | `{name}` | {_cell(onnx)} | {_cell(gguf)} |")
    classifiers, seq2seq = (GGUF[name].label for name in _KINDS)
    return "\n".join(lines) + "\n" + TAIL.format(classifiers=classifiers, seq2seq=seq2seq)


def _cell(carries: Carries | None) -> str:
    if carries is None:
        return "no"
    more = [rope for rope in carries.ropes if rope != "default"]
    return ", ".join(["yes", *more, *(["windows"] if carries.windows else [])])
