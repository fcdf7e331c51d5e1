"""Measures how fast this device computes with each type of weight, and what memory that takes: a profile as JSON.

It needs numpy and llama-cpp-python alone, so that it runs on a device by itself: `distill2edge profile-device --script`
prints it with its table filled in. Every probe is a random model in a process of its own, so that its peak memory is
its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCHEMA_VERSION = 1
KIND = "distill2edge device profile"
TYPES: dict[str, Any] = {}
"""Type -> number in ggml, weights and bytes of a block, and where in it 16-bit scales lie."""
ALIGNMENT = 32
READ = 128
"""Tokens of a prompt that is timed, and positions that one attends to at most."""
CONTEXT = 1024
BATCH = 512
"""Tokens that llama.cpp computes at once."""
_LATE = 960  # positions before a token that is late in the context
VOCABULARY = 512


class Shape(NamedTuple):
    """A probe's shape; its heads have 64 numbers, and two share keys and values."""

    layers: int
    hidden: int
    feed_forward: int

    @property
    def heads(self) -> int:
        return self.hidden // 64

    @property
    def groups(self) -> int:
        return self.heads // 2

    @property
    def matrices(self) -> list[tuple[str, int, int]]:
        """Name, rows and columns of a layer's matrices."""
        wide, narrow = self.hidden, self.groups * 64
        return [("attn_q", wide, wide), ("attn_k", narrow, wide), ("attn_v", narrow, wide), ("attn_output", wide, wide),
                ("ffn_gate", self.feed_forward, wide), ("ffn_up", self.feed_forward, wide),
                ("ffn_down", wide, self.feed_forward)]  # fmt: skip

    @property
    def weights(self) -> int:
        return self.layers * sum(rows * columns for _, rows, columns in self.matrices)


LARGE, DEEP, SMALL = Shape(8, 768, 2048), Shape(24, 256, 768), Shape(2, 512, 1536)
EVERYWHERE = ("Q8_0", "Q4_0")
"""Types that all shapes are measured in, to tell what a layer takes from what its weights take."""


def write_model(path: Path, shape: Shape, kind: str) -> None:
    """A GGUF of random weights in one type, with no tokenizer."""
    arch = "llama"
    fields: list[tuple[str, Any]] = [
        ("general.architecture", arch), (f"{arch}.block_count", shape.layers), (f"{arch}.context_length", 4096),
        (f"{arch}.embedding_length", shape.hidden), (f"{arch}.feed_forward_length", shape.feed_forward),
        (f"{arch}.attention.head_count", shape.heads), (f"{arch}.attention.head_count_kv", shape.groups),
        (f"{arch}.attention.layer_norm_rms_epsilon", 1e-5), (f"{arch}.vocab_size", VOCABULARY),
        (f"{arch}.rope.dimension_count", 64), ("tokenizer.ggml.model", "none"),
    ]  # fmt: skip
    tensors = [("token_embd.weight", VOCABULARY, shape.hidden, kind), ("output_norm.weight", 0, shape.hidden, "F32")]
    for layer in range(shape.layers):
        tensors += [(f"blk.{layer}.{name}.weight", rows, columns, kind) for name, rows, columns in shape.matrices]
        tensors += [(f"blk.{layer}.{name}_norm.weight", 0, shape.hidden, "F32") for name in ("attn", "ffn")]
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(fields)) + b"".join(_field(*each) for each in fields)
    at = 0
    for name, rows, columns, each in tensors:
        lengths = (columns, rows) if rows else (columns,)
        head += _text(name) + struct.pack(
            f"<I{len(lengths)}QIQ", len(lengths), *lengths, 0 if each == "F32" else TYPES[each]["number"], at
        )
        at += _padded(_bytes(rows, columns, each) if rows else 4 * columns)
    with path.open("wb") as file:
        file.write(head + bytes(_padded(len(head)) - len(head)))
        for _, rows, columns, each in tensors:
            data = np.ones(columns, np.float32).tobytes() if not rows else _random(rows, columns, each)
            file.write(data + bytes(_padded(len(data)) - len(data)))


