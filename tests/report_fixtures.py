"""Documents of a realistic run, for tests of cost and report. Figures are made up, in the size of real ones."""

from __future__ import annotations

import copy
import random
from typing import Any

from distill2edge.cost.cost_document import build_cost
from distill2edge.recipe.schema import Cost
from distill2edge.report.document import build_report

Document = dict[str, Any]

# id suffix, bytes, score, KL to the student, p99, top-1, perplexity, ms per request, decode tokens/s
FILES = [
    ("onnx:int8", 118e6, 0.868, 0.0043, 0.031, 0.966, 36.2, 206.0, 118.0),
    ("onnx:int4-b32", 47e6, 0.852, 0.118, 0.71, 0.83, 40.1, 214.0, 241.0),
    ("gguf:Q8_0", 77e6, 0.869, 0.0058, 0.04, 0.954, 36.3, 191.0, 236.0),
    ("gguf:Q4_K_M", 57e6, 0.861, 0.061, 0.42, 0.863, 38.0, 188.0, 221.0),
    ("gguf:Q4_0", 49e6, 0.831, 0.231, 1.4, 0.742, 44.2, 171.0, 305.0),
]
MAX_KL, MIN_RETAINED = 0.1, 0.95


def figure(value: float, spread: float, n: int = 500) -> Document:
    """A figure with a symmetric interval."""
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def verify(*, control: bool = True, teacher_schemes: bool = True, broken: bool = True) -> Document:
    """verify.json. The 4-bit files fail the KL gate; `broken` adds a file that could not be loaded."""
    models = [_model("teacher", "teacher", "torch:fp32", "torch", 538e6, 134.5e6, 0.884)]
    if teacher_schemes:
        models += [
            _model(
                "teacher/gguf:Q8_0", "teacher", "gguf:Q8_0", "llama.cpp", 145e6, 134.5e6, 0.882, 0.0059, 0.04, 0.954
            ),
            _model("teacher/gguf:Q4_0", "teacher", "gguf:Q4_0", "llama.cpp", 91.7e6, 134.5e6, 0.803, 0.419, 2.1, 0.671),
        ]
    models.append(_model("student", "student", "torch:fp32", "torch", 270e6, 67.4e6, 0.871))
    if control:
        models.append(_model("control", "control", "torch:fp32", "torch", 270e6, 67.4e6, 0.836))
    for scheme, size, score, kl, p99, top1, perplexity, *_ in FILES:
        runtime = "llama.cpp" if scheme.startswith("gguf") else "onnxruntime"
        models.append(
            _model(f"student/{scheme}", "student", scheme, runtime, size, 67.4e6, score, kl, p99, top1, perplexity)
        )
    if broken:
        models.append(
            {**_model("student/gguf:Q2_K", "student", "gguf:Q2_K", "llama.cpp", 41e6, 67.4e6, 0.0),
             "score": None, "retained": None, "kl_teacher": None, "perplexity": None,
             "error": "the runtime died with signal 6: GGML_ASSERT(nrows % 4 == 0) failed"}
        )  # fmt: skip
    gates = []
    for model in models:
        if model["role"] != "student" or model["scheme"].startswith("torch"):
            continue
        gates.append(_gate("loads", model["id"], ">=", 1.0, 0.0 if model["error"] else 1.0))
        if model["error"]:
            continue
        gates.append(_gate("min_retained", model["id"], ">=", MIN_RETAINED, model["retained"]["value"]))
        gates.append(_gate("max_kl", model["id"], "<=", MAX_KL, model["kl_student"]["value"]))
    verdict = "pass" if all(gate["passed"] for gate in gates) else "fail"
    return {"schema_version": 1, "metric": "accuracy", "rows": 500, "tokens": 2048, "models": models, "gates": gates,
            "verdict": verdict, "warnings": [], "classes": {"neg": 235, "pos": 265},
            "baseline": {"name": "always 'pos', the largest class", "score": figure(0.53, 0.04),
                         "chance": 0.5}}  # fmt: skip


def passing_verify(**options: bool) -> Document:
    """verify.json in which every gate passes: only the faithful files are shipped."""
    document = verify(broken=False, **options)
    bad = {gate["model"] for gate in document["gates"] if not gate["passed"]}
    document["models"] = [model for model in document["models"] if model["id"] not in bad]
    document["gates"] = [gate for gate in document["gates"] if gate["model"] not in bad]
    document["verdict"] = "pass"
    return document


def _gate(name: str, model: str, op: str, target: float, value: float) -> Document:
    passed = value >= target if op == ">=" else value <= target
    return {"name": name, "model": model, "op": op, "target": target, "value": value, "passed": passed}


