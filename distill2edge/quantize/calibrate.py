"""The calibration stage: statistics of a model's activations, from which every file of it is rounded.

They are llama.cpp's importance matrix and, for rounding that compensates its errors and for mixes, the products of
activations.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill2edge.gguf.hf_layout import names_to_gguf
from distill2edge.models.loading import load_model
from distill2edge.quantize.activation_statistics import FEW_TOKENS
from distill2edge.quantize.activations import Activations, check_disjoint, gather_activations, read_activations
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

_FACTS = "calibration.json"


def write_calibration(
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
    """Write `imatrix.gguf` and `calibration.json`; with `grams` also the products of activations.

    Args:
        model_dir: the model in Hugging Face's layout.
        rows: id -> token ids of each calibration row.
        held_out: ids of the rows that evaluate; none of them may calibrate.
        max_tokens: rows beyond this many tokens are left out.
        dataset: where the rows come from, for the file's metadata.
        grams: also keep [columns, columns] x x^T of every linear layer: for GPTQ, and for mixes of types.

    Returns:
        {schema_version, rows, tokens, tensors, few}.

    Raises:
        UserError: rows that overlap with the held-out ones, none at all, an architecture whose tensors have no GGUF
            names here, or activations that are not finite.
    """
    import torch

    check_disjoint(rows, held_out)
    model = load_model(model_dir, dtype=torch.float32).eval()
    activations, tokens = gather_activations(
        model,
        names_to_gguf(model_dir),
        list(rows.values()),
        work,
        progress,
        max_tokens=max_tokens,
        dataset=dataset,
        grams=grams,
    )
    facts = {
        "schema_version": 1,
        "rows": len(rows),
        "tokens": tokens,
        "tensors": len(activations.importance),
        "few": tokens < FEW_TOKENS,
    }
    write_json(Path(work) / _FACTS, {**facts, **activations.table()})
    return facts


def read_calibration(directory: Path) -> Activations:
    """What `write_calibration` wrote with `grams`; the products stay on the disk."""
    return read_activations(directory, _FACTS)


def read_calibration_facts(directory: Path) -> dict[str, Any]:
    """What `write_calibration` returned."""
    document: dict[str, Any] = read_json(Path(directory) / _FACTS)
    return {key: value for key, value in document.items() if key not in ("sources", "grams")}