def _field(key: str, value: Any) -> bytes:
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", 8) + _text(value)
    return _text(key) + (struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value))


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


def _number(kind: str) -> int:
    return 0 if kind == "F32" else int(TYPES[kind]["number"])


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _bytes(rows: int, columns: int, kind: str) -> int:
    return rows * columns // TYPES[kind]["block"] * TYPES[kind]["bytes"]


def _random(rows: int, columns: int, kind: str) -> bytes:
    """Random codes under small scales, the same in all rows."""
    row = TYPES[kind]
    source = np.random.default_rng(0)
    if row["block"] == 1:
        numbers = 0.02 * source.standard_normal(columns).astype(np.float32)
        if kind == "BF16":
            return (numbers.view(np.uint32) >> 16).astype(np.uint16).tobytes() * rows
        return numbers.astype(np.float16 if kind == "F16" else np.float32).tobytes() * rows
    blocks = source.integers(0, 256, (columns // row["block"], row["bytes"]), np.uint8)
    for offset in row["halves"]:
        blocks[:, offset : offset + 2] = np.frombuffer(np.float16(0.001).tobytes(), np.uint8)
    return blocks.tobytes() * rows


# --- one probe ------------------------------------------------------------------


def probe(shape: Shape, kind: str, threads: int) -> dict[str, Any]:
    """Seconds of a prompt and of a token early and late in the context, and the most memory; in this process."""
    with tempfile.TemporaryDirectory() as work:
        path = Path(work) / "probe.gguf"
        write_model(path, shape, kind)
        size = path.stat().st_size
        return {"file": size, **timed(path, threads, full=shape != LARGE)}


def timed(path: Path, threads: int, *, full: bool) -> dict[str, Any]:
    """Seconds and the most memory of one file, in this process.

    Args:
        full: also of a token late in the context.
    """
    import ctypes

    import llama_cpp as api

    quiet = api.llama_log_callback(lambda level, text, data: None)
    api.llama_log_set(quiet, ctypes.c_void_p(0))
    api.llama_backend_init()
    settings = api.llama_model_default_params()
    settings.n_gpu_layers = 0
    before = peak_memory()
    model = api.llama_model_load_from_file(str(path).encode(), settings)
    if not model:
        sys.exit("llama.cpp cannot load the probe")
    params = api.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = CONTEXT, BATCH, BATCH
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    context = api.llama_init_from_model(model, params)
    memory = api.llama_get_memory(context)

    def feed(count: int) -> float:
        tokens = (api.llama_token * count)(*(7 * index % VOCABULARY for index in range(count)))
        start = time.perf_counter()
        if api.llama_decode(context, api.llama_batch_get_one(tokens, count)) != 0:
            sys.exit("llama.cpp cannot compute the probe")
        api.llama_get_logits(context)[0]
        return time.perf_counter() - start

    def empty() -> None:
        api.llama_memory_clear(memory, False)

    feed(READ)
    read, early = [], []
    for _ in range(3):
        empty()
        read.append(feed(READ))
        early += [feed(1) for _ in range(5)]
    empty()
    feed(BATCH)  # what lies between the products is largest in a whole batch
    late: list[float] = []
    if full:
        feed(_LATE - BATCH)
        late = [feed(1) for _ in range(8)]
    return {
        "read_s": min(read),
        "early_s": min(early),
        "late_s": min(late) if late else None,
        "memory": peak_memory(),
        "before": before,
    }


def peak_memory() -> int:
    """Bytes that this process held at most."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


# --- all of them ----------------------------------------------------------------


def probes() -> Iterator[tuple[Shape, str]]:
    """Every type in one shape, some in all."""
    for kind in TYPES:
        yield LARGE, kind
        if kind in EVERYWHERE:
            yield from ((shape, kind) for shape in (DEEP, SMALL))


def profile(threads: int, say: Any) -> dict[str, Any]:
    """The profile of this device."""
    found = []
    for shape, kind in probes():
        command = [
            sys.executable,
            os.path.abspath(__file__),
            "--probe",
            kind,
            *map(str, shape),
            "--threads",
            str(threads),
        ]
        environment = {**os.environ, "DISTILL2EDGE_TYPES": json.dumps(TYPES)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise RuntimeError(f"the probe of {kind} failed: {done.stderr.strip()[-300:]}")
        found.append((shape, kind, json.loads(done.stdout.splitlines()[-1])))
        say(f"{kind} {shape.layers} x {shape.hidden}: {1 / found[-1][2]['early_s']:.0f} tokens/s")
    import llama_cpp

    return {
        "schema_version": SCHEMA_VERSION,
        "kind": KIND,
        "name": platform.node() or "device",
        "measured": time.strftime("%Y-%m-%d"),
        "source": "distill2edge profile-device",
        "threads": threads,
        "runtime": f"llama-cpp-python {llama_cpp.__version__}",
        **fitted(found),
        "probes": [{"kind": kind, "shape": list(shape), **figures} for shape, kind, figures in found],
    }


def fitted(found: list[tuple[Shape, str, dict[str, Any]]]) -> dict[str, Any]:
    """Seconds of a weight by type, of a layer and of a token by least squares on relative errors; and memory."""
    kinds = list(dict.fromkeys(kind for _, kind, _ in found))

    def rows(name: str, per: int) -> dict[str, Any]:
        a = np.zeros((len(found), len(kinds) + 1))
        b = np.array([figures[name] for _, _, figures in found])
        for index, (shape, kind, _) in enumerate(found):
            weights = shape.weights + (VOCABULARY * shape.hidden if per == 1 else 0)
            a[index, kinds.index(kind)], a[index, -1] = per * weights, shape.layers
        solved = np.linalg.lstsq(a / b[:, None] / a.max(0), np.ones(len(b)), rcond=None)[0] / a.max(0)
        solved = np.maximum(solved, 1e-15)
        return {"weight_s": dict(zip(kinds, map(float, solved[:-1]), strict=True)), "layer_s": float(solved[-1])}

    late = [
        (figures["late_s"] - figures["early_s"]) / ((_LATE - READ) * 4 * shape.layers * shape.groups * 64)
        for shape, _, figures in found
        if figures["late_s"] is not None
    ]
    held = {}
    for shape, kind, figures in found:
        if shape == LARGE:
            rest = _kv(shape) + computed_bytes(shape.hidden, shape.feed_forward, CONTEXT)
            held[kind] = max((figures["memory"] - figures["before"] - rest) / figures["file"], 1.0)
    return {
        "decode": {**rows("early_s", 1), "cache_byte_s": float(max(np.median(late), 0.0))},
        "prefill": rows("read_s", READ),
        "memory": {"base_bytes": int(np.median([f["before"] for _, _, f in found])), "held": held},
    }


def computed_bytes(hidden: int, feed_forward: int, context: int) -> int:
    """What llama.cpp holds of a batch between the products, fitted to five shapes in F16: rows as wide as the residual
    stream and the feed-forward block, the mask of the context, and its own tables."""
    batch = min(BATCH, context)
    return round(4 * batch * (1.6 * hidden + 3.75 * feed_forward) + 6 * batch * context + 3.7e6)


def _kv(shape: Shape) -> int:
    return CONTEXT * 4 * shape.layers * shape.groups * 64


def usable_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> None:
    """Entry of a device by itself, and of one probe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--probe", nargs=4, metavar=("TYPE", "LAYERS", "HIDDEN", "FEED_FORWARD"))
    parser.add_argument("--file", type=Path, help="measure this GGUF instead")
    parser.add_argument("--threads", type=int, default=usable_threads())
    options = parser.parse_args()
    if options.file:
        print(json.dumps(timed(options.file, options.threads, full=True)))
        return
    TYPES.update(json.loads(os.environ.get("DISTILL2EDGE_TYPES", "{}")))
    if options.probe:
        kind, *shape = options.probe
        print(json.dumps(probe(Shape(*map(int, shape)), kind, options.threads)))
        return
    print(json.dumps(profile(options.threads, lambda line: print(line, file=sys.stderr)), indent=1))


if __name__ == "__main__":
    main()