def _model(
    name: str,
    role: str,
    scheme: str,
    runtime: str,
    size: float,
    parameters: float,
    score: float,
    kl: float | None = None,
    p99: float | None = None,
    top1: float | None = None,
    perplexity: float = 35.96,
) -> Document:
    return {
        "id": name,
        "role": role,
        "scheme": scheme,
        "runtime": runtime,
        "size_bytes": int(size),
        "parameters": int(parameters),
        "score": figure(score, 0.018),
        "retained": None if name == "teacher" else figure(score / 0.884, 0.014),
        "kept": {"teacher": figure(score / 0.884, 0.014), "teacher/gguf:Q8_0": figure(score / 0.882, 0.015)}
        if role == "student"
        else {},
        "balanced_accuracy": score - 0.01,
        "above_baseline": True,
        "output_length_ratio": None,
        "kl_teacher": None
        if name == "teacher"
        else figure((0.0 if role == "teacher" else 0.04) + (kl or 0), 0.001, 2048),
        "kl_student": None if kl is None or role == "teacher" else figure(kl, kl * 0.12, 2048),
        "kl_student_p99": p99,
        "top1_student": None if top1 is None else figure(top1, 0.01, 2048),
        "perplexity": figure(perplexity, 1.3, 2048),
        "error": None,
    }


def bench(models: list[Document], *, contended: bool = False, broken: bool = True) -> Document:
    """bench.json: a cell for each model, two workloads."""
    slow = {"teacher": 655.0, "student": 380.0, "teacher/gguf:Q8_0": 402.0, "teacher/gguf:Q4_0": 361.0}
    fast = {f"student/{scheme}": ms for scheme, *_, ms, _ in FILES}
    cells = []
    for model in models:
        name = model["id"]
        if model["role"] == "control" or model["error"]:
            continue
        cells.append(_cell(name, model["runtime"], {**slow, **fast}[name], model["size_bytes"]))
    if broken:
        cells.append(
            {"id": "student/onnx:fp16@cpu", "model": "student/onnx:fp16", "device": "cpu", "runtime": "onnxruntime",
             "disk_bytes": 135_000_000, "cold_start_s": None, "peak_rss_bytes": None, "contended": False,
             "contention": {}, "error": "killed after 600 s", "workloads": {}}
        )  # fmt: skip
    if contended:
        cells[0]["contended"] = True
        cells[0]["contention"] = {"steal": 0.12, "reasons": ["12% of the time was stolen"]}
    speedups = []
    teacher_ms = min(cell["workloads"]["task"]["e2e_ms"]["p50"] for cell in cells
                     if cell["model"].startswith("teacher") and cell["workloads"])  # fmt: skip
    best = "teacher/gguf:Q8_0@cpu" if any(c["model"] == "teacher/gguf:Q8_0" for c in cells) else "teacher@cpu"
    for cell in cells:
        if not cell["workloads"] or not cell["model"].startswith("student"):
            continue
        for against, ms in (("teacher@cpu", 655.0), (best, 402.0 if best != "teacher@cpu" else teacher_ms)):
            ratio = ms / cell["workloads"]["task"]["e2e_ms"]["p50"]
            speedups.append({"cell": cell["id"], "against": against, "workload": "task",
                             "ratio": figure(ratio, ratio * 0.03, 12),
                             "time_saved": figure(1 - 1 / ratio, 0.012, 12)})  # fmt: skip
    return {
        "schema_version": 1,
        "machine": {"cpu": "AMD EPYC 7763 64-Core Processor", "cores": 2, "usable_threads": 2,
                    "memory_bytes": 8_340_000_000, "gpu": [], "os": "Linux 6.1.0 x86_64", "python": "3.11.9",
                    "versions": {"torch": "2.13.0", "transformers": "5.23.0", "onnxruntime": "1.32.0",
                                 "llama-cpp-python": "0.3.36"}},
        "threads": 2,
        "rounds": 3,
        "workloads": [
            {"name": "task", "prompt_tokens": 47.3, "output_tokens": 4, "requests": 12, "sha256": "a" * 64},
            {"name": "chat-128-64", "prompt_tokens": 128, "output_tokens": 64, "requests": 12, "sha256": "b" * 64},
        ],
        "cells": cells,
        "speedups": speedups,
        "formulas": {"tpot": "(E2E - TTFT) / (n_out - 1)", "speed-up": "time of the one / time of the other"},
    }  # fmt: skip


