"""A student that computes with its weights as the file will store them, while its full-precision weights learn.

Straight-through (Bengio 2013, arXiv 1308.3432): the forward pass reads fake-quantized weights, the backward pass hands
their gradient to the weights behind them as if rounding were not there. With LoRA the grid is applied to W + B A, so
that merging changes nothing. They are quantized again only when the weights behind them have changed: once for each
optimizer step, however many micro-batches it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from distill2edge.errors import UserError
from distill2edge.quantize.scales import TensorGrid


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, quantized: Tensor) -> Tensor:
        ctx.dtype = latent.dtype
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, None]:
        return outer[0].to(ctx.dtype), None


class _Adapted(torch.autograd.Function):
    """x Q^T with Q = W + s B A, fake-quantized; dA and dB as those of plain LoRA, without the gradient of Q."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, quantized: Tensor, a: Tensor, b: Tensor, scaling: float) -> Tensor:
        ctx.scaling = scaling
        ctx.save_for_backward(x, quantized, a, b)
        return x @ quantized.T

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor, None]:
        x, quantized, a, b = ctx.saved_tensors
        g = outer[0].to(quantized.dtype)
        flat_g, flat_x = g.reshape(-1, g.shape[-1]), x.reshape(-1, x.shape[-1])
        low_x = flat_x @ a.to(x.dtype).T
        low_g = flat_g @ b.to(g.dtype)
        da = (low_g.T @ flat_x).to(a.dtype) * ctx.scaling
        db = (flat_g.T @ low_x).to(b.dtype) * ctx.scaling
        return (g @ quantized if ctx.needs_input_grad[0] else None), None, da, db, None


class FakeQuantizedWeight:
    """One matrix: what it is, and what the file would hold of it.

    Attributes:
        grid: that the weight is rounded to.
        latent: the full-precision weight.
        low_rank: (A, B, scaling) where the weight is W + scaling B A.
    """

    def __init__(
        self, grid: TensorGrid, latent: nn.Parameter, dtype: torch.dtype, low_rank: tuple[Any, Any, float] | None = None
    ) -> None:
        self.grid, self.latent, self.dtype, self.low_rank = grid, latent, dtype, low_rank
        self._seen: tuple[int, ...] | None = None
        self._quantized: Tensor | None = None
        self.computed = 0

    def forget(self) -> None:
        """Compute the fake-quantized weights again when they are next asked for.

        Changes of the weights behind them are seen by PyTorch's version counters, which its fused optimizers do not
        raise: `follow` calls this after their steps.
        """
        self._quantized = None

    def full(self) -> Tensor:
        """The weight in full precision, the adapter added as a merge adds it."""
        with torch.no_grad():
            if self.low_rank is None:
                return self.latent.detach()
            a, b, scaling = self.low_rank
            return self.latent.detach() + (b.weight @ a.weight) * scaling

    def quantized(self) -> Tensor:
        """[rows, columns] in the dtype of the products; no gradient."""
        parts = [self.latent] if self.low_rank is None else [self.latent, *(p.weight for p in self.low_rank[:2])]
        versions = tuple(part._version for part in parts)
        if self._quantized is None or self._quantized.device != self.latent.device or versions != self._seen:
            self.grid = self.grid.to(self.latent.device)  # the trainer has moved the weights, where there is a GPU
            self._quantized, self._seen = self.grid.fake_quantized(self.full()).to(self.dtype), versions
            self.computed += 1
        return self._quantized

    def __call__(self) -> Tensor:
        """The fake-quantized weights, whose gradient goes to the latent ones."""
        quantized = self.quantized()
        return _Through.apply(self.latent, quantized) if self.latent.requires_grad else quantized  # type: ignore[no-any-return, no-untyped-call]


