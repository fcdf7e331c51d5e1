"""Headers of small GGUFs of several families, with bytes, counts, lengths, offsets and entries changed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from fuzz import gguf_bytes as gg
from fuzz import models

COUNT = 5000

Parts = tuple[list[gg.Field], list[gg.Tensor]]
NUMBERS = (0, 1, 2, 7, 31, 255, 65535, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 62,
           (1 << 63) - 1, 1 << 63, (1 << 64) - 1)  # fmt: skip
WHOLE = 40
"""One file in so many that the reader accepts is taken the whole way to a teacher."""


def prepare(work: Path) -> Any:
    """Files of every family."""
    return {name: (path, gg.take_apart(path)) for name, path in models.ggufs(work, models.directories(work)).items()}


def attempt(random: Random, prepared: Any, work: Path) -> None:
    """Change one file, and read it as the teacher stage and `chat` do."""
    from distill2edge.gguf.gguf_tokenizer import build_tokenizer, special_ids
    from distill2edge.gguf.reader import check_gguf, read_gguf
    from distill2edge.intake.facts import model_facts
    from distill2edge.intake.gguf_load import gguf_to_hf
    from distill2edge.runtimes.llama_cpp_encoder import output_labels

    source, parts = prepared[random.choice(sorted(prepared))]
    path = work / "model.gguf"
    path.write_bytes(random.choice(CHANGES)(random, source, parts))
    check_gguf(path)
    file = read_gguf(path)
    assert all(info.offset + info.size <= file.size for info in file.tensors.values())
    model_facts(path)
    output_labels(path)
    if file.architecture not in ("bert", "t5"):
        build_tokenizer(file, special_ids(file))
    if random.randrange(WHOLE) == 0:
        gguf_to_hf(path, work / "hf")


def _bytes(random: Random, source: Path, parts: Parts) -> bytes:
    raw = bytearray(source.read_bytes())
    end = len(raw) - sum(len(tensor.data) for tensor in parts[1])
    for _ in range(random.choice((1, 1, 1, 2, 8, 64))):
        raw[random.randrange(4, end)] = random.randrange(256)
    return bytes(raw)


def _number(random: Random, source: Path, parts: Parts) -> bytes:
    raw = bytearray(source.read_bytes())
    end = len(raw) - sum(len(tensor.data) for tensor in parts[1])
    code = random.choice("IQ")
    at = random.choice((4, 8, 16, random.randrange(4, end - 8)))
    struct.pack_into(f"<{code}", raw, at, random.choice(NUMBERS) & ((1 << (32 if code == "I" else 64)) - 1))
    return bytes(raw)


def _cut(random: Random, source: Path, parts: Parts) -> bytes:
    raw = source.read_bytes()
    return raw[: random.choice((random.randrange(64), random.randrange(len(raw)), len(raw) - random.randrange(1, 64)))]


def _longer(random: Random, source: Path, parts: Parts) -> bytes:
    raw = source.read_bytes()
    at = random.randrange(len(raw))
    return raw[:at] + random.randbytes(random.choice((1, 8, 32, 4096))) + raw[at:]


def _counts(random: Random, source: Path, parts: Parts) -> bytes:
    fields, tensors = parts
    counts = [len(tensors), len(fields)]
    counts[random.randrange(2)] = random.choice((*NUMBERS, len(tensors) + 1, len(fields) - 1))
    return gg.put_together(fields, tensors, (counts[0], counts[1]))


def _entries(random: Random, source: Path, parts: Parts) -> bytes:
    """A key or a tensor twice, missing, or in another place."""
    fields, tensors = list(parts[0]), list(parts[1])
    entries: list[Any] = random.choice((fields, tensors))
    at = random.randrange(len(entries))
    what = random.randrange(3)
    if what == 0:
        entries.insert(random.randrange(len(entries) + 1), entries[at])
    elif what == 1:
        entries.pop(at)
    else:
        random.shuffle(entries)
    return gg.put_together(fields, tensors)


def _kind(random: Random, source: Path, parts: Parts) -> bytes:
    """A field of another type, with bytes that may or may not be of it."""
    fields = list(parts[0])
    at = random.randrange(len(fields))
    old = fields[at]
    value = random.choice((old.value, random.randbytes(8), gg.text(b"x" * random.choice((0, 1, 5000))),
                           gg.text(random.randbytes(9)), gg.array(gg.ARRAY, [gg.array(gg.U32, [])]),
                           gg.array(gg.STRING, [gg.text(b"a")] * 3), struct.pack("<IQ", 4, random.choice(NUMBERS)),
                           struct.pack("<Q", random.choice(NUMBERS))))  # fmt: skip
    fields[at] = gg.Field(old.key, random.choice((*range(14), 255, 1 << 31)), value)
    return gg.put_together(fields, parts[1])


def _alignment(random: Random, source: Path, parts: Parts) -> bytes:
    value = random.choice((*NUMBERS, 3, 8, 16, 64, 1 << 20)) & 0xFFFFFFFF
    kind = random.choice((gg.U32, gg.I32, gg.F32))
    field = gg.Field(b"general.alignment", kind, struct.pack("<I", value))
    return gg.put_together([*parts[0], field], parts[1])


def _tensor(random: Random, source: Path, parts: Parts) -> bytes:
    """One entry of the table of tensors with another name, shape, type or offset."""
    tensors = list(parts[1])
    at = random.randrange(len(tensors))
    old = tensors[at]
    new = gg.Tensor(old.name, list(old.dims), old.kind, old.offset, old.data)
    what = random.randrange(5)
    if what == 0:
        new.name = random.choice((b"", b"x" * 70_000, old.name + b"\xff", tensors[at - 1].name,
                                  b"blk.999999999.attn_q.weight", old.name.replace(b"blk.1", b"blk.7")))  # fmt: skip
    elif what == 1:
        new.dims[random.randrange(len(new.dims))] = random.choice((*NUMBERS, 63, 65))
    elif what == 2:
        new.dims = random.choice((new.dims[::-1], [], [*new.dims, 1], [1] * 5, [1 << 32, 1 << 32], new.dims * 2))
    elif what == 3:
        new.kind = random.choice((*range(45), 255, (1 << 32) - 1))
    else:
        new.offset = random.choice((*NUMBERS, old.offset + 32, old.offset + 1, tensors[at - 1].offset))
    tensors[at] = new
    return gg.put_together(parts[0], tensors)


CHANGES: tuple[Callable[[Random, Path, Parts], bytes], ...] = (
    _bytes, _bytes, _number, _cut, _longer, _counts, _entries, _kind, _kind, _alignment, _tensor, _tensor,
)  # fmt: skip
