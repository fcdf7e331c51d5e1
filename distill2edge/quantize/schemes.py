"""Schemes: the named quantizations of each export format."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from distill2edge.gguf.ggml_types import GGML_TYPES, Precision, StorageType
from distill2edge.models.kv_cache import MARK
from distill2edge.quantize.types import ONNX_TYPES
from distill2edge.util.nearest import nearest

Format = Literal["onnx", "gguf"]
DYNAMIC = "onnx:int8-dynamic"
"""Of classifiers alone, beside those of every model."""
PLAIN_SUFFIX, UNTRAINED_SUFFIX = "-plain", "-untrained"
"""Arms made to compare with: no calibration; weights that were not trained on the scheme's grid."""
MIX = "mix-"
"""Begins the name of a type for each tensor, chosen under a limit: `gguf:mix-90MB`, `onnx:mix-kl0.05`."""
MAX_BUDGET = 10**15  # bytes; no file is larger
MIN_KL, MAX_KL = 1e-6, 10.0  # nats per token of a mix: closer is no quantized file, and further is another model
_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Mix:
    """The limit of a mix: either bytes of the whole file, or nats per token to the model it is made of."""

    budget: int | None = None
    max_kl: float | None = None

    def __str__(self) -> str:
        """The scheme's name, one for each limit: `mix-90MB`, `mix-100MiB`, `mix-90500001B`, `mix-kl0.05`."""
        if self.budget is None:
            return f"{MIX}kl{self.max_kl:g}"
        for unit, name in ((10**9, "GB"), (10**6, "MB"), (2**20, "MiB"), (10**3, "kB")):
            if self.budget % unit == 0:
                return f"{MIX}{self.budget // unit}{name}"
        return f"{MIX}{self.budget}B"