def install(student: nn.Module, grids: Mapping[str, TensorGrid], dtype: torch.dtype) -> dict[str, FakeQuantizedWeight]:
    """Make every module whose weight has a grid compute with it.

    Args:
        student: a Hugging Face model with float32 weights, or a PEFT model (LoRA, no dropout) around one.
        grids: name of a weight in the model's state -> its grid. A tied head uses the embedding's.
        dtype: of the products.

    Returns:
        name -> the fake-quantized weight; a module's is also its attribute `fake_quantized`.

    Raises:
        UserError: a grid without a matrix, or of another shape.
    """
    outer: Any = student
    inner: nn.Module = outer.get_base_model() if hasattr(outer, "get_base_model") else outer
    places = {
        _plain(name): module
        for name, module in inner.named_modules(remove_duplicate=False)
        if _matrix(module) is not None and not name.endswith(_INSIDE)
    }
    found: dict[str, FakeQuantizedWeight] = {}
    for name, grid in grids.items():
        module = places.get(name.removesuffix(".weight"))
        if module is None:
            raise UserError(f"no matrix {name} in this model", fix="make the grid from this very model")
        base = _matrix(module)
        if tuple(base.weight.shape) != (len(grid.scale), grid.columns):
            raise UserError(f"the grid of {name} has another shape", fix="make the grid from this very model")
        low_rank = _adapter(module) if hasattr(module, "base_layer") else None
        found[name] = FakeQuantizedWeight(grid, base.weight, dtype, low_rank)
    by_parameter = {id(weight.latent): weight for weight in found.values()}
    for module in places.values():
        base = _matrix(module)
        known = by_parameter.get(id(base.weight))  # a tied one has the grid under one of its names
        if known is not None:
            module.fake_quantized = base.fake_quantized = known  # type: ignore[assignment]
            module.forward = _forward_of(module, base, known)
    return found


def follow(optimizer: torch.optim.Optimizer, weights: Iterable[FakeQuantizedWeight]) -> None:
    """Let fake-quantized weights see every step of an optimizer."""
    watched = list(weights)

    def changed(*_: Any) -> None:
        for weight in watched:
            weight.forget()

    optimizer.register_step_post_hook(changed)


def weight_of(module: Any) -> Tensor:
    """A module's weight as its products should see it."""
    quantized = getattr(module, "fake_quantized", None)
    return module.weight if quantized is None else quantized()


_INSIDE = (".base_layer", ".original_module")  # of what peft wraps: the wrapper does the work
_SAVED = re.compile(r"\.modules_to_save\.[^.]+")


def _plain(name: str) -> str:
    """A module's name without what peft puts around a head that it trains in full."""
    return _SAVED.sub("", name)


def _matrix(module: nn.Module) -> Any:
    base: Any = module.get_base_layer() if hasattr(module, "get_base_layer") else module
    return base if isinstance(base, nn.Linear | nn.Embedding) else None


def _adapter(module: Any) -> tuple[Any, Any, float]:
    (name,) = module.active_adapters
    if getattr(module.lora_dropout[name], "p", 0.0):
        raise UserError("LoRA dropout cannot be trained on a grid: W + B A is rounded as a whole",
                        where="student.lora.dropout", fix="set student.lora.dropout: 0")  # fmt: skip
    return module.lora_A[name], module.lora_B[name], float(module.scaling[name])


def _forward_of(module: Any, base: Any, weight: FakeQuantizedWeight) -> Any:
    if isinstance(base, nn.Embedding):
        return _looked_up(base, weight)
    if weight.low_rank is None:
        return lambda x: F.linear(x.to(weight.dtype), weight(), _bias(base, weight))

    def adapted(x: Tensor) -> Tensor:
        assert weight.low_rank is not None
        a, b, scaling = weight.low_rank
        out: Tensor = _Adapted.apply(x.to(weight.dtype), weight.quantized(), a.weight, b.weight, scaling)  # type: ignore[no-untyped-call]
        bias = _bias(base, weight)
        return out if bias is None else out + bias

    return adapted


def _looked_up(base: Any, weight: FakeQuantizedWeight) -> Any:
    """The lookup's own forward pass, which may scale what it finds, on the fake-quantized table."""
    own = type(base).forward

    def forward(ids: Tensor) -> Tensor:
        base.__dict__["weight"] = weight()  # found before the parameter of that name
        try:
            out: Tensor = own(base, ids)
            return out
        finally:
            del base.__dict__["weight"]

    return forward


def _bias(base: Any, weight: FakeQuantizedWeight) -> Tensor | None:
    return None if base.bias is None else base.bias.to(weight.dtype)
