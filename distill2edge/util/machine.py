"""The machine and the versions behind a figure."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "distill2edge", "torch", "transformers", "peft", "onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-genai",
    "llama-cpp-python", "gguf", "tokenizers", "datasets", "accelerate", "numpy",
)  # fmt: skip


def machine() -> dict[str, Any]:
    """CPU model, logical cores of the host and those usable, memory in bytes, system, Python, package versions."""
    from distill2edge.util.threads import available_threads

    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count() or 1,
        "usable_threads": available_threads(),
        "memory_bytes": memory_bytes(),
        "gpu": gpu_names(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
    }


def versions(packages: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones among `packages`."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_rss_bytes() -> int:
    """The most memory this process held.

    From the kernel's high-water mark of this address space: `ru_maxrss` also remembers the parent, whose pages a
    child has until it starts its own program.
    """
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return int(psutil.Process().memory_info().peak_wset)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name; the architecture where the system does not say it."""
    try:
        for line in cpuinfo.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "Hardware") and value.strip():
                return value.strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def memory_bytes() -> int:
    """Physical memory; a cgroup may grant less."""
    import psutil

    return int(psutil.virtual_memory().total)


def gpu_names() -> list[str]:
    """Names of the NVIDIA devices, from the driver's own files, so that no CUDA context is made."""
    names = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                names.append(line.partition(":")[2].strip())
    return names
