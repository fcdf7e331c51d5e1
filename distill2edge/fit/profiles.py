"""Profiles of devices: what a weight of each type takes there, measured by `profile-device` or predicted."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill2edge.errors import UserError
from distill2edge.fit.device_script import KIND, SCHEMA_VERSION
from distill2edge.util.files import read_object
from distill2edge.util.nearest import nearest

_MAX_BYTES = 1 << 20


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Pace(_Part):
    """Seconds of one pass: by weight of each type, and by layer for what is not products."""

    weight_s: dict[str, float] = Field(min_length=1)
    layer_s: float = Field(ge=0, allow_inf_nan=False)
    cache_byte_s: float = Field(0.0, ge=0, allow_inf_nan=False)

    def weight(self, kind: str) -> float:
        """Of one weight; vectors of F32 take next to nothing beside a layer's own time."""
        return 0.0 if kind == "F32" else self.weight_s[kind]

    def of(self, weights: Mapping[str, int]) -> float:
        """Of weights by type."""
        return sum(self.weight(kind) * count for kind, count in weights.items())


class Memory(_Part):
    """Bytes of a process before it loads a model, and how much of a file's bytes a type holds (1, or 2 where a kernel
    keeps a copy in an order of its own)."""

    base_bytes: int = Field(ge=0)
    held: dict[str, float]


class Profile(_Part):
    """A device.

    Attributes:
        measured: the day; null of a predicted one.
        source: who says so.
        url: of a predicted one, the vendor's page that its memory is read from.
    """

    schema_version: int
    kind: Literal["distill2edge device profile"]
    name: str
    source: str
    url: str | None = None
    measured: str | None = None
    threads: int = Field(ge=1)
    runtime: str = ""
    decode: Pace
    prefill: Pace
    memory: Memory

    @property
    def predicted(self) -> bool:
        """Not measured on the device."""
        return self.measured is None

    @property
    def base_bytes(self) -> int:
        """Bytes of a process before it loads a model."""
        return self.memory.base_bytes

    def held(self, shares: Mapping[str, float]) -> float:
        """Bytes in memory for each byte of a file, by the shares of its types."""
        return sum(self.memory.held.get(kind, 1.0) * share for kind, share in shares.items())

    @property
    def types(self) -> frozenset[str]:
        """Types whose speed it knows."""
        return frozenset(self.decode.weight_s.keys() & self.prefill.weight_s.keys())


class _Known(_Part):
    """A row of devices.yaml, from which a profile is predicted."""

    label: str
    source: str
    url: str = Field(pattern=r"^https://", description="the vendor's page that says what the memory is")
    threads: int
    bandwidth: float = Field(gt=0, description="bytes per second that all threads read from memory together")
    products: float = Field(gt=0, description="multiplications and additions per second of 8-bit products, all threads")
    layer_s: float = Field(gt=0)
    base_bytes: int
    copied: tuple[str, ...] = Field((), description="types of which kernels keep a copy in an order of their own")


@cache
def known() -> dict[str, _Known]:
    """Devices that come with the package, by name."""
    import yaml

    text = resources.files("distill2edge.fit").joinpath("devices.yaml").read_text(encoding="utf-8")
    return {name: _Known.model_validate(row) for name, row in yaml.safe_load(text)["devices"].items()}


def predicted(name: str) -> Profile:
    """The profile of a known device by its bandwidth and its products, the same for all types: not measured."""
    from distill2edge.fit.measure import TYPES
    from distill2edge.gguf.ggml_types import GGML_TYPES

    row = known()[name]
    reading = {kind: GGML_TYPES[kind].weight_bits / 8 / row.bandwidth for kind in TYPES}
    multiplying = dict.fromkeys(TYPES, 2 / row.products)
    return Profile(
        schema_version=SCHEMA_VERSION,
        kind=KIND,
        name=row.label,
        source=row.source,
        url=row.url,
        threads=row.threads,
        decode=Pace(weight_s=reading, layer_s=row.layer_s, cache_byte_s=1 / row.bandwidth),
        prefill=Pace(weight_s=multiplying, layer_s=row.layer_s),
        memory=Memory(base_bytes=row.base_bytes, held=dict.fromkeys(row.copied, 2.0)),
    )


def read_profile(path: Path) -> Profile:
    """A profile that `profile-device` wrote.

    Raises:
        UserError: no such file, or no profile of this schema.
    """
    where = str(path)
    if not path.is_file():
        raise UserError("there is no such profile", where=where,
                        fix="write one: distill2edge profile-device --out profile.json")  # fmt: skip
    found = read_object(path, _MAX_BYTES)
    if found.get("kind") != KIND:
        raise UserError("this is no device profile", where=where,
                        fix="give the file that distill2edge profile-device wrote")  # fmt: skip
    if found.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            f"a profile of schema {found.get('schema_version')!r}, and this version reads {SCHEMA_VERSION}",
            where=f"{where}: schema_version",
            fix="measure the device again with the script of distill2edge profile-device --script",
        )
    try:
        return Profile.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{first['msg']}", where=f"{where}: {'.'.join(map(str, first['loc']))}", fix="measure the device again"
        ) from None


def profile_of(device: str, kept: Path, say: Callable[[str], None]) -> Profile:
    """The profile of `this`, of a file, or of a device that is known by name.

    Args:
        kept: where the profile of this machine is kept once it was measured.

    Raises:
        UserError: another name.
    """
    if device == "this":
        return _this(kept, say)
    if device in known():
        return predicted(device)
    if device.endswith(".json") or Path(device).is_file():
        return read_profile(Path(device))
    names = ["this", *known()]
    near = nearest(device, names)
    raise UserError(
        f"no device {device[:60]!r} is known",
        where="--device",
        fix=(f"did you mean {near}? " if near else "")
        + f"this, {', '.join(known())}, or a file that profile-device wrote",
    )


def _this(kept: Path, say: Callable[[str], None]) -> Profile:
    from distill2edge.fit.measure import measured_here
    from distill2edge.util.files import write_json
    from distill2edge.util.machine import cpu_model

    if kept.is_file():
        try:
            found = read_object(kept, _MAX_BYTES)
            if found.get("cpu") == cpu_model():
                return read_profile(kept)
        except UserError:  # of an older version: measured anew
            pass
    say("measuring this machine, once")
    document = measured_here(say)
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_json(kept, document)
    return Profile.model_validate(json.loads(json.dumps(document)))
