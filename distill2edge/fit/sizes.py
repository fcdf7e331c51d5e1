"""The bytes of a GGUF by the shapes of its tensors and the types of a scheme: exact but for texts of its metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from distill2edge.fit.decoder import Decoder, Part
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.mixtures import EMBEDDING, HEAD, Place, stored_as
from distill2edge.gguf.repack import padded

_INFO = 8 + 4 + 4 + 8  # bytes of a tensor's entry beside its name and its lengths: length of name, axes, type, offset


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


def stored(decoder: Decoder, scheme: str, key_values: int) -> Stored:
    """The file of a decoder in a stock scheme.

    Args:
        scheme: its name without the format: `Q4_K_M`.
        key_values: bytes of the header and the metadata, before the tensors' entries.
    """
    entries, data = key_values, 0
    body: Counter[str] = Counter()
    ends: dict[str, tuple[str, int]] = {}
    for kind, part, count, names in _tensors(decoder, scheme):
        weights = _weights(part)
        entries += count * (_INFO + 8 * len(part.shape)) + names
        data += count * padded(weights // GGML_TYPES[kind].block * GGML_TYPES[kind].block_bytes)
        if part.role in (EMBEDDING, HEAD):
            ends[part.role] = (kind, weights)
        else:
            body[kind] += count * weights
    return Stored(padded(entries) + data, dict(body), ends[EMBEDDING], ends.get(HEAD, ends[EMBEDDING]))


def _tensors(decoder: Decoder, scheme: str) -> Iterator[tuple[str, Part, int, int]]:
    """Type, part, how many tensors there are of it in that type, and the bytes of their names."""
    for part in decoder.top:
        kind = "F32" if len(part.shape) == 1 else stored_as(
            scheme, part.role, part.shape[-1], decoder.place(0), tied=decoder.tied
        )  # fmt: skip
        yield kind, part, 1, len(part.name)
    digits = sum(len(str(layer)) for layer in range(decoder.layers))
    for part in decoder.layer:
        if len(part.shape) == 1:
            kinds: Mapping[str, int] = {"F32": decoder.layers}
        else:
            kinds = _kinds(scheme, part.role, part.shape[-1], decoder.layers, decoder.widths.queries)
        names = digits + decoder.layers * len(f"blk..{part.name}")
        for index, (kind, count) in enumerate(kinds.items()):
            yield kind, part, count, 0 if index else names


@lru_cache(maxsize=1 << 16)
def _kinds(scheme: str, role: str, columns: int, layers: int, shared: int) -> Mapping[str, int]:
    return Counter(stored_as(scheme, role, columns, Place(layer, layers, shared)) for layer in range(layers))


def _weights(part: Part) -> int:
    rows = part.shape[0] if len(part.shape) > 1 else 1
    return rows * part.shape[-1]