def parse_bytes(text: str | int) -> int:
    """`90MB` (10^6 bytes), `85.8 MiB` (2^20), `1GB`, `92000000`: whole bytes.

    Raises:
        ValueError: no size above zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get((found[2] or "B").upper().replace("BYTES", "B")) if found else None
    if found is None or unit is None or not 1 <= float(found[1]) * unit <= MAX_BUDGET:
        raise ValueError(f"{str(text)[:40]!r} is not a file size: write 90MB, 85MiB, 1GB, or bytes")
    return int(round(float(found[1]) * unit, 3))


@dataclass(frozen=True)
class Scheme:
    """A format and one of its quantizations, written `format:name`."""

    format: Format
    name: str

    def __str__(self) -> str:
        return f"{self.format}:{self.name}"

    @property
    def base(self) -> str:
        """The quantization itself: `Q4_0` of `Q4_0-plain` and of `Q4_0-untrained`."""
        return self.name.removesuffix(PLAIN_SUFFIX).removesuffix(UNTRAINED_SUFFIX)

    @property
    def type(self) -> StorageType | None:
        """The type of most matrices; None of a mix."""
        return _TYPES.get((self.format, self.base))

    @property
    def precision(self) -> Precision:
        """How closely a file of this scheme must follow the model it is made of.

        Weights of 16 bits and more are lossless: of a language model with 135M weights, BF16 with its arithmetic moves
        the KL by 2e-4 nats per token, F16 by 4e-6.
        """
        return "lower" if self.type is None else self.type.precision

    @property
    def plain(self) -> bool:
        """Whether this is the arm without calibration, made to compare."""
        return self.name.endswith(PLAIN_SUFFIX)

    @property
    def calibrates(self) -> bool:
        """Whether an importance matrix changes the file: llama.cpp ignores it at 8 bits and above, and a mix has
        statistics of its own."""
        return self.format == "gguf" and not self.plain and self.precision == "lower" and not self.mix

    @property
    def compensates(self) -> bool:
        """Whether rounding that compensates its errors changes the file: also ONNX in blocks."""
        return self.calibrates or (
            self.format == "onnx" and not self.plain and self.type is not None and self.type.packs
        )

    @property
    def mix(self) -> Mix | None:
        """The limit under which each tensor gets a type of its own; None where the scheme names the types."""
        if not self.name.startswith(MIX):
            return None
        limit = self.base.removeprefix(MIX)
        return Mix(max_kl=float(limit[2:])) if limit.startswith("kl") else Mix(budget=parse_bytes(limit))

    @property
    def trainable(self) -> bool:
        """Whether a model can be trained on its grid."""
        return str(self) in TRAINABLE or self.mix is not None

    @property
    def slug(self) -> str:
        """For file names: `onnx-int8`, `gguf-Q4_K_M`."""
        return f"{self.format}-{self.name}"


_TYPES: dict[tuple[Format, str], StorageType] = {
    **{("onnx", name): row for name, row in ONNX_TYPES.items() if row.stock},
    **{("gguf", name): row for row in reversed(GGML_TYPES.values()) for name in row.stock},
}
ALL = tuple(Scheme(form, name) for form, name in _TYPES)
"""Every stock scheme; those of GGUF from large to small."""
TRAINABLE = tuple(str(Scheme(*key)) for key, row in _TYPES.items() if row.packs)
"""Schemes whose grid a model can be trained on."""
ROUNDED_BY_GGML = [name for name, row in GGML_TYPES.items() if row.levels is not None and not row.packs]
"""Types that have no error-compensated rounding."""


def is_compared(name: str) -> bool:
    """Whether a scheme's or a file's name is that of an arm made to compare with, which never ships, or of a file that
    is measured with another key-value cache than it runs with by itself."""
    return name.endswith((PLAIN_SUFFIX, UNTRAINED_SUFFIX)) or MARK in name


def mix_scheme(form: Format, limit: str) -> Scheme:
    """The scheme of a format and `90MB` or `kl0.05`.

    Raises:
        ValueError: neither a size nor a KL above zero.
    """
    if limit.startswith("kl"):
        found = re.fullmatch(r"\d+(\.\d+)?(e-?\d+)?", limit[2:])
        if found is None or not MIN_KL <= float(limit[2:]) <= MAX_KL:
            raise ValueError(
                f"{limit[2:]!r} is not a KL between {MIN_KL:g} and {MAX_KL:g} nats: write {form}:{MIX}kl0.05"
            )
        return Scheme(form, str(Mix(max_kl=float(limit[2:]))))
    return Scheme(form, str(Mix(budget=parse_bytes(limit))))


def meant_scheme(text: str, known: Sequence[str]) -> str:
    """`did you mean gguf:Q8_0? ` for `q8`, with its blank; or nothing."""
    names = [scheme.partition(":")[2] for scheme in known]
    name = nearest(text.rpartition(":")[2], names, 0.7)
    near = known[names.index(name)] if name else nearest(text, known, 0.5)
    return f"did you mean {near}? " if near else ""


def schemes_in(names: Iterable[str]) -> list[str]:
    """The schemes of a run's exports by the names of their folders: `gguf:Q8_0` of `NAME-gguf-Q8_0`."""
    found = (re.search(r"-(onnx|gguf)-([^-/][^/]*?)(\.gguf)?$", name) for name in sorted(names))
    return [f"{each[1]}:{each[2]}" for each in found if each]


def parse_scheme(text: str) -> Scheme:
    """Read `onnx:int8` or `gguf:Q4_0`; `gguf:Q4_0-plain` is the same without calibration, `-untrained` the same of
    the student before it was trained on the grid. `gguf:mix-90MB` and `onnx:mix-kl0.05` are mixes (`Mix`).

    Raises:
        ValueError: unknown scheme; the message names the nearest and all known ones.
    """
    if len(text) > 64:
        raise ValueError(f"unknown scheme {text[:40]!r}...: known: {', '.join(map(str, ALL))}")
    for scheme in ALL:
        if str(scheme).lower() == text.lower():
            return scheme
    if text.endswith(UNTRAINED_SUFFIX):
        scheme = parse_scheme(text.removesuffix(UNTRAINED_SUFFIX))
        if scheme.trainable:
            return Scheme(scheme.format, scheme.name + UNTRAINED_SUFFIX)
    forms: tuple[Format, ...] = ("gguf", "onnx")
    for form in forms:
        if text.lower().startswith(f"{form}:{MIX}"):
            return mix_scheme(form, text.lower().removeprefix(f"{form}:{MIX}"))
    if text.endswith(PLAIN_SUFFIX):
        scheme = parse_scheme(text.removesuffix(PLAIN_SUFFIX))
        if scheme.compensates:
            return Scheme(scheme.format, scheme.name + PLAIN_SUFFIX)
    known = [str(scheme) for scheme in ALL]
    raise ValueError(f"unknown scheme {text!r}: {meant_scheme(text, known)}known: {', '.join(known)}")
