"""Trained weights to one dense float32 model: checked before and after, and compared with what quantization will do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_adapter
from distill2edge.models.kinds import logits_of
from distill2edge.models.loading import copy_tokenizer, load_model
from distill2edge.quantize.schemes import Scheme
from distill2edge.util.allocator import give_back_memory, resident_bytes
from distill2edge.util.files import write_json

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from distill2edge.data.examples import Encoded

TOLERANCE = 1e-3
"""Largest difference of a logit before and after, relative to the largest logit. Both sides are float32, where the
reordered sums differ by some 1e-6; a lost or doubled adapter differs by 1e-1."""

_ROWS, _TOKENS = 16, 512


def merge(
    model_dir: Path, trained_dir: Path, rows: Sequence[Encoded], schemes: Sequence[Scheme], work: Path
) -> dict[str, Any]:
    """Write `work/model`: the base with `trained_dir/adapter` merged in, or `trained_dir/model`, dense in float32.

    Also writes `work/merge.json`: the difference of the logits before and after, and for each scheme and trained
    tensor the size of the update against the scheme's rounding step (`survival`).

    Args:
        model_dir: the base that was trained, with its tokenizer.
        rows: real rows on which logits are compared; some are taken.

    Returns:
        facts: kind, parameters, logit differences, and the least ratio per scheme.

    Raises:
        UserError: a quantized base, or nothing trained in `trained_dir`.
        ArithmeticError: the merged model is another function than the trained one.
    """
    import torch

    model_dir, trained_dir, work = Path(model_dir), Path(trained_dir), Path(work)
    if not rows:
        raise UserError("there are no rows to compare the merged model on", fix="give data.splits.train some rows")
    for directory in (model_dir, trained_dir / "model"):
        _refuse_quantized(directory)
    target, held = work / "model", resident_bytes()
    kind, before = _save_merged(model_dir, trained_dir, rows, target)
    give_back_memory(held)
    # From the disk: what ships is what is compared.
    saved: Any = load_model(target, dtype=torch.float32).eval()
    difference = _compare(before, _logits(saved, rows))
    del before
    untrained: Any = load_model(model_dir, dtype=torch.float32)
    old, new = dict(untrained.named_parameters()), dict(saved.named_parameters())
    survival = {str(scheme): list(_survival(old, new, scheme)) for scheme in schemes}
    parameters = saved.num_parameters()
    record = {
        "schema_version": 1,
        "kind": kind,
        "parameters": parameters,
        **difference,
        "survival": survival,
    }
    write_json(work / "merge.json", record)
    least = {scheme: min((entry["ratio"] for entry in entries), default=None) for scheme, entries in survival.items()}
    return {"kind": kind, "parameters": parameters, **difference, "least_ratio": least}


def _save_merged(model_dir: Path, trained_dir: Path, rows: Sequence[Encoded], target: Path) -> tuple[str, list[Tensor]]:
    """Write the merged model with its tokenizer.

    Returns:
        kind (`adapter` or `full`), and the trained model's logits before anything was merged.
    """
    import torch

    if (trained_dir / "adapter").is_dir():
        base: Any = load_model(model_dir, dtype=torch.float32).eval()
        adapted = load_adapter(base, trained_dir / "adapter").eval()
        kind, before = "adapter", list(_logits(adapted, rows))
        merged: Any = adapted.merge_and_unload(safe_merge=True)
    elif (trained_dir / "model").is_dir():
        merged = load_model(trained_dir / "model", dtype=torch.float32).eval()
        kind, before = "full", list(_logits(merged, rows))
    else:
        raise UserError("neither adapter/ nor model/ is there", where=str(trained_dir), fix="run the training first")
    if hasattr(merged.config, "use_cache"):
        merged.config.use_cache = True
    shutil.rmtree(target, ignore_errors=True)
    merged.save_pretrained(target)
    copy_tokenizer(model_dir, target)
    return kind, before


def _refuse_quantized(directory: Path) -> None:
    path = directory / "config.json"
    if path.is_file() and json.loads(path.read_text()).get("quantization_config"):
        raise UserError(
            "the base is quantized: merging into it would round the adapter away",
            where=str(directory),
            fix="merge into the 16 or 32-bit weights, and quantize after that",
        )


def _logits(model: Any, rows: Sequence[Encoded]) -> Iterator[Tensor]:
    """[L, V] (of a classifier [C]) of some rows, evenly taken, each alone: no padding can hide a difference."""
    import torch

    step = max(1, len(rows) // _ROWS)
    for row in rows[::step][:_ROWS]:
        types = None if row.types is None else row.types[:_TOKENS]
        with torch.no_grad():
            yield logits_of(model, row.ids[:_TOKENS], row.prompt_length, types)


def _compare(before: Iterable[Tensor], after: Iterable[Tensor]) -> dict[str, float]:
    import torch

    tops, sums = [], []
    for was, now in zip(before, after, strict=True):
        difference = (now - was).abs()
        tops.append(torch.stack([difference.max(), was.abs().max()]))
        sums.append((float(difference.sum()), difference.numel()))
    largest, scale = torch.stack(tops).amax(0).tolist()
    total, count = map(sum, zip(*sums, strict=True))
    # Written so that NaN fails too.
    if not largest <= TOLERANCE * max(scale, 1.0):
        raise ArithmeticError(
            f"the merged model differs from the trained one: logits by {largest:.3g}, of at most {scale:.3g}; "
            "nothing was published"
        )
    return {"max_logit_difference": largest, "mean_logit_difference": total / count, "max_logit": scale}


def _survival(old: Mapping[str, Tensor], new: Mapping[str, Tensor], scheme: Scheme) -> Iterator[dict[str, Any]]:
    """Trained matrices: rms of the update against the scheme's rms step.

    Rounding to a step d adds noise of rms d / sqrt(12), so from a ratio of about 0.3 down the update of a single weight
    is below the rounding noise. It can still survive in the sum over many weights: a low ratio is a warning to look at
    the file's fidelity, not a verdict.
    """
    from distill2edge.quantize.rounding_step import rounding_step

    for name, weight in new.items():
        if weight.ndim != 2 or name not in old or old[name].shape != weight.shape:
            continue
        delta = _rms(weight.detach() - old[name])
        if delta == 0:
            continue
        step = rounding_step(weight.detach(), scheme)
        yield {"tensor": name, "delta_rms": delta, "step": step, "ratio": delta / step if step else None}


def _rms(values: torch.Tensor) -> float:
    return float(values.detach().double().square().mean().sqrt())
