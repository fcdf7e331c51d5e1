"""The reference of a pack, in a process of its own: `python -m distill2edge.pack.record SPEC.json`.

It asks the packed file through the pack's own predict.py and selftest.py, so that the same lines of code compute
reference and proof.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from distill2edge.pack.probes import LONG, PROSE, TOKENIZED
from distill2edge.util.isolate import serve

OUTCOMES = 16
"""The likeliest outcomes of a position that are kept; what is less likely counts as one."""
NUMBERS = 64
"""Of a vector, the first numbers that are kept."""
LOOKED_AT, WRITTEN = 16, 8
"""Tokens of each prompt's end, and tokens that the model writes after it."""
FLOOR = {"kl": 1e-3, "distance": 1e-4}
"""What no gate would notice is no fault."""
TIMES_NOISE = 3.0
"""Tolerance, in divergences between two right ways to compute the same file (docs/decisions/0037)."""


def work(spec: dict[str, Any], report: Callable[[int], None]) -> dict[str, Any]:
    """What only the file itself can tell of the reference; or with `prove`, the proof of the finished pack.

    Args:
        spec: `pack` (its folder), `prove`.
    """
    where = Path(spec["pack"])
    selftest = load_script(where, "selftest")
    if spec["prove"]:
        return dict(selftest.prove(where, 1, ""))
    predict = load_script(where, "predict")
    form = json.loads((where / "input.json").read_text(encoding="utf-8"))
    reader, model = predict.load(form, 1)
    reference = ask(predict, selftest, form, reader, model)
    report(1)
    del reader, model
    with_other_kernels(predict)
    _, model = predict.load(form, 1)
    again = selftest.read_probes(reference, form, model, float("inf"))
    known = selftest.unpacked(reference["logprobs"], "<f4", reference["outcomes"])
    noise = float(selftest.divergence(form["kind"], known.astype(np.float64), again.astype(np.float64)).mean())
    measure = "distance" if form["kind"] in selftest.VALUES else "kl"
    return {**reference, "noise": noise, "tolerance": max(FLOOR[measure], TIMES_NOISE * noise)}


def load_script(where: Path, name: str) -> Any:
    """A script of the pack as a module; it knows its folder by its own path."""
    spec = importlib.util.spec_from_file_location(name, where / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def ask(predict: Any, selftest: Any, form: dict[str, Any], reader: Any, model: Any) -> dict[str, Any]:
    """Tokens of the texts, and probes with what the model says of them."""
    probes: list[dict[str, Any]] = []
    ids: list[np.ndarray] = []
    said: list[np.ndarray] = []
    for texts in _texts(form):
        prompt, types = predict.encode(texts, form, reader)
        probe = _probe(predict, form, model, texts, prompt, types)
        if probe is None:
            continue
        rows = selftest.outputs(model, form, probe["ids"], types, probe["start"])
        kept = _outcomes(rows, form["kind"] in selftest.VALUES)
        probes.append(probe)
        ids.append(kept)
        said.append(np.take_along_axis(rows, kept, axis=1))
    reference = {
        "kind": form["kind"],
        "tokenizer": [[text, selftest.bare_hash(reader, text)] for text in TOKENIZED],
        "probes": probes,
        "outcomes": ids[0].shape[1],
        "ids": selftest.packed(np.concatenate(ids), "<u4"),
        "logprobs": selftest.packed(np.concatenate(said), "<f4"),
    }
    return {**reference, "cache_bytes": selftest.cache_bytes(predict, reference, model)}


def _texts(form: dict[str, Any]) -> list[list[str]]:
    if form.get("pair") is not None:
        return [[first, second] for first, second in zip(PROSE, (*PROSE[1:], PROSE[0]), strict=True)]
    return [[text] for text in (*PROSE, LONG)]


def _probe(
    predict: Any, form: dict[str, Any], model: Any, texts: list[str], prompt: list[int], types: list[int]
) -> dict[str, Any] | None:
    """The tokens of one probe; None where they do not fit."""
    writes = form["kind"] in ("decoder", "seq2seq")
    if not prompt or (writes and len(prompt) + WRITTEN + 64 > form["context"]):
        return None
    written = predict.generate(model, prompt, [], WRITTEN) if writes else []
    start = max(1, len(prompt) - LOOKED_AT) if form["kind"] == "decoder" else len(prompt)
    return {
        "texts": texts,
        "ids": [*prompt, *written],
        "types": types if any(types) else [],
        "prompt": len(prompt),
        "start": start,
    }


def _outcomes(rows: np.ndarray, values: bool) -> np.ndarray:
    """Which columns [n, k] are kept: of numbers the first, of probabilities the likeliest."""
    if values:
        width = min(rows.shape[1], NUMBERS)
        return np.tile(np.arange(width), (len(rows), 1))
    return np.argsort(-rows, axis=1, kind="stable")[:, :OUTCOMES]


def with_other_kernels(predict: ModuleType) -> None:
    """Let `predict.load` open the file so that the same is computed in another order, as another processor would."""
    if hasattr(predict, "onnxruntime"):
        runtime = predict.onnxruntime

        def options() -> Any:
            found = plain()
            found.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
            found.add_session_config_entry("session.disable_prepacking", "1")
            return found

        plain, runtime.SessionOptions = runtime.SessionOptions, options
        return
    api = predict.api
    defaults = api.llama_context_default_params, api.llama_model_default_params

    def context() -> Any:
        found = defaults[0]()
        found.flash_attn_type = predict.FLASH_OFF
        return found

    def model() -> Any:
        found = defaults[1]()
        found.use_extra_bufts = False
        return found

    api.llama_context_default_params, api.llama_model_default_params = context, model


if __name__ == "__main__":
    serve(work, sys.argv[1:])
