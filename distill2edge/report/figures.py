"""How figures are written: significant digits, units, intervals. Missing is an en dash, never a zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

MISSING = "–"  # noqa: RUF001 (an en dash is what tables use for "no value")


def number(value: Any, digits: int = 3) -> str:
    """A plain number with `digits` significant digits and thousands separators."""
    x = _float(value)
    if x is None:
        return MISSING
    if x == 0:
        return "0"
    exact, x = x, float(f"{x:.{digits - 1}e}")  # so that 0.9996 becomes 1.00, not 1.000
    size = abs(x)
    if size >= 10 ** (digits - 1):
        return f"{exact:,.0f}"
    if size < 1e-4:
        return f"{x:.{max(digits - 1, 0)}g}"
    places = digits - 1 - math.floor(math.log10(size))
    return f"{x:.{places}f}"


def tick(value: float) -> str:
    """A round value on an axis, without needless zeros."""
    if 0 < abs(value) < 1e-3:
        digits, power = f"{value:.3e}".split("e")
        return f"{float(digits):g}e{int(power)}"
    return f"{value:,.6g}" if abs(value) < 1e6 else count(value)


def usd_tick(value: float) -> str:
    """Dollars on an axis."""
    return f"${tick(value)}"


def percent(value: Any, digits: int = 1) -> str:
    """A share as a percentage; what would be rounded to nothing is less than the last digit."""
    x = _float(value)
    if x is None:
        return MISSING
    said = f"{100 * x:.{digits}f}%"
    least = 10.0**-digits
    return f"{'<' if x > 0 else '>-'}{least:.{digits}f}%" if 0 < abs(x) < least / 200 else said


def usd(value: Any) -> str:
    """US dollars, three significant digits below a hundred."""
    x = _float(value)
    if x is None:
        return MISSING
    sign, size = ("-" if x < 0 else ""), abs(x)
    if size >= 100:
        return f"{sign}${size:,.0f}"
    if size >= 1:
        return f"{sign}${size:.2f}"
    return f"{sign}${number(size)}"


def size(value: Any) -> str:
    """Bytes in decimal units, as disks and downloads count."""
    x = _float(value)
    if x is None:
        return MISSING
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(x) >= scale:
            return f"{number(x / scale)} {unit}"
    return f"{x:.0f} B"


def milliseconds(value: Any) -> str:
    """Milliseconds, or seconds above ten of them."""
    x = _float(value)
    if x is None:
        return MISSING
    return f"{number(x / 1000)} s" if x >= 10_000 else f"{number(x)} ms"


def seconds(value: Any) -> str:
    """A duration as people say it."""
    x = _float(value)
    if x is None:
        return MISSING
    if x < 60:
        return f"{number(x, 2)} s"
    if x >= 120 * 86400:
        return f"{number(x / (365.25 / 12 * 86400), 2)} months"
    if x >= 2 * 86400:
        return f"{number(x / 86400, 2)} days"
    minutes, rest = divmod(round(x), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def count(value: Any) -> str:
    """A whole number; millions and more are shortened."""
    x = _float(value)
    if x is None:
        return MISSING
    for unit, scale in (("G", 1e9), ("M", 1e6)):
        if abs(x) >= scale:
            return f"{number(x / scale, 4)}{unit}"
    return f"{x:,.0f}"


def ratio(value: Any) -> str:
    """A speed-up or size ratio."""
    x = _float(value)
    return MISSING if x is None else f"{number(x)}x"


def value_of(figure: Any) -> float | None:
    """The point estimate of a figure with interval."""
    return _float(figure.get("value")) if isinstance(figure, Mapping) else _float(figure)


def bounds(figure: Any) -> tuple[float, float] | None:
    """The interval of a figure, where it has one: a mean of one item has none, though its ends are written down."""
    if not isinstance(figure, Mapping):
        return None
    low, high = _float(figure.get("low")), _float(figure.get("high"))
    if low is None or high is None or (figure.get("n") == 1 and low == high):
        return None
    return low, high


def interval(figure: Any, write: Callable[[Any], str] = number) -> str:
    """`0.871 (0.850 to 0.889)`: a figure with its interval."""
    value = value_of(figure)
    if value is None:
        return MISSING
    limits = bounds(figure)
    return write(value) if limits is None else f"{write(value)} ({write(limits[0])} to {write(limits[1])})"


def span(figure: Any, write: Callable[[Any], str] = number) -> str:
    """`0.850 to 0.889`: the interval alone, or nothing."""
    limits = bounds(figure)
    return "" if limits is None or value_of(figure) is None else f"{write(limits[0])} to {write(limits[1])}"


METRICS = {
    "neg_log_likelihood": "probability per token",
    "exact_match": "exact match",
    "recall_at_10": "recall@10",
    "spearman": "Spearman's rank correlation",
    "entity_f1": "entity F1",
    "entity_agreement": "entity F1 against the teacher's",
    "micro_f1": "micro F1",
    "set_agreement": "micro F1 against the teacher",
    "kl_student": "KL to student",
}


def metric(name: Any) -> str:
    """A metric as people say it."""
    return METRICS.get(str(name), str(name).replace("_", " "))


def yes(value: Any) -> str:
    """pass, fail, or no value where it was not judged."""
    return MISSING if value is None else ("pass" if value else "fail")


def web_address(value: Any) -> str | None:
    """The address if it is one that a link may point to: never `javascript:` and the like."""
    text = str(value or "")
    return text if text.startswith(("https://", "http://")) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number of 400 digits
        return None
