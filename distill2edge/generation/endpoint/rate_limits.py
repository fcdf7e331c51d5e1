"""Rate limits and waiting times."""

from __future__ import annotations

import email.utils
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC

LONGEST_WAIT_S = 300.0
_MINUTE = 60.0


class RateLimit:
    """Requests and tokens per minute over threads, and a pause that the server asks for.

    Two buckets that fill evenly; each holds a minute's worth at most, and starts with a tenth of it, so that a run does
    not open with a burst.

    Args:
        clock, sleep: for tests; `sleep` returns True where the wait was cut short.
    """

    def __init__(
        self,
        requests_per_minute: float | None,
        tokens_per_minute: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], bool] | None = None,
    ) -> None:
        self._rates = [requests_per_minute, tokens_per_minute]
        self._level = [max(1.0, rate / 10) if rate else 0.0 for rate in self._rates]
        self._clock, self._last, self._paused = clock, clock(), 0.0
        self._sleep = sleep or _sleep
        self._lock = threading.Lock()

    def take(self, tokens: int) -> None:
        """Wait until a request of so many tokens may leave; more than a minute's worth wait for a full bucket."""
        wants = (1.0, float(tokens))
        while True:
            with self._lock:
                wait = self._wait(wants)
                if wait <= 0:
                    self._level = [
                        level - min(want, rate) if rate else level
                        for level, want, rate in zip(self._level, wants, self._rates, strict=True)
                    ]
                    return
            if self._sleep(wait):
                return

    def pause(self, seconds: float) -> None:
        """Let nothing leave for so long."""
        with self._lock:
            self._paused = max(self._paused, self._clock() + min(seconds, LONGEST_WAIT_S))

    def _wait(self, wants: tuple[float, float]) -> float:
        now = self._clock()
        spent, self._last = now - self._last, now
        wait = self._paused - now
        for number, (rate, want) in enumerate(zip(self._rates, wants, strict=True)):
            if rate:
                self._level[number] = min(rate, self._level[number] + spent * rate / _MINUTE)
                wait = max(wait, (min(want, rate) - self._level[number]) * _MINUTE / rate)
        return wait


def backoff(attempt: int, draw: Callable[[], float] = random.random) -> float:
    """Seconds before the next try: full jitter over 0.5 x 2^attempt, at most a minute, at least a tenth of that."""
    ceiling = min(0.5 * 2**attempt, _MINUTE)
    return ceiling * (0.1 + 0.9 * draw())


def retry_after(value: str | None, now: float | None = None) -> float | None:
    """Seconds that a `Retry-After` header asks for: a number, or an HTTP date; None where it says nothing usable."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = email.utils.parsedate_to_datetime(value)
            if moment.tzinfo is None:  # HTTP knows no other zone
                moment = moment.replace(tzinfo=UTC)
            seconds = moment.timestamp() - (time.time() if now is None else now)
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if seconds == seconds else None


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
