"""A hard limit on what an endpoint may cost: reserved before a request leaves, settled when its answer is there."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from distill2edge.errors import UserError
from distill2edge.util.quantities import readable_usd


class BudgetReached(UserError):
    """The next request could go over the budget, so it was not sent."""


@dataclass(frozen=True)
class Prices:
    """US dollars per million tokens."""

    input: float
    output: float

    def cost(self, prompt_tokens: int, tokens: int) -> float:
        """Dollars of one request."""
        return (prompt_tokens * self.input + tokens * self.output) / 1e6


@dataclass(frozen=True)
class Reservation:
    """What a request under way may cost at most."""

    tokens: int
    usd: float


class Budget:
    """Counts dollars and tokens over threads.

    Args:
        prices: None where the endpoint costs nothing.
        max_usd, max_tokens: what may be spent in all; None means no limit.
    """

    def __init__(self, prices: Prices | None, max_usd: float | None, max_tokens: int | None) -> None:
        self.prices = prices or Prices(0.0, 0.0)
        self.max_usd, self.max_tokens = max_usd, max_tokens
        self.usd, self.tokens = 0.0, 0
        self._held_usd, self._held_tokens = 0.0, 0
        self._changed = threading.Condition()

    def reserve(self, prompt_tokens: int, tokens: int) -> Reservation:
        """Set aside the most that a request may cost; waits while requests under way hold what is left.

        Raises:
            BudgetReached: not even with nothing else under way would it fit.
        """
        asked = Reservation(prompt_tokens + tokens, self.prices.cost(prompt_tokens, tokens))
        with self._changed:
            while True:
                self._refuse(asked)
                if self._fits(asked, self._held_usd, self._held_tokens):
                    self._held_usd += asked.usd
                    self._held_tokens += asked.tokens
                    return asked
                self._changed.wait()

    def settle(self, reservation: Reservation, usd: float, tokens: int) -> None:
        """Replace what was set aside by what it has cost."""
        with self._changed:
            self._held_usd -= reservation.usd
            self._held_tokens -= reservation.tokens
            self.usd += usd
            self.tokens += tokens
            self._changed.notify_all()

    def count(self, usd: float, tokens: int) -> None:
        """Add what an earlier, interrupted run has spent."""
        with self._changed:
            self.usd += usd
            self.tokens += tokens

    def note(self) -> str:
        """How far it is spent: `$0.0123 of $1.00`."""
        if self.max_usd is not None:
            return f"{readable_usd(self.usd)} of ${self.max_usd:g}"
        limit = f" of {self.max_tokens:,}" if self.max_tokens is not None else ""
        return f"{self.tokens:,}{limit} tokens"

    def _fits(self, asked: Reservation, usd: float, tokens: int) -> bool:
        # A relative grain of tolerance: sums of small floats must not refuse the last affordable request.
        return (self.max_usd is None or self.usd + usd + asked.usd <= self.max_usd * (1 + 1e-9)) and (
            self.max_tokens is None or self.tokens + tokens + asked.tokens <= self.max_tokens
        )

    def _refuse(self, asked: Reservation) -> None:
        if not self._fits(asked, 0.0, 0):
            key = "max_usd" if self.max_usd is not None and self.usd + asked.usd > self.max_usd else "max_tokens"
            raise BudgetReached(
                f"the budget is reached: {self.note()} spent, and the next request may take "
                f"{asked.tokens:,} tokens ({readable_usd(asked.usd)})",
                where=f"teacher.endpoint.{key}",
                fix=f"raise it and run the same command (--set teacher.endpoint.{key}=...): every answer so far is "
                "kept, and nothing is paid twice",
            )
