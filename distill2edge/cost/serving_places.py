"""Places where a model can be served, and what 1,000 requests cost there, with bounds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distill2edge.cost import formulas
from distill2edge.cost.catalogue import ApiModel, Catalogue, Device, Rented
from distill2edge.errors import UserError
from distill2edge.recipe import schema


@dataclass(frozen=True)
class Tokens:
    """Mean tokens of one request, and whose tokens they are."""

    input: float
    cached: float
    output: float
    counted_with: str


@dataclass(frozen=True)
class Quote:
    """US dollars for 1,000 requests, with the price bounds carried through."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Spot:
    """One place of the recipe, looked up in the catalogue."""

    kind: str  # rented | device | api
    name: str
    entry: Rented | ApiModel | Device
    catalogue: Catalogue

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def label(self) -> str:
        return self.entry.label

    def runs(self, device: str) -> bool:
        """Whether a cell measured on `device` (cpu | gpu) says something about this place."""
        if isinstance(self.entry, Rented):
            return device == self.entry.kind
        return isinstance(self.entry, Device) and (device == "cpu" or self.entry.gpu)

    def quote(self, requests_per_s: float, utilisation: float) -> Quote:
        """Cost of a machine at this speed. The bounds are those of the prices, not of the speed."""
        if isinstance(self.entry, Rented):
            price = self.entry.usd_per_hour
            return _quote(
                lambda pick: formulas.rented_per_1000(pick(price, False), requests_per_s, utilisation),
            )
        if not isinstance(self.entry, Device):
            raise TypeError("an API is quoted by its tokens")
        device, power = self.entry, self.catalogue.electricity.usd_per_kwh
        return _quote(
            lambda pick: formulas.owned_per_1000(
                capex_usd=pick(device.capex_usd, False),
                # What lowers the cost is turned round: a high resale and a long life are the low bound.
                resale_usd=min(pick(device.resale_usd, True), pick(device.capex_usd, False)),
                life_s=pick(device.life_years, True) * formulas.SECONDS_PER_YEAR,
                requests_per_s=requests_per_s,
                utilisation=utilisation,
                active_j=formulas.active_energy(pick(device.active_w, False), requests_per_s),
                idle_w=pick(device.idle_w, False),
                usd_per_kwh=pick(power, False),
            )
        )

    def quote_tokens(self, tokens: Tokens) -> Quote:
        """Cost at an API."""
        if not isinstance(self.entry, ApiModel):
            raise TypeError("a machine is quoted by its speed")
        api = self.entry
        return _quote(
            lambda pick: formulas.api_per_1000(
                tokens.input,
                tokens.cached,
                tokens.output,
                pick(api.input, False),
                pick(api.cached, False),
                pick(api.output, False),
            )
        )

    def as_entry(self) -> dict[str, Any]:
        """The price as the report shows it."""
        entry = self.entry.model_dump(mode="json")
        return {"id": self.id, "kind": self.kind, "name": self.name, **entry}


def _quote(cost: Callable[[Callable[[Any, bool], float]], float]) -> Quote:
    def low(figure: Any, turned: bool) -> float:
        return float(figure.high if turned else figure.low)

    def high(figure: Any, turned: bool) -> float:
        return float(figure.low if turned else figure.high)

    return Quote(cost(lambda figure, turned: float(figure.value)), cost(low), cost(high))


def look_up(place: schema.Place, catalogue: Catalogue, where: str) -> Spot:
    """The place of a recipe in the catalogue.

    Raises:
        UserError: no entry of that name.
    """
    if place.rented is not None:
        return Spot("rented", place.rented, catalogue.rented_machine(place.rented, f"{where}.rented"), catalogue)
    if place.device is not None:
        return Spot("device", place.device, catalogue.device(place.device, f"{where}.device"), catalogue)
    assert place.api is not None
    return Spot("api", place.api, catalogue.api_model(place.api, f"{where}.api"), catalogue)


def check_places(cost: schema.Cost) -> None:
    """Fail early, before any work, where `cost` names a price that nobody knows.

    Raises:
        UserError: unknown place, unreadable price file, or a student at an API.
    """
    spots(cost, catalogue_of(cost))


def watts_of(bench: schema.Bench, cost: schema.Cost) -> dict[str, float]:
    """Power under load by bench device (`cpu`, `gpu`), where the recipe says which catalogue device this machine is.

    Raises:
        UserError: the catalogue does not know `bench.machine`.
    """
    if bench.machine is None:
        return {}
    device = catalogue_of(cost).device(bench.machine, "bench.machine")
    return dict.fromkeys(("cpu", "gpu") if device.gpu else ("cpu",), device.active_w.value)


def catalogue_of(cost: schema.Cost) -> Catalogue:
    """The catalogue that this recipe uses."""
    from distill2edge.cost.catalogue import load_catalogue

    return load_catalogue(cost.prices)


def spots(cost: schema.Cost, catalogue: Catalogue) -> tuple[Spot, Spot]:
    """The places of teacher and student."""
    teacher = look_up(cost.teacher, catalogue, "cost.teacher")
    student = look_up(cost.student, catalogue, "cost.student")
    if student.kind == "api":
        raise UserError(
            "the student has no API price: it is your own model",
            where="cost.student.api",
            fix="name a machine (`rented:`) or a device (`device:`)",
        )
    return teacher, student
