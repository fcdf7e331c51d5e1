"""The calibration stage: activation statistics of a merged model, kept as llama.cpp's importance matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill2edge.gguf.hf_layout import names_to_gguf
from distill2edge.gguf.imatrix import write_imatrix
from distill2edge.models.loading import load_model
from distill2edge.quantize.activation_statistics import FEW_TOKENS, collect
from distill2edge.quantize.activations import (
    IMATRIX,
    Activations,
    check_disjoint,
    enough,
    gather_activations,
    importance_of,
    read_activations,
)
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

_FACTS = "calibration.json"


def write_importance(
    model_dir: Path,
    rows: Mapping[str, Sequence[int]],
    held_out: Collection[str],
    work: Path,
    progress: Progress,
    *,
    max_tokens: int,
    dataset: str,
    grams: bool = False,
) -> dict[str, Any]:
    """Write `imatrix.gguf` and `calibration.json`; with `grams` also the products of activations, for GPTQ.

    Args:
        model_dir: merged model.
        rows: id -> token ids of each calibration row.
        held_out: ids of the rows that evaluate; none of them may calibrate.
        max_tokens: rows beyond this many tokens are left out.
        dataset: where the rows come from, for the file's metadata.

    Returns:
        {schema_version, rows, tokens, tensors, few}.

    Raises:
        UserError: rows that overlap with the held-out ones, none at all, an architecture whose tensors have no GGUF
            names here, or activations that are not finite.
    """
    import torch

    check_disjoint(rows, held_out)
    names = names_to_gguf(model_dir)
    model, chosen = load_model(model_dir, dtype=torch.float32).eval(), list(rows.values())
    table: dict[str, Any] = {}
    if grams:
        activations, tokens = gather_activations(
            model, names, chosen, work, progress, max_tokens=max_tokens, dataset=dataset
        )
        table, tensors = activations.table(), len(activations.importance)
    else:
        importance = importance_of(collect(model, chosen, progress, max_tokens=max_tokens), names, dataset)
        tokens, tensors = enough(importance, progress), len(importance.sums)
        write_imatrix(Path(work) / IMATRIX, importance)
    facts = {"schema_version": 1, "rows": len(rows), "tokens": tokens, "tensors": tensors, "few": tokens < FEW_TOKENS}
    write_json(Path(work) / _FACTS, facts | table)
    return facts


def read_calibration(directory: Path) -> Activations:
    """What `write_importance` wrote with `grams`."""
    return read_activations(directory, _FACTS)
