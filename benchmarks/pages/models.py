"""The page of model families: what was tried of each (results/families.json), and what `recipe check` reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from distill2edge.export.support import GGUF, ONNX_DECODERS, Carries

RESULT = Path(__file__).parents[1] / "results" / "families.json"
HEAD = """# Models

Teacher and student are decoders (task `causal-lm`), encoder-decoders (`seq2seq`) or encoders with a classification
head (`classification`). A teacher that gives text, labels or logits and nothing else can be any model that
transformers loads without code of its own, a GGUF file of Llama, Mistral, Qwen2, Qwen3 or Gemma 3, or a model behind an
OpenAI-compatible endpoint (text; for causal-lm also log-probabilities of the rows).

## Decoders

Each cell was tried, not promised: a tiny randomly initialised model of the family gave some of its layers to a student,
which was trained, merged and exported, and what each file says was compared with PyTorch, in nats per token (KL).
"Train" is distillation with LoRA from the teacher's layers; the mix has the size of a stock file of 4 to 5 bits; GenAI
is the ONNX folder in onnxruntime-genai. `python benchmarks/families.py` does it again.
"""
MIDDLE = """
A GGUF is written here, or by llama.cpp's own converter (*), which is fetched the first time
(`distill2edge fetch llama.cpp-converter`), runs in a process of its own, and is tried on the student before training
starts. It knows more families than these: whatever it writes is compared with PyTorch, and refused where it differs.
What llama.cpp cannot run of them is said by `recipe check`: a Phi whose heads share keys, a SmolLM3 in which other
layers than every fourth see no positions (list `student.init.layers` in fours), a Gemma 2 or 4 without a layer that
looks at a window. Experts get one type, which the budget of a mix decides: what each costs is not measured.
`--converter PATH` names another llama.cpp's `convert_hf_to_gguf.py`.

## What a format carries

`distill2edge recipe check` reads this table, so an unsupported choice is refused before anything is computed. A cell
names the rotary scalings that the format carries beyond the plain one; *windows*: sliding-window attention too. Every
exported graph is compared with PyTorch before it is rounded, whatever a table says.

| family | `model_type` | ONNX | GGUF |
|---|---|---|---|"""
TAIL = """
## Encoders and encoder-decoders

| kind | ONNX | GGUF |
|---|---|---|
| classifiers: encoders, and decoders with a classification head | traced from the model itself: any family that \
PyTorch exports; what differs from PyTorch is refused | {classifiers} |
| encoder-decoders | as above, as two graphs | {seq2seq} |
"""
_KINDS = ("bert", "t5")  # of the GGUF table, no decoders
_LONGEST = 160  # characters of a reason


def models() -> str:
    """The page."""
    lines = [HEAD, *_tried(), MIDDLE]
    for name in dict.fromkeys([*ONNX_DECODERS, *GGUF]):
        if name not in _KINDS:
            onnx, gguf = ONNX_DECODERS.get(name), GGUF.get(name)
            label = (gguf or onnx or Carries(name)).label
            lines.append(f"| {label} | `{name}` | {_carried(onnx, 'no')} | {_carried(gguf, 'by the converter')} |")
    classifiers, seq2seq = (GGUF[name].label for name in _KINDS)
    return "\n".join(lines) + "\n" + TAIL.format(classifiers=classifiers, seq2seq=seq2seq)


def _tried() -> list[str]:
    document = json.loads(RESULT.read_text(encoding="utf-8"))
    columns = list(document["metrics"])
    lines = [f"| family | `model_type` | {' | '.join(columns)} |", f"|---|---|{'---|' * len(columns)}"]
    reasons: dict[str, int] = {}
    for name, tried in document["samples"].items():
        family = tried["model_type"]
        cells = [_cell(tried[column], column.startswith("GGUF") and family not in GGUF, reasons) for column in columns]
        lines.append(f"| {name} | `{family}` | {' | '.join(cells)} |")
    return [*lines, "", *(f"{number}. {reason}" for reason, number in reasons.items())]


def _cell(tried: dict[str, Any], converted: bool, reasons: dict[str, int]) -> str:
    if not tried["ok"]:
        number = reasons.setdefault(_short(tried["why"]), len(reasons) + 1)
        return f"no ({number})"
    star = "*" if converted else ""
    kl = tried.get("kl")
    return f"yes{star}" if kl is None else f"{kl:.1g}{star}"


def _short(why: str) -> str:
    """A reason without folders and lists of every family."""
    line = re.sub(r"\S*/(?=[\w.-]+)", "", why.splitlines()[0])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST].rsplit(' ', 1)[0]} ..."


def _carried(carries: Carries | None, otherwise: str) -> str:
    if carries is None:
        return otherwise
    more = [rope for rope in carries.ropes if rope != "default"]
    return ", ".join(["yes", *more, *(["windows"] if carries.windows else [])])
