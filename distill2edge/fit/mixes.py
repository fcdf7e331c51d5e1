"""The type of each matrix of a student under the bytes of a file, by what each type is expected to cost: a mix.

The exporter chooses by the trained weights and fills the same bytes, so the file is as large and no larger; which types
it takes is expected here by the teacher's, which says what such a file does on a device.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from itertools import pairwise

from distill2edge.fit.decoder import Decoder, Part
from distill2edge.fit.loss import Estimate
from distill2edge.fit.sizes import Kinds, bytes_of, written
from distill2edge.gguf.ggml_types import GGML_TYPES, LAST_RESORT
from distill2edge.quantize.allocation import hull
from distill2edge.quantize.sensitivity import KINDS, left_of


def mixed(
    decoder: Decoder, budget: int, key_values: int, estimate: Estimate, known: Collection[str]
) -> dict[str, Kinds] | None:
    """Part -> the types of its matrices, as `sizes.kinds_of`; None where the smallest do not fit, or the largest do.

    Upgrades are taken by what they save for each byte, as `allocation.choose` does before its exchanges.

    Args:
        budget: bytes of the whole file.
        key_values: as of `sizes.stored`.
        known: types whose speed is known.
    """
    kinds = tuple(kind for kind in KINDS if kind in known)
    steps, least = [], {}
    for part in _matrices(decoder):
        layers = estimate.kept(decoder.layers) if part in decoder.layer else [0]
        for at, layer in enumerate(layers):
            points = _hull(estimate, part, layer, kinds)
            least[part.role, at] = points[0][0]
            for (_, size, loss), (kind, more, less) in pairwise(points):
                steps.append(((loss - less) / (more - size), more - size, part.role, at, kind))
    left = budget - written(decoder, _joined(least), key_values).bytes
    if left < 0 or sum(step[1] for step in steps) <= left:
        return None
    blocked = set()
    for _, more, role, at, kind in sorted(steps, reverse=True):
        if (role, at) in blocked or more > left:
            blocked.add((role, at))
            continue
        least[role, at], left = kind, left - more
    return _joined(least)


def _matrices(decoder: Decoder) -> list[Part]:
    return [part for part in (*decoder.top, *decoder.layer) if len(part.shape) > 1]


@lru_cache(maxsize=1 << 17)
def _hull(estimate: Estimate, part: Part, layer: int, kinds: tuple[str, ...]) -> list[tuple[str, int, float]]:
    fits = [kind for kind in kinds if part.shape[-1] % GGML_TYPES[kind].block == 0] or [LAST_RESORT]
    held = estimate.held(part)
    cost = {kind: held * estimate.cost(part.role, kind, layer) * left_of(kind) for kind in fits}
    return hull({kind: (bytes_of(part, kind), cost[kind]) for kind in fits})


def _joined(found: Mapping[tuple[str, int], str]) -> dict[str, Kinds]:
    roles: dict[str, list[str]] = {}
    for (role, _), kind in found.items():
        roles.setdefault(role, []).append(kind)
    return {role: tuple(kinds) for role, kinds in roles.items()}
