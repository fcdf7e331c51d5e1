"""Single fields of well-formed models changed: the metadata of GGUFs, and every JSON file of Hugging Face directories.

A change is refused, or the model is taken and works: it loads, computes, saves and writes.
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from random import Random
from typing import Any

from fuzz import gguf_bytes as gg
from fuzz import models

COUNT = 1000
TALK = 0.2
"""Share of the accepted models that are talked with: a process more for each."""

DEEP = json.loads("[" * 60 + "]" * 60)
FILES = ("config.json", "config.json", "config.json", "tokenizer.json", "tokenizer.json", "tokenizer_config.json",
         "generation_config.json", "special_tokens_map.json", "model.safetensors.index.json", "header", "README.md",
         "chat_template.jinja")  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 3, 7, 64, 65, 399, 400, 401, 10**6, 2**31 - 1, 2**31, 2**40, 10**18, 10**30,
    -(10**9), 0.0, 0.5, -0.5, 1e-320, 1e300, math.inf, -math.inf, math.nan, "", "x", "7", "x" * 100_000,
    "../../etc/passwd", "\x00", "{{ 1/0 }}", "{% for", [], [0], [None], ["x"], [1, 2, 3], {}, {"x": 1}, {"type": "x"},
    DEEP, [[]] * 1000,
)  # fmt: skip
TEXT_FILES = (b"", b"\xff\xfe\x00", b"null", b"[]", b"7", b"{", b"[" * 100_000, b'{"a":' * 50_000, b"NaN",
              b'{"a": NaN}', b"{% raw %}", b"{{ x", b"---\nlicense: [\n---\n", b"---\n- 1\n---\n", b"x" * 1_000_000,
              b"---\nlicense: 2026-13-45\n---\n", b"---\na: " + b"[" * 30_000 + b"\n---\n")  # fmt: skip


def prepare(work: Path) -> Any:
    """Directories and GGUF files."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    directories = models.directories(work)
    return directories, {name: gg.take_apart(path) for name, path in models.ggufs(work, directories).items()}


def attempt(random: Random, prepared: Any, work: Path) -> None:
    """Change one field and bring the model in."""
    directories, ggufs = prepared
    if random.random() < 0.4:
        _gguf(random, ggufs, work)
        return
    source = directories[random.choice(sorted(directories))]
    model = work / "model"
    shutil.copytree(source, model)
    _change_directory(random, model)
    _use(random, model, work)


def _gguf(random: Random, ggufs: Any, work: Path) -> None:
    name = random.choice(sorted(ggufs))
    fields, tensors = ggufs[name]
    fields = list(fields)
    own = [at for at, field in enumerate(fields) if not field.key.startswith((b"general.n", b"general.b", b"distill"))]
    at = random.choice(own)
    if random.random() < 0.1:
        fields.pop(at)
    else:
        fields[at] = gg.Field(fields[at].key, *_gguf_value(random, fields[at]))
    path = work / "model.gguf"
    path.write_bytes(gg.put_together(fields, tensors))
    if name not in ("bert", "t5"):
        _use(random, path, work)
        return
    _talk(path)


def _gguf_value(random: Random, old: gg.Field) -> tuple[int, bytes]:
    whole = random.choice((0, 1, 2, 3, 63, 65, 399, 400, 10**6, 2**31 - 1, 2**31, 2**32 - 1))
    if old.kind == gg.ARRAY and random.random() < 0.6:
        inner, count = struct.unpack_from("<IQ", old.value)
        kind = random.choice((gg.U32, gg.I32, gg.F32))
        item = {gg.U32: struct.pack("<I", whole), gg.I32: struct.pack("<i", -1), gg.F32: struct.pack("<f", math.nan)}[
            kind
        ]
        return gg.ARRAY, random.choice((
            gg.array(inner, []), gg.array(gg.STRING, [gg.text(b"a")] * count), gg.array(kind, [item] * count),
            gg.array(kind, [item] * 3), gg.array(gg.STRING, [gg.text(f"a b {n}".encode()) for n in range(count)]),
            gg.array(gg.STRING, [gg.text(b"x" * 300_000)]), gg.array(gg.BOOL, [b"\x01"] * count),
        ))  # fmt: skip
    return random.choice((
        (gg.U32, struct.pack("<I", whole)), (gg.U32, struct.pack("<I", whole)), (gg.U32, struct.pack("<I", whole)),
        (gg.I32, struct.pack("<i", random.choice((-1, -(2**31), 5)))), (gg.U64, struct.pack("<Q", 2**63)),
        (gg.F32, struct.pack("<f", random.choice((0.0, -1.0, math.nan, math.inf, 1e30, 1e-30, 0.5)))),
        (gg.BOOL, random.choice((b"\x00", b"\x01"))), (gg.STRING, gg.text(random.choice((
            b"", b"x", b"llama", b"qwen2", b"gpt2", b"default", b"yarn", b"linear", b"{% for", b"x" * 100_000)))),
        (gg.ARRAY, gg.array(gg.U32, [struct.pack("<I", whole)] * 2)), (gg.ARRAY, gg.array(gg.STRING, [])),
    ))  # fmt: skip


