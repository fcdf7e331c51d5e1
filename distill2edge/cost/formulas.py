"""Cost formulas: plain numbers in, US dollars out. No price, file or model is known here.

Every cost is in US dollars for 1,000 requests. `requests_per_s` is the measured speed of one busy machine and
`utilisation` is the share of the time it is busy, so it divides: a machine that idles is paid for all the same.
"""

from __future__ import annotations

import math

from distill2edge.errors import UserError

UTILISATIONS = (0.05, 0.2, 0.5, 1.0)
"""The shares of busy time that every report shows."""

SECONDS_PER_HOUR = 3600.0
JOULES_PER_KWH = 3.6e6
SECONDS_PER_YEAR = 365.25 * 24 * SECONDS_PER_HOUR
SECONDS_PER_MONTH = SECONDS_PER_YEAR / 12


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{name.replace('_', ' ')} must be a positive number, not {value!r}", where=f"cost: {name}")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise UserError(f"{name.replace('_', ' ')} must be zero or more, not {value!r}", where=f"cost: {name}")


def _share(utilisation: float) -> None:
    if not 0 < utilisation <= 1:
        raise UserError(
            f"utilisation must be above 0 and at most 1, not {utilisation!r}",
            where="cost: utilisation",
            fix="0.2 means that the machine is busy a fifth of the time",
        )


def rented_per_1000(usd_per_hour: float, requests_per_s: float, utilisation: float) -> float:
    """A machine paid by the hour: `1000 P / (3600 R u)`.

    Args:
        usd_per_hour: price P.
        requests_per_s: speed R of the busy machine.
        utilisation: u in (0, 1].

    Raises:
        UserError: a price below zero, a speed that is not positive, a utilisation outside (0, 1].
    """
    _not_negative(usd_per_hour=usd_per_hour)
    _positive(requests_per_s=requests_per_s)
    _share(utilisation)
    return 1000 * usd_per_hour / (SECONDS_PER_HOUR * requests_per_s * utilisation)


def api_per_1000(
    tokens_in: float,
    tokens_cached: float,
    tokens_out: float,
    usd_in: float,
    usd_cached: float,
    usd_out: float,
) -> float:
    """An API paid by the token: `1000 (t_in p_in + t_cached p_cached + t_out p_out) / 1e6`.

    Args:
        tokens_in: uncached prompt tokens of one request, in that model's own tokens.
        tokens_cached: prompt tokens billed at the cached rate.
        tokens_out: generated tokens.
        usd_in: US dollars per million uncached prompt tokens; likewise `usd_cached`, `usd_out`.

    Raises:
        UserError: a count or price below zero.
    """
    _not_negative(tokens_in=tokens_in, tokens_cached=tokens_cached, tokens_out=tokens_out)
    _not_negative(usd_in=usd_in, usd_cached=usd_cached, usd_out=usd_out)
    return 1000 * (tokens_in * usd_in + tokens_cached * usd_cached + tokens_out * usd_out) / 1e6


def active_energy(active_w: float, requests_per_s: float) -> float:
    """Joules of one request on a machine that draws `active_w` watts while busy: `P_active / R`."""
    _not_negative(active_w=active_w)
    _positive(requests_per_s=requests_per_s)
    return active_w / requests_per_s


