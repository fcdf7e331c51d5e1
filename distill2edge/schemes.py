"""Schemes: the named quantizations of each export format."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

ONNX = ("fp32", "fp16", "int8", "int4-b32")
DYNAMIC = "onnx:int8-dynamic"
"""Of classifiers alone, beside those of every model."""
GGUF = (
    "F32", "F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_K_S", "Q5_0", "Q5_1",
    "Q4_K_M", "Q4_K_S", "Q4_0", "Q4_1", "IQ4_NL", "IQ4_XS", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K",
)  # fmt: skip
UNCALIBRATED = ("F32", "F16", "BF16", "Q8_0")
PLAIN_SUFFIX, UNTRAINED_SUFFIX = "-plain", "-untrained"
"""Arms made to compare with: no calibration; weights that were not trained on the scheme's grid."""
TRAINABLE = (
    "gguf:Q4_0", "gguf:Q4_1", "gguf:Q5_0", "gguf:Q5_1", "gguf:Q8_0", "gguf:IQ4_NL", "onnx:int8", "onnx:int4-b32",
)  # fmt: skip
"""Schemes whose grid a model can be trained on."""


@dataclass(frozen=True)
class Scheme:
    """A format and one of its quantizations, written `format:name`."""

    format: Literal["onnx", "gguf"]
    name: str

    def __str__(self) -> str:
        return f"{self.format}:{self.name}"

    @property
    def base(self) -> str:
        """The quantization itself: `Q4_0` of `Q4_0-plain` and of `Q4_0-untrained`."""
        return self.name.removesuffix(PLAIN_SUFFIX).removesuffix(UNTRAINED_SUFFIX)

    @property
    def plain(self) -> bool:
        """Whether this is the arm without calibration, made to compare."""
        return self.name.endswith(PLAIN_SUFFIX)

    @property
    def calibrates(self) -> bool:
        """Whether an importance matrix changes the file: llama.cpp ignores it at 8 bits and above."""
        return self.format == "gguf" and not self.plain and self.base not in UNCALIBRATED

    @property
    def slug(self) -> str:
        """For file names: `onnx-int8`, `gguf-Q4_K_M`."""
        return f"{self.format}-{self.name}"


ALL = tuple(Scheme("onnx", name) for name in (*ONNX, "int8-dynamic")) + tuple(Scheme("gguf", name) for name in GGUF)


def is_compared(name: str) -> bool:
    """Whether a scheme's or a file's name is that of an arm made to compare with, which never ships."""
    return name.endswith((PLAIN_SUFFIX, UNTRAINED_SUFFIX))


def parse_scheme(text: str) -> Scheme:
    """Read `onnx:int8` or `gguf:Q4_0`; `gguf:Q4_0-plain` is the same without calibration, `-untrained` the same of
    the student before it was trained on the grid.

    Raises:
        ValueError: unknown scheme; the message names the nearest and all known ones.
    """
    for scheme in ALL:
        if str(scheme).lower() == text.lower():
            return scheme
    if text.endswith(PLAIN_SUFFIX):
        scheme = parse_scheme(text.removesuffix(PLAIN_SUFFIX))
        if scheme.calibrates:
            return Scheme(scheme.format, scheme.name + PLAIN_SUFFIX)
    if text.endswith(UNTRAINED_SUFFIX) and text.removesuffix(UNTRAINED_SUFFIX) in TRAINABLE:
        scheme = parse_scheme(text.removesuffix(UNTRAINED_SUFFIX))
        return Scheme(scheme.format, scheme.name + UNTRAINED_SUFFIX)
    known = [str(scheme) for scheme in ALL]
    near = difflib.get_close_matches(text, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ValueError(f"unknown scheme {text!r}: {hint}known: {', '.join(known)}")