def _cell(name: str, runtime: str, ms: float, disk: int) -> Document:
    def latency(value: float) -> Document:
        return {"p50": value, "p95": value * 1.09, "n": 12, "low": value * 0.985, "high": value * 1.02}

    def workload(scale: float, tokens: int) -> Document:
        whole = ms * scale
        return {
            "ttft_ms": latency(whole * 0.55),
            "tpot_ms": latency(whole * 0.45 / (tokens - 1)),
            "e2e_ms": latency(whole),
            "prefill_tps": figure(47_300 / (ms * 0.55), 4, 12),
            "decode_tps": figure(1000 * tokens / (whole * 0.45), 2, 12),
            "requests_per_s": figure(1000 / whole, 10 / whole, 12),
            "energy": {"label": "unavailable", "joules_per_request": None},
        }

    return {
        "id": f"{name}@cpu",
        "model": name,
        "device": "cpu",
        "runtime": runtime,
        "disk_bytes": disk,
        "cold_start_s": figure(0.4 + disk / 4e8, 0.05, 3),
        "peak_rss_bytes": int(disk * 1.3 + 180e6),
        "contended": False,
        "contention": {"steal": 0.0, "reasons": []},
        "error": None,
        "workloads": {"task": workload(1.0, 4), "chat-128-64": workload(5.3, 64)},
    }


STAGE_SECONDS = {"data": 3.1, "teacher": 41.0, "fit": 95.0, "signal": 61.0, "student": 4.0, "distill": 187.0,
                 "distill control": 120.0, "merge": 6.0, "export student/gguf:Q4_0": 3.0, "verify": 92.0,
                 "bench": 140.0}  # fmt: skip
SECONDS = {"teacher_generation": 105.1, "training": 292.0, "export": 3.0, "evaluation": 352.0}
"""The same, as the cost report sums them."""


def run(**changes: Any) -> Document:
    """run.json."""
    recipe = {"name": "quickstart", "teacher": {"model": "bundled:smollm2-135m-instruct"},
              "data": {"source": "bundled:movie-sentences"}, "cost": {"utilisation": 0.2}}  # fmt: skip
    stages = [
        {"stage": name, "key": f"{index:02d}" * 32, "cached": index < 2, "wall_s": seconds, "path": f"store/{name}"}
        for index, (name, seconds) in enumerate(STAGE_SECONDS.items())
    ]
    return {
        "recipe": recipe,
        "recipe_path": "recipes/quickstart.yaml",
        "name": "quickstart",
        "created": "2026-11-24T04:12:39Z",
        "command": "distill2edge run recipes/quickstart.yaml",
        "stages": stages,
        "environment": {"versions": {"torch": "2.13.0"}, "machine": {"cpu": "AMD EPYC 7763"}},
        "seed": 0,
        **changes,
    }


def data() -> Document:
    """data.json."""
    return {"source": "bundled:movie-sentences", "sha256": "c" * 64, "licence": "MIT, third-party text",
            "kind": "bundled",
            "splits": {name: {"rows": rows, "sha256": f"{rows:064d}"} for name, rows in
                       (("train", 8070), ("validation", 200), ("calibration", 128), ("test", 500))},
            "dropped": {"not_needed": 14, "empty": 0},
            "leakage": {"rows": 500, "exact": 2, "near": 1, "threshold": 0.8, "action": "drop"}}  # fmt: skip


def teacher() -> Document:
    """teacher.json."""
    return {"name": "SmolLM2-135M-Instruct", "source": "bundled:smollm2-135m-instruct", "revision": "0.1.2",
            "home": "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct", "kind": "gguf",
            "licence": {"licence": "apache-2.0", "title": "Apache License 2.0", "verdict": "permit",
                        "clause": "use without limits on outputs", "conditions": [], "name_prefix": None,
                        "source": "https://www.apache.org/licenses/LICENSE-2.0", "read": "2026-11-20", "basis": "text",
                        "found_in": "GGUF metadata", "accepted": None, "derivative": True, "others": []},
            "parameters": 134_515_008}  # fmt: skip


def train(final: float = 0.31, seed: int = 0) -> Document:
    """train.json with a falling, noisy loss."""
    rng = random.Random(seed)
    log = [
        {
            "step": step,
            "loss": final + 2.1 * 0.965 ** (step / 3) + rng.gauss(0, 0.03),
            "lr": 5e-4,
            "tokens": step * 1024,
        }
        for step in range(10, 510, 10)
    ]
    evaluation = [{"step": step, "loss": final + 0.04 + 2.1 * 0.965 ** (step / 3)} for step in (125, 250, 375, 500)]
    return {"log": log, "eval": evaluation, "supervised_tokens": 512_000, "tokens_per_s": 760.0, "wall_s": 187.0,
            "peak_rss_bytes": 1_900_000_000, "dtype": "bfloat16"}  # fmt: skip


