"""What the quantization benchmarks share: a reference model that favours no format, text, and KL of a file.

The reference is SmolLM2-135M-Instruct as its package has it (4-bit), dequantized, plus seeded uniform noise of half a
quantization step: so its weights lie on no grid. Text to calibrate and to train on is film and product reviews,
held-out text newspaper editorials: another kind of text from another source.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.intake import bundled
from distill2edge.util.progress import Progress

MODEL = "smollm2-135m-instruct"
SEED = 0
WINDOW = 256
HELD_OUT_TOKENS = 3_072
HELD_OUT, CALIBRATION = ("nyt-sentiment",), ("movie-sentiment", "amazon-sentiment")


def default_work() -> Path:
    """Where references and their logits are kept between benchmarks."""
    return bundled.cache_directory().parent / "benchmarks"


def reference(work: Path, progress: Progress, seed: int = SEED) -> Path:
    """The reference as a Hugging Face directory, made once."""
    target = work / f"reference-{seed}"
    if (target / "reference.json").is_file():
        return target
    from safetensors.numpy import load_file, save_file

    from distill2edge.gguf.families import by_architecture
    from distill2edge.gguf.reader import read_gguf
    from distill2edge.intake.gguf_load import gguf_to_hf

    path = bundled.fetch(MODEL, progress)
    part = work / f"reference-{seed}.part"
    shutil.rmtree(part, ignore_errors=True)
    gguf_to_hf(path, part)
    file = read_gguf(path)
    family = by_architecture(file.architecture)
    assert family is not None
    config = json.loads((part / "config.json").read_text())
    names = family.names(config["num_hidden_layers"])
    heads = config["num_attention_heads"], config["num_key_value_heads"]
    weights = load_file(part / "model.safetensors")
    generator = np.random.default_rng(seed)
    for name, info in file.tensors.items():
        if len(info.shape) > 1:
            noise = generator.uniform(-0.5, 0.5, info.shape).astype(np.float32) * _steps(file, name)
            weights[names[name]] = weights[names[name]] + family.to_hf(name, noise, *heads)
    save_file(weights, part / "model.safetensors", metadata={"format": "pt"})
    (part / "reference.json").write_text(json.dumps({"model": MODEL, "seed": seed}))
    part.rename(target)
    return target


def _steps(file: Any, name: str) -> np.ndarray:
    """The distance of neighbouring levels at each weight, in the tensor's shape."""
    import gguf

    info = file.tensors[name]
    kind = gguf.GGMLQuantizationType(info.type).name
    weights, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    if kind not in ("Q4_1", "Q8_0", "Q4_0"):
        raise ValueError(f"{name} is stored as {kind}: its step is not the first half of its block")
    raw = np.memmap(file.path, dtype=np.uint8, mode="r", offset=info.offset, shape=(info.size,)).reshape(-1, size)
    scale = np.abs(raw[:, :2].copy().view(np.float16).astype(np.float32))
    return np.repeat(scale, weights, axis=1).reshape(info.shape)


