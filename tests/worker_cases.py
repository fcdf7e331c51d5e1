"""A teacher's pass of every kind on tiny models, in shards of a few rows: for one process or several workers."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.data.examples import Encoded, Row, example_id
from distill2edge.data.ledger import Origin
from distill2edge.recipe import schema
from distill2edge.util.progress import SilentProgress
from tests import tiny

ROWS = 13
TEXTS = [f"film {n} the {n * 37} dog" + " and then it sleeps" * (n % 3) for n in range(ROWS)]
ORIGIN = Origin("tiny", None, "MIT", "MIT")


def make(place: Path) -> None:
    """The teachers of all cases."""
    import torch
    from transformers import AutoConfig, BertForTokenClassification

    from distill2edge.export.gguf import export_gguf
    from distill2edge.quantize.schemes import parse_scheme

    tiny.tiny_llama(place / "llama", seed=1)
    tiny.tiny_llama(place / "fewer", vocabulary=290, seed=2)
    tiny.tiny_t5(place / "t5")
    tiny.tiny_bert(place / "bert", seed=3)
    tiny.tiny_embedder(place / "embedder")
    tiny.tiny_bert(place / "tagger")
    torch.manual_seed(0)
    BertForTokenClassification(AutoConfig.from_pretrained(place / "tagger")).save_pretrained(place / "tagger")
    about = {"name": "tiny", "licence": None, "teacher": None, "recipe": None, "recipe_key": None, "description": ""}
    export_gguf(place / "llama", parse_scheme("gguf:Q8_0"), about, place / "made", SilentProgress())
    (place / "made" / "model.gguf").rename(place / "llama.gguf")


def rows() -> list[Encoded]:
    """Of a decoder: prompts of 2 to 8 and responses of 1 to 9 tokens."""
    draw, made = random.Random(0), []
    for _ in range(ROWS):
        prompt, response = draw.randint(2, 8), draw.randint(1, 9)
        ids = [draw.randrange(3, 250) for _ in range(prompt + response)] + [2]
        made.append(Encoded(example_id(ids, mask := [False] * prompt + [True] * (response + 1)), ids, mask))
    return made


def texts() -> list[Encoded]:
    """Of an encoder, of 4 to 20 tokens, with a label of three or none, and places of their first words."""
    draw, made = random.Random(1), []
    for number in range(ROWS):
        ids = [draw.randrange(5, 250) for _ in range(draw.randint(4, 20))]
        name = example_id(ids, [False] * len(ids))
        made.append(Encoded(name, ids, [False] * len(ids), label=number % 4 - 1, places=(1, -1, 3)))
    return made


def _logits(place: Path, work: Path, progress: Any, model: str = "llama", **given: Any) -> Any:
    from distill2edge.teacher.logits import cache_logits

    options = {"dtype": "float32", "shard_rows": 4} | {key: given.pop(key) for key in ("backend",) if key in given}
    gguf = place / "llama.gguf" if options.get("backend") == "llama.cpp" else None
    told = schema.LogitsSignal(**({"top_k": 20, "temperature": 2.0} | given))  # type: ignore[arg-type]
    return cache_logits(place / model, rows(), told, work, progress, gguf_path=gguf, seed=5, **options)  # type: ignore[arg-type]


def _aligned(place: Path, work: Path, progress: Any) -> Any:
    from distill2edge.data.encode import encode_rows
    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.teacher.aligned import Aligned
    from distill2edge.teacher.logits import cache_logits

    read = [Row(f"{number}", text, " it is good, and bad") for number, text in enumerate(TEXTS)]
    theirs, ours = (encode_rows(read, load_tokenizer(place / name), "plain", None, 99) for name in ("llama", "fewer"))
    tokens = Aligned(place / "llama", place / "fewer", "plain", theirs, ours)
    told = schema.LogitsSignal(top_k=20, temperature=1.0, align="vocabulary")  # type: ignore[call-arg]
    return cache_logits(place / "llama", ours, told, work, progress, dtype="float32", tokens=tokens, shard_rows=4)


def _labels(place: Path, work: Path, progress: Any) -> Any:
    from distill2edge.teacher.labels import cache_labels

    return cache_labels(place / "bert", texts(), work, progress, shard_rows=4)


def _vectors(place: Path, work: Path, progress: Any) -> Any:
    from distill2edge.teacher.vectors import cache_vectors

    return cache_vectors(place / "embedder", texts(), work, progress, shard_rows=4)


def _tags(place: Path, work: Path, progress: Any) -> Any:
    from distill2edge.teacher.tags import cache_tags

    return cache_tags(place / "tagger", texts(), work, progress, shard_rows=4)


def _answers(place: Path, work: Path, progress: Any) -> Any:
    """The likelihood of answers, of a teacher that is asked."""
    from functools import partial

    from distill2edge.generation.open_backend import open_backend
    from distill2edge.teacher.labels import scores_of
    from distill2edge.teacher.likelihoods import Likelihoods, Question

    score = Likelihoods(partial(open_backend, "auto", place / "llama", None, "float32", longest=40), (place / "llama",))
    asked = [Question(row.id, row.ids, [[7], [8, 9]]) for row in rows()]
    return scores_of(asked, score, work, progress, stem="shard", shard_rows=4, reads=score.reads).facts


def _text(place: Path, work: Path, progress: Any, model: str = "llama", backend: str = "transformers") -> Any:
    from distill2edge.generation.generate import LocalGenerator
    from distill2edge.teacher.text import write_responses

    gguf = place / "llama.gguf" if backend == "llama.cpp" else None
    generator = LocalGenerator(place / model, template="plain", backend=backend, gguf_path=gguf)
    generator.shard_rows = 4
    told = schema.TextSignal(max_new_tokens=8, temperature=1.0, samples=2)  # type: ignore[call-arg]
    asked = [Row(f"{number}", text, "") for number, text in enumerate(TEXTS)]
    work.mkdir(parents=True, exist_ok=True)
    with _kept_although_cut():
        return write_responses(
            generator, asked, told, work, progress, template="plain", system=None, seed=3, origin=ORIGIN
        )


def _kept_although_cut() -> Any:
    """A random model ends no text; what is cut would all be dropped."""
    from unittest.mock import patch

    return patch("distill2edge.teacher.text._tell_dropped")


def _of(work: Callable[..., Any], **given: Any) -> Callable[[Path, Path, Any], Any]:
    return lambda place, out, progress: work(place, out, progress, **given)


CASES: dict[str, Callable[[Path, Path, Any], Any]] = {
    "logits": _logits,
    "logits of an encoder-decoder": _of(_logits, model="t5"),
    "a sample of the logits": _of(_logits, sample=12, top_k=64),
    "logits of llama.cpp": _of(_logits, backend="llama.cpp"),
    "logits across tokenizers": _aligned,
    "labels": _labels,
    "vectors": _vectors,
    "tags": _tags,
    "likelihoods of answers": _answers,
    "text": _text,
    "text of an encoder-decoder": _of(_text, model="t5"),
    "text of llama.cpp": _of(_text, backend="llama.cpp"),
}

ON_CLUSTER = ("logits", "labels", "text", "text of llama.cpp")
"""Those that are made by processes of a cluster too: each pass starts its own."""


def shards(work: Path) -> dict[str, str]:
    """The SHA-256 of every shard that a case wrote."""
    files = [path for path in sorted(work.iterdir()) if path.name.endswith((".safetensors", ".jsonl"))]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


TIMED = ("seconds", "texts_per_s", "tokens_per_s")


def untimed(facts: dict[str, Any]) -> dict[str, Any]:
    """What a pass says of itself, without how long it took and when."""
    return json.loads(json.dumps({key: value for key, value in facts.items() if key not in TIMED}))
