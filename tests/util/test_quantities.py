"""What is small is never printed as nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.report import figures
from distill2edge.util.quantities import readable_bytes, readable_seconds, readable_share, readable_usd

WRITERS = {
    "bytes": readable_bytes,
    "seconds": readable_seconds,
    "share": readable_share,
    "usd": readable_usd,
    "report usd": figures.usd,
    "report percent": figures.percent,
    "report seconds": figures.seconds,
    "report milliseconds": figures.milliseconds,
}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (readable_bytes(0), "0 B"),
        (readable_bytes(17), "17 B"),
        (readable_bytes(41_300), "41.3 kB"),
        (readable_bytes(93_800_000), "93.8 MB"),
        (readable_seconds(0), "0 s"),
        (readable_seconds(0.02), "under 0.1 s"),
        (readable_seconds(0.4), "0.4 s"),
        (readable_seconds(42), "42 s"),
        (readable_seconds(9000), "2.5 h"),
        (readable_share(0.2), "20%"),
        (readable_share(0.0012), "0.12%"),
        (readable_share(0.00001, 1), "0.001%"),
        (readable_share(0), "0%"),
        (readable_usd(0), "$0.00"),
        (readable_usd(0.0042), "$0.0042"),
        (readable_usd(0.000012), "$0.000012"),
        (readable_usd(12.345), "$12.35"),
        (figures.percent(0.00003), "<0.1%"),
    ],
)
def test_as_people_read_it(written: str, expected: str) -> None:
    assert written == expected


@pytest.mark.parametrize("name", WRITERS)
@given(value=st.floats(min_value=1e-9, max_value=1e12))
def test_nothing_but_nothing_is_zero(name: str, value: float) -> None:
    if name == "bytes":
        value = max(1.0, value)
    written = WRITERS[name](value)
    assert any(digit in "123456789" for digit in written), written
