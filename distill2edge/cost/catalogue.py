"""The dated price catalogue: package data, with a file of one's own on top. Never fetched at run time."""

from __future__ import annotations

import datetime
import hashlib
import math
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe.paths import locate, tried
from distill2edge.recipe.yaml12 import Path as KeyPath
from distill2edge.recipe.yaml12 import parse_document, read_text
from distill2edge.util.nearest import meant

SECTIONS = ("rented", "api", "devices")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bounded(_Part):
    """A figure and the bounds it may lie in. A plain number in YAML is a figure without doubt."""

    value: float = Field(ge=0)
    low: float = Field(ge=0)
    high: float = Field(ge=0)

    @model_validator(mode="after")
    def _ordered(self) -> Bounded:
        if not all(math.isfinite(x) for x in (self.value, self.low, self.high)):
            raise ValueError("figures must be finite")
        if not self.low <= self.value <= self.high:
            raise ValueError(f"low <= value <= high does not hold: {self.low}, {self.value}, {self.high}")
        return self


def _from_number(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return {"value": value, "low": value, "high": value}
    return value


Figure = Annotated[Bounded, BeforeValidator(_from_number)]


class _Sourced(_Part):
    """Where and when a price was read, and how sure we are of it."""

    region: str
    source: str = Field(min_length=1, description="URL, or 'general knowledge', or who says so")
    as_of: datetime.date
    confidence: Literal["high", "medium", "low"]
    note: str = ""


class Electricity(_Sourced):
    usd_per_kwh: Figure


class Rented(_Sourced):
    """A machine by the hour."""

    label: str
    kind: Literal["cpu", "gpu"]
    vcpus: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    gpu: str | None = None
    usd_per_hour: Figure


class ApiModel(_Sourced):
    """A hosted model by the token: US dollars per million."""

    label: str
    input: Figure
    cached: Figure
    output: Figure
    tokenizer: str | None = Field(None, description="public tokenizer that counts as the model does")


class Device(_Sourced):
    """A device that is bought. Watts are at the wall."""

    label: str
    cores: int = Field(ge=1)
    memory_gib: float = Field(gt=0)
    gpu: bool = False
    capex_usd: Figure
    resale_usd: Figure
    life_years: Figure
    idle_w: Figure
    active_w: Figure

    @model_validator(mode="after")
    def _sensible(self) -> Device:
        if self.life_years.low <= 0:
            raise ValueError("life_years must be above 0")
        if self.resale_usd.value > self.capex_usd.value:
            raise ValueError("resale_usd is above capex_usd")
        return self


class Catalogue(_Part):
    """All prices, by name."""

    schema_version: Literal[1]
    as_of: datetime.date
    electricity: Electricity
    rented: dict[str, Rented]
    api: dict[str, ApiModel]
    devices: dict[str, Device]
    origin: str = "catalogue of the package"

    def rented_machine(self, name: str, where: str = "cost") -> Rented:
        """The machine of that name. Raises UserError that lists the known ones."""
        return self.rented[self._known("rented", name, where)]

    def api_model(self, name: str, where: str = "cost") -> ApiModel:
        """The API model of that name. Raises UserError that lists the known ones."""
        return self.api[self._known("api", name, where)]

    def device(self, name: str, where: str = "cost") -> Device:
        """The owned device of that name. Raises UserError that lists the known ones."""
        return self.devices[self._known("devices", name, where)]

    def _known(self, section: str, name: str, where: str) -> str:
        names = sorted(getattr(self, section))
        if name in names:
            return name
        elsewhere = [other for other in SECTIONS if other != section and name in getattr(self, other)]
        if elsewhere:
            word = {"rented": "rented", "api": "api", "devices": "device"}[elsewhere[0]]
            fix = f"{name} is known as {word}: write `{word}: {name}`"
        else:
            fix = f"{meant(name, names, 0.5)}known: {', '.join(names)}; or add it with `cost.prices: my-prices.yaml`"
        raise UserError(f"the price catalogue has no {section} entry {name!r}", where=where, fix=fix)


def _validate(document: dict[str, Any], where: str, lines: dict[KeyPath, int]) -> Catalogue:
    try:
        return Catalogue.model_validate(document)
    except ValidationError as error:
        errors = []
        for problem in error.errors():
            path = ".".join(str(part) for part in problem["loc"])
            line = next(
                (lines[at] for n in range(len(problem["loc"]), 0, -1) if (at := problem["loc"][:n]) in lines), 0
            )
            message = problem["msg"].removeprefix("Value error, ")
            fix = "unknown keys are refused; see docs/cost-model.md" if problem["type"] == "extra_forbidden" else ""
            errors.append(UserError(message, where=f"{where}{f':{line}' if line else ''}: {path}", fix=fix))
        if len(errors) == 1:
            raise errors[0] from None
        raise RecipeErrors(errors) from None


@cache
def _bundled() -> str:
    return (resources.files("distill2edge.cost") / "prices.yaml").read_text(encoding="utf-8")


def load_catalogue(override: str | Path | None = None) -> Catalogue:
    """The catalogue of the package, with the entries of `override` in place of those of the same name.

    Args:
        override: YAML file in the form of `prices.yaml`; every section is optional, an entry is complete.

    Raises:
        UserError: missing or unreadable file, bad YAML, unknown key, wrong type, bounds that don't hold
            (several at once as RecipeErrors).
    """
    if override is None:
        return _loaded(None, "prices.yaml", "")
    where = str(override)
    written = str(override) if isinstance(override, Path) else override
    path = locate(written)
    if not path.exists():
        fix = f"cost.prices names a YAML file; {tried(written)}"
        raise UserError("cannot read the price file: No such file", where=where, fix=fix)
    return _loaded(read_text(path), where, Path(override).name)


@lru_cache(maxsize=8)
def _loaded(text: str | None, where: str, name: str) -> Catalogue:
    """The catalogue with the entries of a file on top, read once: check, plan and report ask for it by turns.

    Args:
        text: of the file; None is none.
        name: of the file.
    """
    base, base_lines, _ = parse_document(_bundled(), "prices.yaml")
    if text is None:
        return _validate(base, where, base_lines)
    extra, lines, _ = parse_document(text, where)
    merged = dict(base)
    for key, value in extra.items():
        merged[key] = {**base[key], **value} if key in SECTIONS and isinstance(value, dict) else value
    # The file's own content, not its path, tells two price lists apart.
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    merged["origin"] = f"catalogue of the package, with {name} (sha256 {digest}) on top"
    return _validate(merged, where, lines)
