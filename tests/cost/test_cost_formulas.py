"""The cost formulas: values worked by hand, and the properties that keep a calculator honest."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.cost import formulas
from distill2edge.errors import UserError

price = st.floats(1e-4, 1e3)
speed = st.floats(1e-3, 1e4)
share = st.floats(0.01, 1.0)
tokens = st.floats(0, 1e5)


def test_rented_by_hand() -> None:
    # 0.36 $/h is 0.0001 $/s; two requests a second on a machine that is busy half the time: 0.0001 $ each.
    assert formulas.rented_per_1000(0.36, 2.0, 0.5) == pytest.approx(0.1)


def test_api_by_hand() -> None:
    # 1,000 requests of 900 + 100 cached + 50 tokens at 1, 0.1 and 5 $ a million.
    assert formulas.api_per_1000(900, 100, 50, 1.0, 0.1, 5.0) == pytest.approx(0.9 + 0.01 + 0.25)


def test_owned_by_hand() -> None:
    # Loses 36 $ over 36,000 busy-half seconds at 1 request/s: 2 $ a thousand. 10 J + 4 W x 1 s idle per request.
    cost = formulas.owned_per_1000(46, 10, 36_000, 1.0, 0.5, active_j=10.0, idle_w=4.0, usd_per_kwh=0.36)
    assert cost == pytest.approx(1000 * (36 / 18_000 + 14 / 3.6e6 * 0.36))


@given(price, speed, share, share)
def test_utilisation_divides(usd: float, rate: float, u: float, v: float) -> None:
    low, high = sorted((u, v))
    assert formulas.rented_per_1000(usd, rate, low) >= formulas.rented_per_1000(usd, rate, high)
    assert formulas.rented_per_1000(usd, rate, u) == pytest.approx(formulas.rented_per_1000(usd, rate, 1.0) / u)


@given(price, speed, share, share, st.floats(0, 100), st.floats(0, 100))
def test_an_idle_device_is_never_cheaper(
    capex: float, rate: float, u: float, v: float, active: float, idle: float
) -> None:
    low, high = sorted((u, v))
    cost = [formulas.owned_per_1000(capex, 0, 1e8, rate, share, active / rate, idle, 0.15) for share in (low, high)]
    assert cost[0] >= cost[1] * (1 - 1e-12)


@given(price, speed, share, st.floats(1.1, 100))
def test_twice_the_speed_is_half_the_cost(usd: float, rate: float, u: float, factor: float) -> None:
    slow, fast = formulas.rented_per_1000(usd, rate, u), formulas.rented_per_1000(usd, rate * factor, u)
    assert slow == pytest.approx(fast * factor)


@given(tokens, tokens, tokens, price, price, price, st.floats(0.1, 10))
def test_api_scales_with_tokens_and_with_prices(
    a: float, b: float, c: float, p: float, q: float, r: float, k: float
) -> None:
    whole = formulas.api_per_1000(a, b, c, p, q, r)
    assert formulas.api_per_1000(k * a, k * b, k * c, p, q, r) == pytest.approx(k * whole)
    assert formulas.api_per_1000(a, b, c, k * p, k * q, k * r) == pytest.approx(k * whole)


@given(price, price, price, st.floats(0.01, 100))
def test_break_even_does_not_depend_on_the_currency(one_off: float, teacher: float, student: float, k: float) -> None:
    first = formulas.break_even_requests(one_off, teacher, student)
    again = formulas.break_even_requests(k * one_off, k * teacher, k * student)
    if first is None or again is None or math.isclose(teacher, student, rel_tol=1e-9):
        assert teacher <= student or math.isclose(teacher, student, rel_tol=1e-9)
    else:
        assert again == pytest.approx(first, rel=1e-6)


@given(price, price, price)
def test_at_break_even_both_have_cost_the_same(one_off: float, teacher: float, student: float) -> None:
    requests = formulas.break_even_requests(one_off, teacher, student)
    if requests is None:
        assert teacher <= student
    elif not math.isclose(teacher, student, rel_tol=1e-6):
        assert requests * teacher / 1000 == pytest.approx(one_off + requests * student / 1000, rel=1e-6)


@pytest.mark.parametrize(("teacher", "student"), [(1.0, 1.0), (1.0, 2.0), (0.0, 0.0)])
def test_never_where_the_student_is_not_cheaper(teacher: float, student: float) -> None:
    assert formulas.break_even_requests(10.0, teacher, student) is None
    assert formulas.price_drop_that_erases(teacher, student) is None


@given(price, price)
def test_the_price_drop_erases_the_saving(teacher: float, student: float) -> None:
    drop = formulas.price_drop_that_erases(teacher, student)
    if drop is not None:
        assert 0 < drop <= 1
        assert formulas.saving(teacher * (1 - drop), student) == pytest.approx(0, abs=1e-6)


def test_the_one_off_cost_makes_the_margin_smaller() -> None:
    assert formulas.price_drop_that_erases(1.0, 0.4) == pytest.approx(0.6)
    assert formulas.price_drop_that_erases(1.0, 0.4, one_off_usd=20, requests=100_000) == pytest.approx(0.4)
    assert formulas.price_drop_that_erases(1.0, 0.4, one_off_usd=100, requests=100_000) is None


def test_a_dearer_student_saves_less_than_nothing() -> None:
    assert formulas.saving(1.0, 1.5) == pytest.approx(-0.5)
    assert formulas.saving(0.0, 1.0) is None


def test_volume_says_how_busy_the_machine_is() -> None:
    assert formulas.implied_utilisation(formulas.SECONDS_PER_MONTH, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize(
    "call",
    [
        lambda: formulas.rented_per_1000(1, 1, 0),
        lambda: formulas.rented_per_1000(1, 1, 20),
        lambda: formulas.rented_per_1000(1, 0, 0.5),
        lambda: formulas.rented_per_1000(-1, 1, 0.5),
        lambda: formulas.rented_per_1000(math.nan, 1, 0.5),
        lambda: formulas.api_per_1000(-1, 0, 0, 1, 1, 1),
        lambda: formulas.owned_per_1000(10, 20, 1, 1, 1, 0, 0, 0),
        lambda: formulas.owned_per_1000(10, 0, 0, 1, 1, 0, 0, 0),
        lambda: formulas.active_energy(5, 0),
    ],
)
def test_values_that_make_no_sense_are_refused(call: object) -> None:
    with pytest.raises(UserError):
        call()  # type: ignore[operator]


def test_the_model_needs_nothing_else() -> None:
    code = (
        "import sys, distill2edge.cost.formulas; ours = {m for m in sys.modules if m.startswith('distill2edge.')};"
        "print(ours); assert ours <= {'distill2edge.cost', 'distill2edge.cost.formulas', 'distill2edge.errors'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
