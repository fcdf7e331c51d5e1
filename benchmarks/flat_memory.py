"""Peak memory and speed of the data, signal and training stages on few rows and on many.

Each stage and size runs in a process of its own, on the files that the stage before it wrote, so that one peak does not
hide another. Rows are short made-up sentences, all of which are kept; teacher and student are one tiny random decoder,
so that what grows with the rows is seen beside little else. Memory is the kernel's high-water mark of the process,
mapped files included. Rows a second are by processor time, on one thread.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from common import ROOT, bar, write_result

SIZES = (20_000, 2_000_000)
HELD_OUT = {"validation": 100, "calibration": 100, "test": 1000}
STEPS, BATCH, TOP_K = 20, 64, 4
TEMPLATES = {"template": "plain", "prompt": "{{ text }}", "response": " {{ answer }}", "max_length": 64}


def main() -> None:
    """Measure every stage and size, or one in this process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs=2, default=SIZES, metavar=("FEW", "MANY"))
    parser.add_argument("--stage", choices=STAGES, help="this one, in this process; prints its figures")
    parser.add_argument("--rows", type=int)
    parser.add_argument("--place", type=Path)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(measured(options.stage, options.rows, options.place)))
        return
    found: dict[str, dict[str, Any]] = {name: {} for name in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        for rows in options.sizes:
            place = Path(folder, str(rows))
            place.mkdir()
            for name in STAGES:
                found[name][str(rows)] = run(name, rows, place)
                print(name, f"{rows:,}", found[name][str(rows)], flush=True)
    report(found, *options.sizes)


def run(name: str, rows: int, place: Path) -> dict[str, Any]:
    """The figures of a stage in a process of its own."""
    command = [sys.executable, __file__, "--stage", name, "--rows", str(rows), "--place", str(place)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(name: str, rows: int, place: Path) -> dict[str, Any]:
    """Run a stage here: its processor and wall seconds, and the peak of the whole process in MB."""
    from distill2edge.util.machine import peak_rss_bytes

    stage = STAGES[name](rows, place)
    wall, worked = time.monotonic(), time.process_time()
    stage()
    wall, worked = time.monotonic() - wall, time.process_time() - worked
    return {"wall_s": round(wall, 2), "cpu_s": round(worked, 2), "peak_mb": round(peak_rss_bytes() / 1e6, 1)}


# --- stages -------------------------------------------------------------------------


def made(rows: int, place: Path) -> Callable[[], None]:
    """The source, as JSON Lines and as Parquet; no stage, and not measured for a bar."""

    def write() -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        random, words = Random(0), [f"word{n}" for n in range(3000)]
        schema = pa.schema([("text", pa.string()), ("answer", pa.string())])
        with open(place / "rows.jsonl", "w") as lines, pq.ParquetWriter(place / "rows.parquet", schema) as table:
            for begin in range(0, rows, 10_000):
                part = [
                    {"text": " ".join(random.choices(words, k=random.randint(4, 12))), "answer": random.choice(words)}
                    for _ in range(min(10_000, rows - begin))
                ]
                lines.writelines(json.dumps(row) + "\n" for row in part)
                table.write_table(pa.Table.from_pylist(part, schema))

    return write


def data(ending: str) -> Callable[[int, Path], Callable[[], None]]:
    """The data stage over the source in one of its forms."""

    def stage(rows: int, place: Path) -> Callable[[], None]:
        from distill2edge.data.prepare import prepare
        from distill2edge.recipe import schema
        from distill2edge.util.progress import SilentProgress
        from distill2edge.util.record_file import unnamed_files_in

        section = {"source": str(place / f"rows{ending}"), "splits": HELD_OUT, **TEMPLATES}
        parsed = schema.Data.model_validate(section)

        def work() -> None:
            (place / "data").mkdir(exist_ok=True)
            with unnamed_files_in(place):
                prepare(parsed, 0, place / "data", SilentProgress())

        return work

    return stage


def model(rows: int, place: Path) -> Callable[[], None]:
    """The decoder, with a tokenizer of some of the rows; no stage, and not measured for a bar."""

    def write() -> None:
        import torch
        from transformers import LlamaConfig, LlamaForCausalLM

        from distill2edge.data.split_files import read_rows
        from distill2edge.intake.random_models import train_tokenizer

        texts = [text for row in read_rows(place / "data", "train")[:5000] for text in (row.prompt, row.response)]
        train_tokenizer(texts, 1024, place / "model", ends_source=False)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=1024, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, tie_word_embeddings=True, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(place / "model")

    return write


def signal(rows: int, place: Path) -> Callable[[], None]:
    """The signal stage: the teacher's top tokens at each supervised position of every row."""
    from distill2edge.recipe.schema import LogitsSignal
    from distill2edge.teacher.logits import cache_logits

    spec = LogitsSignal(top_k=TOP_K)  # type: ignore[call-arg]
    return lambda: _in(place, lambda: cache_logits(place / "model", encoded(place), spec, place / "signal", _silent()))


def training(rows: int, place: Path) -> Callable[[], None]:
    """The distill stage, a few steps of it: opening and checking all rows and the whole signal is what grows."""
    from distill2edge.distill.train import train
    from distill2edge.recipe import schema

    spec = schema.Training(epochs=1, max_steps=STEPS, batch_size=BATCH, dtype="float32", checkpoints=0)  # type: ignore[call-arg]
    loss = schema.Loss(forward_kl=1.0)  # type: ignore[call-arg]
    return lambda: _in(
        place,
        lambda: train(
            place / "model",
            encoded(place),
            [],
            place / "signal",
            spec,
            loss,
            None,
            256,
            0,
            place / "trained",
            _silent(),
        ),
    )


def encoded(place: Path) -> Any:
    """The training rows in the model's tokens, as the stages read them."""
    from distill2edge.data.model_inputs import encode_for
    from distill2edge.data.split_files import read_rows
    from distill2edge.recipe import schema

    section = schema.Data.model_validate({"source": "rows.jsonl", **TEMPLATES})
    return encode_for(section, read_rows(place / "data", "train"), place / "model")


def _in(place: Path, work: Callable[[], Any]) -> None:
    from distill2edge.util.record_file import unnamed_files_in

    with unnamed_files_in(place):
        work()


def _silent() -> Any:
    from distill2edge.util.progress import SilentProgress

    return SilentProgress()


STAGES: dict[str, Callable[[int, Path], Callable[[], None]]] = {
    "source": made,
    "data (Parquet)": data(".parquet"),
    "data (JSON Lines)": data(".jsonl"),
    "model": model,
    "signal": signal,
    "training": training,
}
NO_STAGES = ("source", "model")


def report(found: dict[str, dict[str, Any]], few: int, many: int) -> None:
    """Write the result."""
    bars, metrics = [], {}
    for name, sizes in found.items():
        if name in NO_STAGES:
            continue
        least, most = sizes[str(few)], sizes[str(many)]
        metrics[name] = {
            "rows_per_s": many / most["cpu_s"],
            "bytes_per_row": 1e6 * (most["peak_mb"] - least["peak_mb"]) / (many - few),
        }
        grown = most["peak_mb"] / least["peak_mb"]
        bars.append(bar(f"{name}: peak memory on {many:,} rows / on {few:,}", grown, "<=", 1.1, unit="x"))
        if name.startswith("data"):
            speed = metrics[name]["rows_per_s"]
            bars.append(bar(f"{name}: rows per second of one core", speed, ">=", 20_000, unit="rows/s"))
    path = write_result(
        "flat_memory",
        "python benchmarks/flat_memory.py",
        description=f"peak memory of data, signal and training on {few:,} and {many:,} rows, all of which are kept",
        bars=bars,
        samples=found,
        metrics=metrics,
        seeds=[0],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
