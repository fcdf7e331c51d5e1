"""Sizes, times and shares as people read them on a console: what is small is never printed as nothing."""

from __future__ import annotations


def readable_bytes(count: float) -> str:
    """`93.8 MB`: powers of ten, as disks and stores print them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def readable_seconds(seconds: float) -> str:
    """`0.2 s`, `8 s`, `3 min`, `2.1 h`."""
    if 0 < seconds < 0.1:
        return "under 0.1 s"
    if seconds < 90:
        return f"{seconds:.1f} s" if 0 < seconds < 9.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def readable_share(share: float, digits: int = 0) -> str:
    """`43%`; below what its digits show, two that count: `0.0012%`."""
    percent = 100 * share
    if percent and abs(percent) < 10**-digits:
        return f"{float(f'{percent:.2g}'):.12f}".rstrip("0") + "%" if abs(percent) >= 1e-9 else f"{percent:.2g}%"
    return f"{percent:.{digits}f}%"


def readable_usd(amount: float) -> str:
    """`$12.34`, `$0.0042`: cents, or two digits that count."""
    if amount and abs(amount) < 0.1:
        return f"${float(f'{amount:.2g}'):.12f}".rstrip("0") if abs(amount) >= 1e-9 else f"${amount:.2g}"
    return f"${amount:,.2f}"
