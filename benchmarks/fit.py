"""What `fit` predicts against files that are written and run: bytes, memory and tokens per second.

Students of SmolLM2's family with random weights and its whole vocabulary, in shapes and types that the profile was not
fitted to: written as a directory, as a GGUF, and quantized by llama.cpp. Each runs in a process of its own, with a
context of 1,024 tokens: a prompt of 128, tokens early and late in the context. Speed needs a quiet machine: --speed.

python benchmarks/fit.py [--speed] [--threads 2]         # some minutes
python benchmarks/fit.py --loss --store PLACE            # expected against measured loss: fit_loss.py
python benchmarks/fit.py --against --store PLACE         # at 60 MB, against a recipe made by hand: fit_against.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import bar, write_result

from distill2edge.export import gguf_vocab, gguf_write
from distill2edge.fit import device_script, measure
from distill2edge.fit.decoder import decoder_of
from distill2edge.fit.header import RECIPE_TEXTS, vocabularies
from distill2edge.fit.predict import figures
from distill2edge.fit.profiles import Profile
from distill2edge.fit.sizes import stored
from distill2edge.gguf import llama_process
from distill2edge.gguf.ggml_types import file_type
from distill2edge.intake.gguf_load import gguf_to_hf
from distill2edge.intake.glance import glance
from distill2edge.models.widths import settings
from distill2edge.util.progress import SilentProgress

TEACHER = "bundled:smollm2-135m-instruct"
FILES = (
    ((30, 3, 1536, 576), ("Q8_0", "Q4_K_M")),
    ((20, 2, 1024, 576), ("Q4_0", "Q5_K_S")),
    ((12, 3, 768, 576), ("F16", "IQ4_XS")),
    ((6, 2, 1536, 384), ("Q6_K", "Q3_K_M")),
    ((24, 1, 512, 288), ("Q4_K_S", "Q8_0")),
    ((9, 3, 1280, 288), ("Q5_0", "Q4_0")),
)
"""Layers, groups, channels and hidden size of a student, and the schemes it is written in."""
CONTEXT = device_script.CONTEXT


def run(path: Path, threads: int) -> dict[str, Any]:
    """Seconds and memory of a file, in a process of its own."""
    command = [sys.executable, device_script.__file__, "--file", str(path), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def written(whole: Any, tokenizer_dir: Path, shape: tuple[int, ...], work: Path) -> tuple[Any, Path]:
    """A student with random weights as an unquantized GGUF."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    layers, groups, channels, hidden = shape
    widths = whole.widths._replace(kv_groups=groups, feed_forward=channels, hidden=hidden)
    config = AutoConfig.from_pretrained(tokenizer_dir)
    for name, value in {**settings(whole.widths, widths), "num_hidden_layers": layers}.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(work / "model")
    vocabulary = gguf_vocab.vocabulary_of(
        gguf_vocab.load_tokenizer(tokenizer_dir), whole.vocabulary, [], str(tokenizer_dir)
    )
    gguf_write.write_gguf(work / "model", work / "base.gguf", "F16", vocabulary, {"name": "x"}, SilentProgress())
    return whole.sized(layers, widths, whole.vocabulary), work / "base.gguf"


def main() -> None:
    """Predict, write, run, compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--speed", action="store_true", help="the machine is quiet: judge speed too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loss", action="store_true", help="the rank correlation of the expected loss")
    parser.add_argument(
        "--calibrate", action="store_true", help="with --loss: fit the weights of the estimate, no more"
    )
    parser.add_argument("--against", action="store_true", help="the search's choice against a recipe made by hand")
    parser.add_argument("--store", type=Path, default=None)
    options = parser.parse_args()
    if options.loss:
        import fit_loss

        return fit_loss.main(options.store, calibrate=options.calibrate)
    if options.against:
        import fit_against

        return fit_against.main(options.store)
    document = measure.measured_here(lambda line: print(line, flush=True), options.threads)
    profile = Profile.model_validate(document)
    looked = glance(TEACHER)
    assert looked is not None
    whole = decoder_of(looked)
    words = vocabularies(looked.path, [], whole.vocabulary)[0]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        tokenizer_dir = Path(place) / "tokenizer"
        gguf_to_hf(looked.path, tokenizer_dir, weights=False)
        for index, (shape, schemes) in enumerate(FILES):
            work = Path(place) / str(index)
            work.mkdir()
            student, base = written(whole, tokenizer_dir, shape, work)
            for name in schemes:
                path = work / f"{name}.gguf"
                llama_process.quantize(base, path, file_type(name), threads=options.threads)
                rows.append(compared(student, name, path, words.key_values, profile, options.threads))
                print(json.dumps(rows[-1]), flush=True)
                path.unlink()
            base.unlink()
    write(rows, document, options)


def compared(student: Any, scheme: str, path: Path, key_values: int, profile: Profile, threads: int) -> dict[str, Any]:
    """One file: predicted and measured."""
    file = stored(student, scheme, key_values - RECIPE_TEXTS, weighed=False)  # it was written by no recipe
    likely, seen = figures(student, file, CONTEXT, "f16", profile), run(path, threads)
    pairs = {
        "bytes": (file.bytes, path.stat().st_size),
        "memory": (likely.memory, seen["memory"]),
        "decode": (likely.decode, 2 / (seen["early_s"] + seen["late_s"])),
        "prefill": (likely.prefill, device_script.READ / seen["read_s"]),
    }
    return {
        "layers": student.layers, "widths": list(student.widths[:3]), "scheme": scheme,
        **{name: {"predicted": a, "measured": b, "off": a / b - 1} for name, (a, b) in pairs.items()},
    }  # fmt: skip


def write(rows: list[dict[str, Any]], document: dict[str, Any], options: argparse.Namespace) -> None:
    """The result file."""
    worst = {name: max(abs(row[name]["off"]) for row in rows) for name in ("bytes", "memory", "decode", "prefill")}
    note = "" if options.speed else "not judged: the machine was busy; run with --speed on a quiet one"
    speed = {name: worst[name] if options.speed else None for name in ("decode", "prefill")}
    write_result(
        "fit",
        f"python benchmarks/fit.py{' --speed' if options.speed else ''} --threads {options.threads}",
        description=f"What fit predicts of {len(rows)} random students of SmolLM2's family, against the files and runs",
        bars=[
            bar("fit: files compared", len(rows), ">=", 12),
            bar("fit: size off, at most", worst["bytes"], "<=", 0.01),
            bar("fit: peak RAM off, at most", worst["memory"], "<=", 0.10),
            bar("fit: tokens/s of writing off, at most", speed["decode"], "<=", 0.20, note=note),
            bar("fit: tokens/s of a prompt off, at most", speed["prefill"], "<=", 0.20, note=note),
        ],
        samples={"files": rows},
        metrics={"worst": worst if options.speed else {name: worst[name] for name in ("bytes", "memory")},
                 "profile": document},
        seeds=[0],
    )  # fmt: skip


if __name__ == "__main__":
    main()