def _change_directory(random: Random, model: Path) -> None:
    name = random.choice([name for name in FILES if name == "header" or (model / name).is_file()])
    if name == "header":
        _change_header(random, random.choice(sorted(model.glob("*.safetensors"))))
        return
    path = model / name
    if not name.endswith(".json") or random.random() < 0.08:
        path.write_bytes(random.choice(TEXT_FILES))
        return
    document = json.loads(path.read_text())
    _change(random, document)
    path.write_text(json.dumps(document))


def _change(random: Random, document: Any) -> None:
    """Replace, drop or add one entry, at any depth."""
    while True:
        keys = list(document) if isinstance(document, dict) else list(range(len(document)))
        key = random.choice(keys) if keys else None
        inner = document[key] if key is not None else None
        if not (isinstance(inner, dict | list) and inner and random.random() < 0.75):
            break
        document = inner
    if key is None:
        return
    what = random.random()
    if what < 0.15:
        del document[key]
    elif what < 0.2 and isinstance(document, dict):
        document[str(key) + "_"] = document.pop(key)
    elif what < 0.3 and isinstance(inner, int | float) and not isinstance(inner, bool):
        document[key] = random.choice((inner + 1, inner - 1, inner * 2, inner // 2, -inner, float(inner), str(inner)))
    else:
        document[key] = random.choice(VALUES)


def _change_header(random: Random, path: Path) -> None:
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    if random.random() < 0.2:
        wrong = random.choice((0, 1, length - 1, length + 1, len(raw), 2**31, 2**63, 2**64 - 1))
        path.write_bytes(struct.pack("<Q", wrong) + raw[8:])
        return
    header = json.loads(raw[8 : 8 + length])
    _change(random, header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


def _use(random: Random, path: Path, work: Path) -> None:
    """The way of a teacher: brought in, loaded, run, saved; its tokenizer encodes and writes a chat."""
    import torch

    from distill2edge.data.encode import encode_prompts
    from distill2edge.intake.facts import model_facts
    from distill2edge.intake.obtain import fingerprint, materialise
    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.models.kinds import kind_of_directory, logits_of
    from distill2edge.models.loading import load_model
    from distill2edge.util.progress import SilentProgress

    fingerprint(str(path), None, SilentProgress())
    model_facts(path)
    materialise(str(path), None, None, "a test of robustness", work / "out", SilentProgress())
    out = work / "out" / "model"
    tokenizer = load_tokenizer(out)
    ids = tokenizer("the quick brown fox", add_special_tokens=kind_of_directory(out).pairs).input_ids
    model = load_model(out).eval()
    with torch.no_grad():
        assert torch.isfinite(logits_of(model, [*ids, *ids], len(ids))).all()
    model.save_pretrained(work / "saved")
    if tokenizer.chat_template:
        encode_prompts(["the dog"], tokenizer, "chat", None)
    if kind_of_directory(out).writes and random.random() < TALK:
        _talk(path if path.is_file() else out)


def _talk(path: Path) -> None:
    from distill2edge.cli.chat import chat_with

    chat_with(path, None, "the quick brown fox", "auto", 2, 0.0, "f16")
