"""Keeps freed memory in the process during a stage, and gives it back after it.

glibc gives every large block back to the kernel when it is freed, and the next step pays for it again in page
faults: half of the time of a training step on a small CPU. Both limits are those of mallopt(3).
"""

from __future__ import annotations

import ctypes
import gc
import sys
from typing import Any

import psutil

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_WORTH_IT = 2**28
"""Bytes that a process holds more than before; PyTorch and transformers alone are twice that."""


def keep_freed_memory() -> bool:
    """Serve large blocks from the heap and do not trim it. Returns whether the allocator took it (glibc only)."""
    mallopt = _of_glibc("mallopt")
    return mallopt is not None and bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def resident_bytes() -> int:
    """What this process holds of the memory."""
    return int(psutil.Process().memory_info().rss)


def give_back_memory(since: int = 0) -> None:
    """Give back what is free to the kernel, and to the driver of a GPU: the next stage and its processes need it.

    Args:
        since: what the process held before the work that is done. Where it holds little more, it is left alone: to look
            for what is free takes a quarter of a second.
    """
    torch = sys.modules.get("torch")
    on_gpu = torch is not None and torch.cuda.is_initialized()
    if not on_gpu and resident_bytes() - since < _WORTH_IT:
        return
    gc.collect()
    if torch is not None and on_gpu:
        torch.cuda.empty_cache()
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it is another (musl, macOS)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
