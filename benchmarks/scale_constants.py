"""The constants of docs/scale-figures.md: what a token costs outside the models' own products.

python benchmarks/scale_constants.py

SmolLM2-135M-Instruct on film reviews, rows of 512 tokens, one thread, seconds of processor time. Per token: turning
text into token ids; drawing and packing the teacher's distribution (`sample: 64`, temperature 1) from its logits;
reading it for a batch; its bytes on disk, and those of the text and of encoded rows. Rounds are interleaved.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import interleave, summary, write_result
from safetensors.numpy import save_file

from distill2edge.data.encoded_rows import EncodedRows
from distill2edge.data.examples import Encoded, example_id
from distill2edge.distill.batches import collate
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.generation.backends import TransformersBackend
from distill2edge.intake import bundled
from distill2edge.intake.obtain import fetch_model
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.schema import LogitsSignal
from distill2edge.teacher.logit_shards import open_shard, settings_of
from distill2edge.teacher.token_views import OwnTokens
from distill2edge.util.progress import SilentProgress

MODEL, SOURCE = "bundled:smollm2-135m-instruct", "movie-sentiment"
TOKENS, ROWS, ROUNDS = 512, 8, 5
SIGNAL = LogitsSignal(sample=64, temperature=1.0)


def seconds(work: Callable[[], object]) -> float:
    """Processor time of some work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    """Measure, write the result."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        fetch_model(MODEL, None, Path(folder), SilentProgress(), where="teacher.model")
        measure(Path(folder, "model"))


def measure(model: Path) -> None:
    """Of a model's directory; writes the result."""
    tokenizer, tokens = load_tokenizer(model), OwnTokens(model)
    text = " ".join(str(row["text"]).strip() for row in bundled.rows(SOURCE, SilentProgress()))
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    mask = [False] + [True] * (TOKENS - 1)
    pieces = [ids[at : at + TOKENS] for at in range(0, ROWS * TOKENS, TOKENS)]
    rows = [Encoded(example_id(piece, mask), piece, mask) for piece in pieces]
    texts = [tokenizer.decode(piece) for piece in pieces]
    supervised = ROWS * (TOKENS - 1)
    teacher = TransformersBackend(model, "float32")
    logits = [found.clone() for _, found in sorted(teacher.supervised_logits(rows))]
    size = teacher.vocab_size
    teacher.close()

    def shard_of() -> object:
        shard = open_shard(rows, SIGNAL, tokens, size, 0)
        for number, found in enumerate(logits):
            shard.keep(number, found)
        return shard.arrays()

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "shard-00000.safetensors")
        settings = {**settings_of(SIGNAL, tokens, 0), "ids": json.dumps([row.id for row in rows])}
        save_file(shard_of(), file, metadata=settings)
        reader = SignalReader(Path(folder))

        def read() -> object:
            return collate([{"ids": row.ids, "mask": row.mask, "signal": reader.get(row.id)} for row in rows], 0)

        arms: dict[str, Callable[[], float]] = {
            "encode": lambda: seconds(lambda: tokenizer(texts, add_special_tokens=False)) / (ROWS * TOKENS),
            "store encoded": lambda: seconds(lambda: list(EncodedRows(rows))) / (ROWS * TOKENS),
            "keep": lambda: seconds(shard_of) / supervised,
            "read": lambda: seconds(read) / supervised,
        }
        samples = interleave(arms, ROUNDS, log=print)
        sizes = {
            "signal": file.stat().st_size / supervised,
            "text": sum(len(each.encode()) for each in texts) / (ROWS * TOKENS),
            "encoded": 4.0 + 1.0,  # ids as 32 bits, and a byte of the mask (data/encoded_rows.py)
        }
    write_result(
        "scale_constants",
        "python benchmarks/scale_constants.py",
        description=f"seconds of one thread and bytes for a token; SmolLM2-135M-Instruct, rows of {TOKENS} tokens",
        bars=[],
        metrics={
            "microseconds_per_token": {
                name: summary([1e6 * each for each in found]) for name, found in samples.items()
            },
            "bytes_per_token": sizes,
        },
        samples=samples,
        seeds=[0],
    )


if __name__ == "__main__":
    main()
