"""Every family taken the whole way as a tiny randomly initialised model: layers, training, files, what each file says.

What comes of it is docs/models.md, by benchmarks/families.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny import RECIPE, tiny_family

import distill2edge as d2e
from distill2edge.errors import UserError
from distill2edge.export.faithful import difference
from distill2edge.export.gguf import export_gguf
from distill2edge.export.gguf_mix import MixExport
from distill2edge.export.gguf_rounding import Rounding
from distill2edge.export.onnx import export_onnx
from distill2edge.export.support import ONNX_DECODERS
from distill2edge.models.kinds import logits_of
from distill2edge.models.loading import load_model
from distill2edge.quantize.calibrate import read_calibration, write_calibration
from distill2edge.quantize.measure_sensitivity import read_sensitivity, write_sensitivity
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.onnx_runtime import OnnxRuntime
from distill2edge.util.progress import SilentProgress

CELLS = ("train", "GGUF", "GGUF mix", "ONNX int8", "ONNX int4", "GenAI")
"""What is tried of each family."""
LIMITS = {"GGUF": 0.01, "GGUF mix": 0.4, "ONNX int8": 0.1, "ONNX int4": 0.4}
"""Nats per token that a file may differ from PyTorch by: random weights of 64 columns lose more than trained ones."""
META = {"name": "tiny", "licence": "MIT"}


@dataclass(frozen=True)
class Tried:
    """A family.

    Attributes:
        family: `model_type`.
        changes: fields of its configuration.
        layers: that the student takes over.
    """

    family: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    layers: tuple[int, ...] = (1,)


_LLAMA3 = {"rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0,
           "high_freq_factor": 4.0, "original_max_position_embeddings": 64}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16,
           "linear_value_head_dim": 16, "head_dim": 32,
           "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.25,
                               "mrope_section": [2, 1, 1]}}  # fmt: skip
_WINDOWS = {"num_hidden_layers": 3, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}
FAMILIES: Mapping[str, Tried] = {
    "Llama, SmolLM": Tried("llama"),
    "Llama 3 with rotary scaling": Tried("llama", {"rope_parameters": _LLAMA3}),
    "Mistral": Tried("mistral", {"sliding_window": None}),
    "Qwen2, Qwen2.5": Tried("qwen2"),
    "Qwen3": Tried("qwen3"),
    "Qwen3-MoE": Tried("qwen3_moe", _EXPERTS),
    "Qwen3.5": Tried("qwen3_5_text", {"num_hidden_layers": 5, **_LINEAR}, (0, 3)),
    "Gemma": Tried("gemma"),
    "Gemma 2": Tried("gemma2", {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}, (0, 1)),
    "Gemma 3": Tried("gemma3_text"),
    "Gemma 4": Tried("gemma4_text", {"hidden_size_per_layer_input": 16, "vocab_size_per_layer_input": 400,
                                     "global_head_dim": 32, **_WINDOWS}, (0, 2)),
    "Phi-2": Tried("phi", {"partial_rotary_factor": 0.5, "tie_word_embeddings": False, "num_key_value_heads": 4,
                           "intermediate_size": 256}),
    "Phi-3, Phi-4": Tried("phi3", {"original_max_position_embeddings": 512}),
    "Phi-4-mini": Tried("phi3", {"original_max_position_embeddings": 512, "partial_rotary_factor": 0.75}),
    "SmolLM3": Tried("smollm3", {"num_hidden_layers": 8}, (0, 1, 6, 7)),
    "Granite": Tried("granite", {"embedding_multiplier": 2.0, "attention_multiplier": 0.3,
                                 "residual_multiplier": 0.5, "logits_scaling": 2.0}),
    "OLMo": Tried("olmo"),
    "OLMo 2": Tried("olmo2", {"tie_word_embeddings": False}),
    "LFM2": Tried("lfm2", {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_dim": 64,
                           "block_ff_dim": 128, "conv_L_cache": 3}, (0, 1)),
    "GLM": Tried("glm"),
    "GLM-4": Tried("glm4"),
    "Falcon-H1": Tried("falcon_h1", {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16,
                                     "mamba_n_groups": 1}),
    "Ernie 4.5": Tried("ernie4_5"),
    "Nemotron": Tried("nemotron", {"tie_word_embeddings": False}),
    "Hunyuan (dense)": Tried("hunyuan_v1_dense"),
}  # fmt: skip


def taken_through(name: str, work: Path) -> dict[str, dict[str, Any]]:
    """Cell -> {ok, kl (nats per token, of files), why (where it is not ok)}.

    Args:
        work: an empty directory.
    """
    tried = FAMILIES[name]
    tiny_family(work / "teacher", tried.family, **tried.changes)
    found: dict[str, dict[str, Any]] = {}
    model = work / "teacher"

    def said(error: Exception) -> str:
        """Its words in one line, without the folder of this try."""
        text = str(error) if hasattr(error, "errors") else getattr(error, "what", f"{type(error).__name__}: {error}")
        return " | ".join(text.splitlines()).replace(f"{work}/", "")

    def attempt(cell: str, do: Callable[[], float | None]) -> None:
        try:
            kl = do()
        except UserError as error:
            found[cell] = {"ok": False, "why": said(error)}
        except (RuntimeError, ValueError, KeyError, AttributeError, IndexError, TypeError, ImportError) as error:
            # A library's or ours: the page says so, and what it was.
            found[cell] = {"ok": False, "why": said(error)}
        else:
            ok = kl is None or kl <= LIMITS[cell]
            found[cell] = {"ok": ok, "kl": kl, "why": "" if ok else f"KL {kl:.3g} nats per token"}

    def train() -> None:
        nonlocal model
        model = trained(tried, work)

    attempt("train", train)
    attempt("GGUF", lambda: _gguf(model, work / "gguf"))
    attempt("GGUF mix", lambda: _mix(model, work))
    attempt("ONNX int8", lambda: _onnx(model, "onnx:int8", work / "int8"))
    attempt("ONNX int4", lambda: _onnx(model, "onnx:int4-b32", work / "int4"))
    attempt("GenAI", lambda: _genai(model, work / "int8"))
    return found


def trained(tried: Tried, work: Path) -> Path:
    """The directory of a student of some layers of the teacher, after a pass over 24 rows, merged."""
    (work / "teacher" / "README.md").write_text("---\nlicense: mit\n---\n")
    rows = [{"text": f"film {n} the {n * 37} dog", "label": (" bad", " good")[n % 2]} for n in range(60)]
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = RECIPE.format(name="tiny", model=work / "teacher", rows=work / "rows.jsonl")
    text = text.replace("layers: 1}", f"layers: {json.dumps(list(tried.layers))}}}")
    export = "onnx:int8" if tried.family in ONNX_DECODERS else "gguf:Q8_0"
    (work / "r.yaml").write_text(text.replace("[onnx:int8, gguf:Q8_0]", f"[{export}]"))
    run = d2e.run(work / "r.yaml", upto="merge", store=work / "store", out=work / "out", quiet=True)
    log = json.loads((run.artifacts["distill"].path / "train.json").read_text())
    if not log:
        raise ValueError("the training wrote nothing")
    return run.artifacts["merge"].path / "model"


def kl_of(model_dir: Path, out: Path, runtime_name: str) -> float:
    """Nats per token of PyTorch || file, on ids that no check has seen."""
    ids = np.random.default_rng(7).integers(3, 390, 60).tolist()
    with torch.no_grad():
        expected = logits_of(load_model(model_dir, dtype=torch.float32).eval(), ids, 0).numpy()
    runtime = open_runtime(runtime_name, out, threads=1, context=72)
    got = runtime.logits(ids, range(60))
    runtime.close()
    return round(difference(expected, got)[0], 6)


def _gguf(model: Path, out: Path) -> float:
    export_gguf(model, parse_scheme("gguf:Q8_0"), META, out, SilentProgress())
    return kl_of(model, out, "llama.cpp")


def _mix(model: Path, work: Path) -> float:
    """In the size of a stock file of 4 bits; half of what such a file loses to chance is allowed."""
    if not (work / "gguf" / "model.gguf").is_file():
        raise UserError("no GGUF file")
    quiet, size = SilentProgress(), (work / "gguf" / "model.gguf").stat().st_size
    weights = json.loads((work / "gguf" / "export.json").read_text())["parameters"]
    budget = size - int(weights * (8.5 - 5.0) / 8)
    rows = {f"row{n}": np.random.default_rng(n).integers(3, 390, 60).tolist() for n in range(24)}
    known = work / "s"
    write_calibration(model, rows, (), known, quiet, max_tokens=2048, dataset="rows", grams=True)
    write_sensitivity(model, list(rows.values()), read_calibration(known), known, quiet, max_tokens=2048)
    scheme = parse_scheme(f"gguf:mix-{budget}B")
    assert scheme.mix is not None
    mix = MixExport(scheme.mix, read_sensitivity(known, known), lambda: [], "calibration", "all")
    facts = export_gguf(model, scheme, META, work / "mix", quiet, rounding=Rounding(mix=mix))
    assert facts["size_bytes"] <= budget
    return kl_of(model, work / "mix", "llama.cpp")


def _onnx(model: Path, scheme: str, out: Path) -> float:
    export_onnx(model, parse_scheme(scheme), META, out, SilentProgress())
    return kl_of(model, out, "onnxruntime")


def _genai(model: Path, out: Path) -> None:
    """The folder in onnxruntime-genai writes what it writes in ONNX Runtime."""
    import onnxruntime_genai as genai

    if not (out / "model.onnx").is_file():
        raise UserError("no ONNX file")
    prompt = list(range(20, 32))
    runtime, expected = OnnxRuntime(out, context=64), []
    token = int(runtime.prefill(prompt).argmax())
    for _ in range(8):
        expected.append(token)
        if token == 2:
            break
        token = int(runtime.decode(token).argmax())
    loaded = genai.Model(str(out))
    params = genai.GeneratorParams(loaded)
    params.set_search_options(max_length=len(prompt) + 8, do_sample=False)
    generator = genai.Generator(loaded, params)
    generator.append_tokens(np.array(prompt, dtype=np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    got = generator.get_sequence(0).tolist()[len(prompt) :]
    if got != expected:
        raise UserError(f"onnxruntime-genai writes {got}, not {expected}")
