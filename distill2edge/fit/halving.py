"""Successive halving: the best few students are trained a little, the better half goes on with twice the share.

Each training is the recipe's own with fewer steps, through the stages that a run has, so the store keeps what was
finished: a search that was ended goes on where it was, and none is trained twice. Students are compared by the KL of
their files to the teacher on the validation rows. (Jamieson and Talwalkar 2016, "Non-stochastic Best Arm
Identification and Hyperparameter Optimization"; a round trains from the start, with a rate that ends at its last step.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from distill2edge.errors import UserError
from distill2edge.fit.search import Point
from distill2edge.fit.stages import trial_stages
from distill2edge.pipeline.run_stages import run_stages
from distill2edge.pipeline.store import Store
from distill2edge.planning.sizes import Sizes
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.schema import Recipe
from distill2edge.running.plan import planned_stages
from distill2edge.stages import Stage, build_stages
from distill2edge.util.progress import Progress, SilentProgress
from distill2edge.util.quantities import readable_seconds

FIRST = Fraction(1, 8)
"""Share of the recipe's steps that the first round trains for, where two rounds or more leave room for doubling."""
ASKED_S = 300.0
"""From which on trainings are agreed to before they begin."""


@dataclass(frozen=True)
class Candidate:
    """A student that is tried.

    Attributes:
        text: of the recipe of a whole training.
        steps: of that training.
    """

    point: Point
    text: str
    steps: int


@dataclass(frozen=True)
class Trial:
    """What a short training of a candidate was worth.

    Attributes:
        round: from 1.
        share: of the steps of a whole training.
        kl: measured, in nats per token.
        kept: it went on to the next round, or won.
    """

    candidate: Candidate
    round: int
    share: Fraction
    steps: int
    kl: float
    positions: int
    rows: int
    kept: bool


def distinct(best: Sequence[Point], count: int) -> list[Point]:
    """The points of least expected loss, one for each shape and vocabulary."""
    found: dict[object, Point] = {}
    for point in sorted(best, key=lambda point: point.loss):
        found.setdefault((point.shape.layers, point.shape.widths, point.shape.vocabulary), point)
    return list(found.values())[:count]


def steps_of(recipe: Recipe, sizes: Sizes) -> int:
    """Optimizer steps of a whole training."""
    distill = recipe.distill
    steps = -(-sizes.train // (distill.batch_size * distill.gradient_accumulation))
    whole = max(round(steps * distill.epochs), 1)
    return min(whole, distill.max_steps or whole)


def rounds(count: int) -> list[tuple[int, Fraction]]:
    """How many candidates each round trains, and for which share of the steps: 4 and 1/8, 2 and 1/4."""
    found, share = [], FIRST
    while count > 1:
        found.append((count, share))
        count, share = -(-count // 2), min(2 * share, Fraction(1))
    return found


@dataclass(frozen=True)
class Search:
    """Halving over some candidates.

    Attributes:
        speed: FLOPs per second that a process gets now.
    """

    candidates: Sequence[Candidate]
    store: Store
    speed: float
    progress: Progress

    def cost(self) -> float | None:
        """Seconds that it takes at most, of what is not in the store; None where a stage's are not known.

        Of the later rounds, whose students are not known yet, those that take longest.
        """
        seen: set[str] = set()
        total = 0.0
        for count, share in rounds(len(self.candidates)):
            each = [self._seconds(candidate, share, seen) for candidate in self.candidates]
            if None in each:
                return None
            total += sum(sorted((seconds for seconds in each if seconds is not None), reverse=True)[:count])
        return total

    def _seconds(self, candidate: Candidate, share: Fraction, seen: set[str]) -> float | None:
        """Of what is to be made for a trial, and was not counted yet."""
        recipe, stages = self._stages(candidate, share)
        planned, _ = planned_stages(recipe, stages, self.store, SilentProgress(), self.speed)
        left = [stage for stage in planned if not stage.cached and stage.key not in seen]
        seen |= {stage.key for stage in left}
        known = [stage.seconds for stage in left]
        return None if None in known else sum(seconds for seconds in known if seconds is not None)

    def run(self, tell: Callable[[Trial], None] = lambda trial: None) -> list[Trial]:
        """Every trial, the winner's last one last.

        Raises:
            UserError: from a stage; what was finished stays in the store.
        """
        found: list[Trial] = []
        left, clock = list(self.candidates), _Clock(self.progress, rounds(len(self.candidates)))
        for number, (_, share) in enumerate(rounds(len(self.candidates)), 1):
            tried = []
            for candidate in left:
                clock.begin(candidate, share)
                tried.append(self._tried(candidate, number, share))
                clock.end(share)
            order = sorted(range(len(tried)), key=lambda at: tried[at].kl)
            better = set(order[: -(-len(tried) // 2)])
            tried = [replace(trial, kept=at in better) for at, trial in enumerate(tried)]
            for trial in tried:
                tell(trial)
            left = [tried[at].candidate for at in order if at in better]
            found += [tried[at] for at in reversed(order)]
        return found

    def _tried(self, candidate: Candidate, number: int, share: Fraction) -> Trial:
        _, stages = self._stages(candidate, share)
        facts = run_stages(stages, self.store, self.progress)[-1].artifact.facts
        return Trial(candidate, number, share, _steps(candidate, share), facts["kl"], facts["positions"],
                     facts["rows"], kept=False)  # fmt: skip

    def _stages(self, candidate: Candidate, share: Fraction) -> tuple[Recipe, list[Stage]]:
        recipe = parse_recipe(candidate.text, "fit", {"distill.max_steps": _steps(candidate, share)})
        return recipe, trial_stages(build_stages(recipe, self.progress))


class _Clock:
    """Says which trial begins, and how long they all take still by the pace of those that were."""

    def __init__(self, progress: Progress, planned: Sequence[tuple[int, Fraction]]) -> None:
        self._progress, self._total = progress, sum(count for count, _ in planned)
        self._work = float(sum(count * share for count, share in planned))
        self._done, self._number, self._start = 0.0, 0, time.monotonic()

    def begin(self, candidate: Candidate, share: Fraction) -> None:
        self._number += 1
        spent = time.monotonic() - self._start
        left = f", about {readable_seconds(spent / self._done * (self._work - self._done))} left" if self._done else ""
        point, steps = candidate.point, _steps(candidate, share)
        self._progress.say(
            f"trial {self._number} of {self._total}: {point.shape.layers} layers of {point.width}, {point.scheme}, "
            f"{steps} steps{left}"
        )

    def end(self, share: Fraction) -> None:
        self._done += float(share)


def _steps(candidate: Candidate, share: Fraction) -> int:
    return max(round(candidate.steps * share), 1)


def check_count(have: int) -> None:
    """Refuse too few candidates to choose among.

    Raises:
        UserError: one student alone meets the budget.
    """
    if have < 2:
        raise UserError("one student alone meets the budget: there is nothing to choose", where="--train",
                        fix="leave --train out, or widen the budget")  # fmt: skip