def owned_per_1000(
    capex_usd: float,
    resale_usd: float,
    life_s: float,
    requests_per_s: float,
    utilisation: float,
    active_j: float,
    idle_w: float,
    usd_per_kwh: float,
) -> float:
    """A device that is bought: `1000 ((C - S)/(L u R) + (E + P_idle (1-u)/(u R)) / 3.6e6 k)`.

    The first term spreads the loss of value over all requests of its life; the second is the electricity of a
    request, with its part of the idle time before the next one.

    Args:
        capex_usd: purchase price C; `resale_usd` S is what it still sells for after its life (S <= C).
        life_s: seconds L that it is in service.
        requests_per_s: speed R of the busy device.
        utilisation: u in (0, 1].
        active_j: joules E of one request (see `active_energy`).
        idle_w: watts while it waits.
        usd_per_kwh: price k of electricity.

    Raises:
        UserError: a value out of range.
    """
    _not_negative(capex_usd=capex_usd, resale_usd=resale_usd, active_j=active_j, idle_w=idle_w, usd_per_kwh=usd_per_kwh)
    _positive(life_s=life_s, requests_per_s=requests_per_s)
    _share(utilisation)
    if resale_usd > capex_usd:
        raise UserError(
            f"the resale value ({resale_usd:g}) is above the purchase price ({capex_usd:g})", where="cost: resale_usd"
        )
    value_lost = (capex_usd - resale_usd) / (life_s * utilisation * requests_per_s)
    joules = active_j + idle_w * (1 - utilisation) / (utilisation * requests_per_s)
    return 1000 * (value_lost + joules / JOULES_PER_KWH * usd_per_kwh)


def break_even_requests(one_off_usd: float, teacher_per_1000: float, student_per_1000: float) -> float | None:
    """Requests after which the student has paid for itself: `N* = F / (c_teacher - c_student)`.

    Args:
        one_off_usd: F, spent once on generation, training and evaluation.
        teacher_per_1000: US dollars for 1,000 requests; likewise `student_per_1000`.

    Returns:
        N*, or None ("never") where the student is not cheaper.
    """
    _not_negative(one_off_usd=one_off_usd, teacher_per_1000=teacher_per_1000, student_per_1000=student_per_1000)
    difference = (teacher_per_1000 - student_per_1000) / 1000
    if difference <= 0:
        return None
    requests = one_off_usd / difference
    return requests if math.isfinite(requests) else None


def saving(teacher_per_1000: float, student_per_1000: float) -> float | None:
    """Share of the teacher's cost that the student saves: `1 - c_student / c_teacher`; negative when it costs more.

    None where the teacher costs nothing.
    """
    _not_negative(teacher_per_1000=teacher_per_1000, student_per_1000=student_per_1000)
    return None if teacher_per_1000 == 0 else 1 - student_per_1000 / teacher_per_1000


def price_drop_that_erases(
    teacher_per_1000: float, student_per_1000: float, one_off_usd: float = 0.0, requests: float | None = None
) -> float | None:
    """How far the teacher's price must fall, the student's staying, until nothing is saved.

    `1 - (c_student + F/N) / c_teacher`: over N requests the one-off cost F counts too; without N it does not.

    Returns:
        A share in (0, 1], or None where there is no saving to erase.
    """
    _not_negative(one_off_usd=one_off_usd)
    full = student_per_1000
    if requests is not None:
        _positive(requests=requests)
        full += 1000 * one_off_usd / requests
    drop = saving(teacher_per_1000, full)
    return drop if drop is not None and drop > 0 else None


def implied_utilisation(requests_per_month: float, requests_per_s: float) -> float:
    """Share of a month that one machine is busy with this many requests; above 1, one machine is not enough."""
    _not_negative(requests_per_month=requests_per_month)
    _positive(requests_per_s=requests_per_s)
    return requests_per_month / (requests_per_s * SECONDS_PER_MONTH)


FORMULAS = {
    "rented": "1000 P / (3600 R u)",
    "api": "1000 (t_in p_in + t_cached p_cached + t_out p_out) / 1e6",
    "owned": "1000 ((capex - resale) / (life u R) + (P_active / R + P_idle (1-u) / (u R)) / 3.6e6 * $/kWh)",
    "break_even": "F / (c_teacher - c_student), never where the difference is not positive",
    "saving": "1 - c_student / c_teacher",
    "price_drop": "1 - (c_student + F / N) / c_teacher",
}
"""What the report prints beside the figures. R requests/s, u utilisation, P price per hour, t tokens, p their price."""
