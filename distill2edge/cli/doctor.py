"""Checks of the environment, each with the fix."""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import sys
from collections.abc import Callable
from importlib import metadata
from importlib.util import find_spec
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pipeline.shared_store import SharedStore
from distill2edge.pipeline.store_at import store_at
from distill2edge.util.quantities import readable_bytes

_REQUIRED = (
    ("torch", "torch"),
    ("transformers", "transformers"),
    ("peft", "peft"),
    ("datasets", "datasets"),
    ("onnxruntime", "onnxruntime"),
    ("onnxruntime_genai", "onnxruntime-genai"),
    ("llama_cpp", "llama-cpp-python"),
    ("gguf", "gguf"),
)
_MIN_DISK = 5e9
_MIN_MEMORY = 4e9


def check_environment() -> list[dict[str, Any]]:
    """One dict per check: name, state (`fine`, `note`, `missing`), detail, fix."""
    checks = [
        _python(),
        *(_package(module, name) for module, name in _REQUIRED),
        _memory(),
        _disk(),
        _threads(),
        _sandbox(),
        _workers(),
        *_gpu(),
    ]
    checks += [_hub(), *_bundled()]
    return checks


def render_checks(checks: list[dict[str, Any]]) -> str:
    """A line per check, the fix beneath."""
    mark = {"fine": "ok  ", "note": "note", "missing": "MISSING"}
    lines = []
    width = max(len(item["name"]) for item in checks) + 2
    for item in checks:
        lines.append(f"{mark[item['state']]:<8}{item['name']:<{width}}{item['detail']}")
        if item["fix"]:
            lines.append(f"{'':<{8 + width}}fix: {item['fix']}")
    missing = sum(item["state"] == "missing" for item in checks)
    lines.append("everything needed is here" if not missing else f"{missing} missing")
    return "\n".join(lines)


def _item(name: str, state: str, detail: str, fix: str = "") -> dict[str, Any]:
    return {"name": name, "state": state, "detail": detail, "fix": fix}


def _python() -> dict[str, Any]:
    fine = sys.version_info >= (3, 11)
    return _item("python", "fine" if fine else "missing", platform.python_version(), "" if fine else "use Python 3.11")


def _package(module: str, name: str) -> dict[str, Any]:
    try:
        importlib.import_module(module)
        return _item(name, "fine", metadata.version(name))
    except (ImportError, OSError, RuntimeError) as error:
        # A wheel that is there but does not load (a missing shared library) must be told apart from none.
        return _item(name, "missing", f"does not import: {error}", f"pip install -c constraints.txt {name}")


def _memory() -> dict[str, Any]:
    import psutil

    free = psutil.virtual_memory().available
    state = "fine" if free > _MIN_MEMORY else "note"
    return _item(
        "memory", state, f"{readable_bytes(free)} available", "" if state == "fine" else "close other programs"
    )


def _disk() -> dict[str, Any]:
    store = store_at()
    root = store.root
    existing = next(path for path in (root, *root.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if not os.access(existing, os.W_OK):
        return _item("store", "missing", f"{root} cannot be written", "set DISTILL2EDGE_STORE to another directory")
    if isinstance(store, SharedStore):
        try:
            store.prepare()
        except UserError as fault:
            return _item("store", "missing", f"{store.name}: {fault.what}", fault.fix)
        return _item("store", "fine", f"{store.name}, with {readable_bytes(free)} free in {root}")
    fix = "" if free > _MIN_DISK else "distill2edge store gc --yes, or set DISTILL2EDGE_STORE"
    return _item("store", "fine" if not fix else "note", f"{root}, {readable_bytes(free)} free", fix)


def _threads() -> dict[str, Any]:
    from distill2edge.util.threads import available_threads

    return _item("threads", "fine", f"{available_threads()} (affinity and cgroup), {os.cpu_count()} processors")


def _sandbox() -> dict[str, Any]:
    """Whether the code of a recipe's `python` checks can be isolated here."""
    from distill2edge.verifiers.sandbox import require_walls

    try:
        require_walls()
    except EnvironmentFault as fault:
        return _item("sandbox of checks", "note", fault.what, fault.fix)
    return _item("sandbox of checks", "fine", "namespaces and a filter of system calls")


def _workers() -> dict[str, Any]:
    """Whether a teacher's work can be shared out, and over which cluster."""
    from distill2edge.recipe.teacher_workers import Workers
    from distill2edge.workers.ray_cluster import address_of, require_answer, require_ray

    try:
        require_ray()
        if address := address_of(Workers.model_validate({"replicas": 1})):
            require_answer(address)
    except EnvironmentFault as fault:
        return _item("workers", "note", fault.what, fault.fix)
    where = f"cluster at {address}" if address else "started here when a recipe asks for it"
    return _item("workers", "fine", f"Ray {metadata.version('ray')}, {where}")


def _gpu() -> list[dict[str, Any]]:
    """The GPU, and with one which runtimes were built for it."""
    try:
        import torch
    except (ImportError, OSError):
        return [_item("gpu", "note", "torch does not import")]
    if not torch.cuda.is_available():
        return [_item("gpu", "note", "none: training and bench run on the CPU")]
    from distill2edge.runtimes.llama_library import gpu_layers, library
    from distill2edge.runtimes.onnx_runtime import providers_of

    items = [_item("gpu", "fine", torch.cuda.get_device_name(0))]
    asked: dict[str, Callable[[], object]] = {
        "llama.cpp": lambda: gpu_layers(library(), "cuda"),
        "ONNX Runtime": lambda: providers_of("cuda"),
        "energy": _energy_of_board,
    }
    for name, ask in asked.items():
        try:
            ask()
            items.append(_item(f"{name} on the gpu", "fine", "yes"))
        except (EnvironmentFault, ImportError, OSError) as error:
            items.append(_item(f"{name} on the gpu", "note", str(error).splitlines()[0], getattr(error, "fix", "")))
    return items


def _energy_of_board() -> None:
    if find_spec("pynvml") is None:
        raise EnvironmentFault("it is not measured: nvidia-ml-py is not installed", fix="pip install nvidia-ml-py")


def _hub() -> dict[str, Any]:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return _item("model hub", "note", "offline by HF_HUB_OFFLINE: local and bundled models only")
    return _item("model hub", "fine", f"cache in {constants.HF_HUB_CACHE}")


def _bundled() -> list[dict[str, Any]]:
    from distill2edge.intake.bundled import cached_path

    items = []
    for name in ("smollm2-135m-instruct", "movie-sentiment"):
        path = cached_path(name)
        detail = str(path) if path else "not here yet: fetched when a recipe needs it"
        items.append(_item(f"bundled:{name}", "fine" if path else "note", detail))
    return items
