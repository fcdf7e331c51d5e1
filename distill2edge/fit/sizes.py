"""The bytes of a GGUF by the shapes of its tensors and the types of a scheme: exact but for texts of its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from distill2edge.fit.decoder import Decoder, Part, count_of
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.mixtures import EMBEDDING, HEAD, Place, stored_as
from distill2edge.gguf.repack import padded

_INFO = 8 + 4 + 4 + 8  # bytes of a tensor's entry beside its name and its lengths: length of name, axes, type, offset

Kinds = tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """What a decoder is in a file.

    Attributes:
        bytes: of the whole file.
        body: type -> weights of the layers' matrices; F32 vectors too.
        embedding, head: type and weights of those; one that is both is in both.
        vocabulary: rows of the head.
    """

    bytes: int
    body: Mapping[str, int]
    embedding: tuple[str, int]
    head: tuple[str, int]

    @property
    def weights(self) -> int:
        """All of them, a tied head once."""
        return sum(self.body.values()) + self.embedding[1] + (0 if self.head == self.embedding else self.head[1])


def stored(decoder: Decoder, scheme: str, key_values: int, *, weighed: bool = True) -> Stored:
    """The file of a decoder in a stock scheme.

    Args:
        scheme: its name without the format: `Q4_K_M`.
        key_values: bytes of the header and the metadata, before the tensors' entries.
        weighed: as `kinds_of`.
    """
    return written(decoder, kinds_of(decoder, scheme, weighed=weighed), key_values)


def written(decoder: Decoder, kinds: Mapping[str, Kinds], key_values: int) -> Stored:
    """The file of a decoder whose matrices have these types.

    Args:
        kinds: as `kinds_of`.
    """
    entries, data = key_values, 0
    body: Counter[str] = Counter()
    ends: dict[str, tuple[str, int]] = {}
    for part in decoder.top:
        kind, weights = kinds.get(part.role, ("F32",))[0], count_of(part.shape)
        entries += _INFO + 8 * len(part.shape) + len(part.name)
        data += bytes_of(part, kind)
        if part.role in (EMBEDDING, HEAD):
            ends[part.role] = (kind, weights)
        else:
            body[kind] += weights
    digits = sum(len(str(layer)) for layer in range(decoder.layers))
    for part in decoder.layer:
        entries += digits + decoder.layers * (_INFO + 8 * len(part.shape) + len(f"blk..{part.name}"))
        of = Counter(kinds[part.role]) if part.role in kinds else {"F32": decoder.layers}
        for kind, count in of.items():
            data += count * bytes_of(part, kind)
            body[kind] += count * count_of(part.shape)
    return Stored(padded(entries) + data, dict(body), ends[EMBEDDING], ends.get(HEAD, ends[EMBEDDING]))


def kinds_of(decoder: Decoder, scheme: str, *, weighed: bool = True) -> dict[str, Kinds]:
    """Part -> the type of its matrix in each layer; of one outside the layers a single one. Vectors are left out.

    Args:
        weighed: it is rounded by an importance matrix, as recipes do that have calibration rows.
    """
    shared, layers = decoder.widths.queries, decoder.layers
    found = {
        part.role: (stored_as(scheme, part.role, part.shape[-1], decoder.place(0), tied=decoder.tied),)
        for part in decoder.top
        if len(part.shape) > 1
    }
    return found | {
        part.role: _in_layers(scheme, part.role, part.shape[-1], layers, shared, weighed)
        for part in decoder.layer
        if len(part.shape) > 1
    }


def bytes_of(part: Part, kind: str) -> int:
    """Of one tensor's data."""
    return padded(count_of(part.shape) // GGML_TYPES[kind].block * GGML_TYPES[kind].block_bytes)


@lru_cache(maxsize=1 << 16)
def _in_layers(scheme: str, role: str, columns: int, layers: int, shared: int, weighed: bool) -> Kinds:
    return tuple(stored_as(scheme, role, columns, Place(at, layers, shared, weighed)) for at in range(layers))
