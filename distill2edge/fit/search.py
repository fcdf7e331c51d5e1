"""Every student of a decoder, the limits that a device sets, and the points that no other beats."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from distill2edge.fit.decoder import Decoder
from distill2edge.fit.header import Words
from distill2edge.fit.loss import CACHE, Estimate
from distill2edge.fit.mixes import mixed
from distill2edge.fit.pareto import pareto
from distill2edge.fit.predict import Figures, figures
from distill2edge.fit.profiles import Profile
from distill2edge.fit.sizes import Kinds, Stored, kinds_of, written
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.models.kv_cache import TYPES
from distill2edge.models.widths import Widths, narrowed, problems
from distill2edge.quantize.schemes import ALL, MIX, Mix
from distill2edge.util.quantities import readable_bytes

_SHARES = (1.0, 0.75, 0.5)
_DEPTHS = 12
"""Counts of layers that are looked at, at most: evenly spaced."""
_OWN_HIDDEN = frozenset({"gemma3"})
"""Families that scale embeddings by the hidden size, which therefore stays (ADR 35)."""


@dataclass(frozen=True)
class Budget:
    """What a device allows; null: any.

    Attributes:
        ram, disk: bytes.
        tokens_per_second: at least, of writing.
        ttft: seconds to the first token, at most.
    """

    ram: int | None = None
    disk: int | None = None
    tokens_per_second: float | None = None
    ttft: float | None = None


@dataclass(frozen=True)
class Point:
    """A student in a file on a device.

    Attributes:
        vocabulary: `keep` or `trim`.
        scheme: without the format.
        cache: type of keys and values.
        loss: that is expected, in nats per token.
    """

    shape: Decoder
    vocabulary: str
    scheme: str
    cache: str
    file: Stored
    figures: Figures
    loss: float

    @property
    def width(self) -> str:
        """`2 groups, 1024 channels, 480 hidden`."""
        widths = self.shape.widths
        return f"{widths.kv_groups} / {widths.feed_forward} / {widths.hidden}"

    def over(self, budget: Budget) -> dict[str, float]:
        """Limit -> how many times it is exceeded, of those that are."""
        found = {}
        if budget.ram is not None:
            found["RAM"] = self.figures.memory / budget.ram
        if budget.disk is not None:
            found["disk"] = self.file.bytes / budget.disk
        if budget.tokens_per_second is not None:
            found["tokens/s"] = budget.tokens_per_second / self.figures.decode
        if budget.ttft is not None:
            found["TTFT"] = self.figures.first / budget.ttft
        return {name: value for name, value in found.items() if value > 1}

    def lacks(self, budget: Budget) -> str:
        """In words, by how much it misses the limits."""
        over, figures, said = self.over(budget), self.figures, []
        for name, has, limit in (("RAM", figures.memory, budget.ram), ("disk", self.file.bytes, budget.disk)):
            if name in over and limit is not None:
                said.append(f"{name} {readable_bytes(has)}, {readable_bytes(has - limit)} too much")
        if "tokens/s" in over and budget.tokens_per_second is not None:
            said.append(f"{figures.decode:.1f} tokens/s, {budget.tokens_per_second - figures.decode:.1f} too few")
        if "TTFT" in over and budget.ttft is not None:
            late = 1000 * (figures.first - budget.ttft)
            said.append(f"first token after {1000 * figures.first:.0f} ms, {late:.0f} ms too late")
        return "; ".join(said)


def schemes(profile: Profile) -> tuple[str, ...]:
    """Schemes whose speed a profile knows, from large to small."""
    return tuple(each.name for each in ALL if each.format == "gguf" and each.type is not None
                 and each.type.name in profile.types)  # fmt: skip


def shapes(whole: Decoder, *, widths: bool = True) -> Iterator[tuple[int, Widths]]:
    """Depths and widths that the teacher's layers can be pruned to, the whole first.

    Args:
        widths: whether its layers can be narrower at all.
    """
    step = max(whole.layers / _DEPTHS, 1.0)
    depths = sorted({max(round(whole.layers - index * step), 1) for index in range(_DEPTHS)}, reverse=True)
    groups: Sequence[float | int] = range(whole.widths.kv_groups, 0, -1) if whole.widths.kv_groups <= 4 else _SHARES
    hidden = (1.0,) if whole.architecture in _OWN_HIDDEN else _SHARES
    seen = set()
    for kv, channels, wide in product(groups, _SHARES, hidden) if widths else ((1.0, 1.0, 1.0),):
        wanted = {"kv_groups": kv, "feed_forward": channels, "hidden": wide}
        found = narrowed(whole.widths, wanted)
        if found not in seen and (found == whole.widths or not any(problems(whole.widths, found._asdict()))):
            seen.add(found)
            yield from ((depth, found) for depth in depths)


def points(
    whole: Decoder,
    words: Sequence[Words],
    profile: Profile,
    context: int,
    estimate: Estimate,
    *,
    disk: int | None = None,
    widths: bool = True,
) -> Iterator[Point]:
    """Every student, type and cache.

    Args:
        words: the vocabularies that it can have.
        context: tokens that are held at most.
        disk: bytes of a file at most: then a mix of types that fills them is a point too.
    """
    known = schemes(profile)
    caches = [each for each in TYPES if whole.widths.head % GGML_TYPES[each.upper()].block == 0]
    for (depth, narrow), vocabulary in product(shapes(whole, widths=widths), words):
        shape = whole.sized(depth, narrow, vocabulary.rows)
        pruned = estimate.pruned(shape)
        for scheme, kinds in _typed(shape, vocabulary, known, profile, estimate, disk):
            mix = scheme.startswith(MIX)
            file = written(shape, kinds, vocabulary.key_values)
            if not set(file.body) - {"F32"} <= profile.types:
                continue
            loss = pruned + estimate.stored(shape, kinds, mix=mix)
            for cache in caches:
                found = figures(shape, file, context, cache, profile)
                yield Point(shape, vocabulary.name, scheme, cache, file, found, loss + CACHE[cache])


def _typed(
    shape: Decoder, words: Words, known: Sequence[str], profile: Profile, estimate: Estimate, disk: int | None
) -> Iterator[tuple[str, Mapping[str, Kinds]]]:
    """Scheme, and the type of every matrix in it."""
    for scheme in known:
        yield scheme, kinds_of(shape, scheme)
    if disk is not None:
        kinds = mixed(shape, disk, words.key_values, estimate, profile.types)
        if kinds is not None:
            yield str(Mix(budget=disk)), kinds


def choose(found: Sequence[Point], budget: Budget) -> tuple[list[Point], Point | None]:
    """The points within a budget that no other beats, from the least loss; where none is within it, the nearest."""
    within = [point for point in found if not point.over(budget)]
    if not within:
        return [], min(found, key=lambda point: (max(point.over(budget).values()), point.loss))
    return pareto(within, _figures), None


def _figures(point: Point) -> tuple[float, ...]:
    """What less of is better, the loss first."""
    return (point.loss, point.file.bytes, point.figures.memory, 1 / point.figures.decode, point.figures.first)
