"""How the saving stands when the machine is busier or idler than assumed, and when the teacher gets cheaper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill2edge.cost import formulas

PRICE_CUTS = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Shares by which a teacher's price is taken to fall. Prices of hosted models have fallen by more within two years."""


def by_utilisation(
    teacher: Mapping[str, float], student: Mapping[str, float], one_off_usd: float
) -> dict[str, dict[str, Any]]:
    """For each share of busy time: both costs, the saving, the break-even, and the teacher's price cut that erases it.

    Args:
        teacher, student: US dollars for 1,000 requests by utilisation, the same ones.
        one_off_usd: F.

    Returns:
        by utilisation: `teacher_per_1000 student_per_1000 saving break_even_requests price_cut_that_erases`; the last
        two are None where there is no saving.
    """
    return {
        u: {
            "teacher_per_1000": cost,
            "student_per_1000": student[u],
            "saving": formulas.saving(cost, student[u]),
            "break_even_requests": formulas.break_even_requests(one_off_usd, cost, student[u]),
            "price_cut_that_erases": formulas.price_drop_that_erases(cost, student[u]),
        }
        for u, cost in teacher.items()
    }


def by_price_cut(teacher_per_1000: float, student_per_1000: float, one_off_usd: float) -> dict[str, dict[str, Any]]:
    """For each cut of the teacher's price, the student's standing still: what is saved, and the break-even.

    Returns:
        by cut ("0.5" is half the price): `teacher_per_1000 saving break_even_requests`.
    """
    found = {}
    for cut in PRICE_CUTS:
        cost = teacher_per_1000 * (1 - cut)
        found[f"{cut:g}"] = {
            "teacher_per_1000": cost,
            "saving": formulas.saving(cost, student_per_1000),
            "break_even_requests": formulas.break_even_requests(one_off_usd, cost, student_per_1000),
        }
    return found