def merge() -> Document:
    """merge.json."""
    tensors = [f"model.layers.{layer}.{name}" for layer in range(12) for name in ("self_attn.q_proj", "mlp.up_proj")]
    rng = random.Random(1)
    return {
        "max_logit_difference": 3.1e-5,
        "mean_logit_difference": 2.4e-6,
        "survival": {
            scheme: [
                {"tensor": name, "delta_rms": 1e-4, "step": 1e-4 / ratio, "ratio": ratio}
                for name in tensors
                for ratio in [scale * rng.uniform(0.6, 1.4)]
            ]
            for scheme, scale in (("gguf:Q8_0", 2.6), ("gguf:Q4_0", 0.16))
        },
    }


def exports(models: list[Document]) -> list[Document]:
    """export.json of each file that ships."""
    found = []
    for model in models:
        if model["role"] != "student" or model["scheme"].startswith("torch"):
            continue
        kind, _, name = model["scheme"].partition(":")
        found.append(
            {
                "format": kind,
                "scheme": name,
                "size_bytes": model["size_bytes"],
                "effective_bits": 8 * model["size_bytes"] / model["parameters"],
                "types": {
                    name: {"tensors": 84, "bytes": int(model["size_bytes"] * 0.98)},
                    "F32": {"tensors": 25, "bytes": 57_600},
                },
                "fallbacks": [{"tensor": f"blk.{n}.ffn_down", "wanted": "Q4_K", "used": "Q5_0"} for n in range(6)]
                if name == "Q4_K_M"
                else [],
            }
        )  # fmt: skip
    return found


def cost(bench_document: Document, verify_document: Document, **section: Any) -> Document:
    """cost.json through the real builder."""
    return build_cost(Cost.model_validate(section), bench_document, verify_document, SECONDS)


def judge(models: list[Document]) -> Document:
    """judge.json: the dense student and every file, one of which could not be run; replies that say nothing too."""
    judged = [model for model in models if model["role"] == "student"]
    said = {"win": ("[[A]]", "[[B]]"), "loss": ("[[B]]", "[[A]]"), "inconsistent": ("[[A]]", "[[A]]"),
            "unreadable": ("Answer A, I think", "")}  # fmt: skip
    pairs = []
    for number, (outcome, replies) in enumerate(said.items()):
        answer = {"answer": f"student's answer {number}", "student_first": replies[0], "teacher_first": replies[1]}
        students = {model["id"]: {**answer, "outcome": outcome} for model in judged if not model["error"]}
        pairs.append({"row": f"{number:032d}", "prompt": f"prompt {number}", "reference": "gold",
                      "teacher": f"teacher's answer {number}", "students": students})  # fmt: skip
    counts = {"win": 1, "loss": 1, "tie": 0, "identical": 0, "inconsistent": 1, "unreadable": 1}
    figures = {"pairs": 4, "counts": counts, "win_rate": figure(0.5, 0.4, 3), "position_bias": figure(1 / 3, 0.3, 3),
               "length_ratio": figure(1.1, 0.1, 4), "cut": 2}  # fmt: skip
    absent = dict.fromkeys(figures)
    entries = [
        {"id": model["id"], "scheme": model["scheme"], "runtime": model["runtime"],
         **(absent if model["error"] else figures), "error": model["error"]}
        for model in judged
    ]  # fmt: skip
    return {"schema_version": 1, "judge": {"model": "owner/judge", "answer_tokens": 128, "akin": []}, "rows": 4,
            "unanswered": 0, "teacher_cut": 1, "definitions": {}, "models": entries, "pairs": pairs}  # fmt: skip


def report(
    *, passing: bool = True, judged: bool = False, with_cost: dict[str, Any] | None = None, **options: bool
) -> Document:
    """report.json of a whole run."""
    verify_document = passing_verify(**options) if passing else verify(**options)
    bench_document = bench(verify_document["models"], broken=not passing)
    priced = cost(bench_document, verify_document, **(with_cost or {"student": {"device": "raspberry-pi-5"}}))
    return build_report(
        run(),
        data(),
        teacher(),
        {"layers_kept": [0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29], "parameters": 67_400_000},
        train(),
        merge(),
        exports(verify_document["models"]),
        verify_document,
        bench_document,
        priced,
        control=train(0.44, 3) if options.get("control", True) else None,
        judge=judge(verify_document["models"]) if judged else None,
    )


def hostile(document: Document, marker: str) -> Document:
    """The same document with every string made hostile (keys and known words stay)."""
    keep = {"schema_version", "op", "verdict", "result", "role", "format", "label", "metric", "name"}

    def walk(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: walk(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [walk(item, key) for item in value]
        return f"{value}{marker}" if isinstance(value, str) and key not in keep else value

    return walk(copy.deepcopy(document))  # type: ignore[no-any-return]
