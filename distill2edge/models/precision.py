"""Which floating type a model computes in here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.errors import UserError

if TYPE_CHECKING:
    import torch


def compute_dtype(choice: str, device: str = "cpu") -> torch.dtype:
    """The type that `auto`, `float32` or `bfloat16` stands for on this device.

    `auto` is bfloat16 where the processor multiplies in it (AVX512-BF16, AMX, recent CUDA devices), float32 elsewhere:
    emulated bfloat16 is slower than float32.

    Raises:
        UserError: another name.
    """
    import torch

    named = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if choice in named:
        return named[choice]
    if choice != "auto":
        raise UserError(f"unknown dtype {choice!r}", fix="auto, float32 or bfloat16")
    if device.startswith("cuda"):
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