def windows(model_dir: Path, sources: Sequence[str], tokens: int, progress: Progress) -> list[list[int]]:
    """Pieces of `WINDOW` token ids of the sources' sentences in their order, taking turns, up to a number of tokens."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    found: list[list[list[int]]] = []
    each = -(-tokens // WINDOW // len(sources))
    for source in sources:
        # Sentences a, a', ... of one text follow each other in the file.
        text = " ".join(row["text"].strip() for row in islice(bundled.rows(source, progress), each * 20))
        ids = tokenizer(text, add_special_tokens=False).input_ids
        found.append([ids[at : at + WINDOW] for at in range(0, len(ids) - WINDOW, WINDOW)][:each])
    mixed = [piece for group in zip(*found, strict=True) for piece in group]
    return mixed[: -(-tokens // WINDOW)]


class Fidelity:
    """KL(reference || file) over held-out windows; the reference's log-probabilities are kept on disk."""

    def __init__(self, model_dir: Path, work: Path, progress: Progress, tokens: int = HELD_OUT_TOKENS) -> None:
        self.windows = windows(model_dir, HELD_OUT, tokens, progress)
        self._path = work / f"{model_dir.name}-{tokens}.npy"
        if not self._path.is_file():
            self._make(model_dir, progress)
        self._log = np.load(self._path, mmap_mode="r")

    def of_gguf(self, path: Path, threads: int = 1) -> dict[str, Any]:
        """KL and top-1 of a GGUF in llama.cpp."""
        from distill2edge.runtimes.llama_cpp import LlamaCppRuntime

        runtime = LlamaCppRuntime(path, threads=threads, context=WINDOW)
        try:
            return self.of(lambda ids: runtime.logits(ids, range(len(ids))))
        finally:
            runtime.close()

    def of_onnx(self, path: Path, threads: int = 1) -> dict[str, Any]:
        """KL and top-1 of an ONNX export in ONNX Runtime."""
        from distill2edge.runtimes.onnx_runtime import OnnxRuntime

        runtime = OnnxRuntime(path, threads=threads, context=WINDOW)
        try:
            return self.of(lambda ids: runtime.logits(ids, range(len(ids))))
        finally:
            runtime.close()

    def of_torch(self, model: Any, count: int | None = None) -> dict[str, Any]:
        """KL and top-1 of a torch model on the first `count` windows."""
        import torch

        def run(ids: Sequence[int]) -> np.ndarray:
            with torch.no_grad():
                return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float().numpy()

        return self.of(run, count)

    def of(self, run: Callable[[Sequence[int]], np.ndarray], count: int | None = None) -> dict[str, Any]:
        """KL in nats per token with its standard error over windows and that of each; top-1 agreement, perplexity."""
        import torch

        kls, same, nll = [], [], []
        for index, ids in enumerate(self.windows[:count]):
            ours = torch.log_softmax(torch.from_numpy(np.ascontiguousarray(run(ids), dtype=np.float32)), -1)
            wanted = torch.from_numpy(np.array(self._log[index], dtype=np.float32))
            kls.append(float((wanted.exp() * (wanted - ours)).sum(-1).mean()))
            same.append(float((wanted.argmax(-1) == ours.argmax(-1)).float().mean()))
            nll.append(float(-ours[:-1].gather(1, torch.tensor(ids[1:])[:, None]).mean()))
        return {
            "kl": float(np.mean(kls)),
            "kl_se": float(np.std(kls) / np.sqrt(len(kls))),
            "top1": float(np.mean(same)),
            "perplexity": float(np.exp(np.mean(nll))),
            "tokens": len(kls) * WINDOW,
            "windows": kls,
        }

    def _make(self, model_dir: Path, progress: Progress) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, local_files_only=True).eval()
        shape = (len(self.windows), WINDOW, model.config.vocab_size)
        part = self._path.with_suffix(".part")
        out = np.lib.format.open_memmap(part, mode="w+", dtype=np.float32, shape=shape)
        with progress.task("reference logits", len(self.windows)) as task, torch.no_grad():
            for index, ids in enumerate(self.windows):
                out[index] = torch.log_softmax(model(torch.tensor([ids]), use_cache=False).logits[0], -1).numpy()
                task.advance()
        out.flush()
        part.rename(self._path)


def gguf_types(path: Path) -> dict[str, str]:
    """Tensor name -> type of a GGUF."""
    import gguf

    from distill2edge.gguf.reader import read_gguf

    return {name: gguf.GGMLQuantizationType(info.type).name for name, info in read_gguf(path).tensors.items()}


def calibration_rows(model_dir: Path, tokens: int, progress: Progress) -> list[list[int]]:
    """Windows of calibration text, none of which is held out."""
    return windows(model_dir, CALIBRATION, tokens, progress)


TRAIN_WINDOW, TRAIN_WINDOWS, VALIDATION_WINDOWS = 128, 1128, 24


def training_rows(model_dir: Path, progress: Progress) -> tuple[list[Any], list[Any]]:
    """Film and product reviews, each token once, as rows to train on; the last windows choose the checkpoint."""
    from transformers import AutoTokenizer

    from distill2edge.data.examples import Encoded, example_id

    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    pieces = []
    for source in CALIBRATION:
        text = " ".join(row["text"].strip() for row in bundled.rows(source, progress))
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        pieces += [ids[at : at + TRAIN_WINDOW] for at in range(0, len(ids) - TRAIN_WINDOW, TRAIN_WINDOW)]
    order = np.random.default_rng(SEED).permutation(len(pieces))
    mask = [False] + [True] * (TRAIN_WINDOW - 1)
    rows = [Encoded(example_id(pieces[at], mask), pieces[at], mask) for at in order]
    return rows[:TRAIN_WINDOWS], rows[-VALIDATION_WINDOWS:]


def signal_of(model_dir: Path, rows: Sequence[Any], work: Path, progress: Progress) -> Path:
    """The reference's top 64 and tail at every position, kept on disk."""
    from distill2edge.recipe.schema import LogitsSignal
    from distill2edge.teacher.logits import cache_logits

    target = work / f"{model_dir.name}-signal"
    cache_logits(model_dir, rows, LogitsSignal(top_k=64, temperature=1.0), target, progress)
    return target


def statistics_of(model_dir: Path, work: Path, progress: Progress) -> tuple[Any, Any]:
    """Squared inputs and products over 16,384 calibration tokens, and Fisher information over 4,096; kept on disk."""
    import torch

    from distill2edge.models.loading import load_model
    from distill2edge.quantize.activation_statistics import Statistics, collect
    from distill2edge.quantize.fisher import collect_fisher

    rows = calibration_rows(model_dir, 16_384, progress)
    found = []
    for name, run in (("products", partial(collect, grams=True)), ("fisher", partial(collect_fisher, max_tokens=4096))):
        path = work / f"{model_dir.name}-{name}.pt"
        if not path.is_file():
            part = path.with_suffix(".part")
            torch.save(vars(run(load_model(model_dir, dtype=torch.float32).eval(), rows, progress)), part)
            part.rename(path)
        found.append(Statistics(**torch.load(path, weights_only=True)))
    return found[0], found[1]
