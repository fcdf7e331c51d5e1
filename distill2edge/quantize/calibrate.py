"""The calibration stage: activation statistics of a merged model, kept as llama.cpp's importance matrix."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill2edge.architectures import load_model
from distill2edge.errors import UserError
from distill2edge.files import read_json, write_json
from distill2edge.gguf_format.families import by_model_type, refuse
from distill2edge.gguf_format.imatrix import Importance, write_imatrix
from distill2edge.progress import Progress
from distill2edge.quantize.statistics import FEW_TOKENS, Statistics, collect


def write_importance(
    model_dir: Path,
    rows: Mapping[str, Sequence[int]],
    held_out: Collection[str],
    work: Path,
    progress: Progress,
    *,
    max_tokens: int,
    dataset: str,
) -> dict[str, Any]:
    """Write `imatrix.gguf` and `calibration.json`.

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
    names = gguf_names(model_dir)
    found = collect(
        load_model(model_dir, dtype=torch.float32).eval(), list(rows.values()), progress, max_tokens=max_tokens
    )
    importance = importance_of(found, names, dataset)
    tokens = enough(importance, progress)
    write_imatrix(Path(work) / "imatrix.gguf", importance)
    facts = {
        "schema_version": 1,
        "rows": len(rows),
        "tokens": tokens,
        "tensors": len(importance.sums),
        "few": tokens < FEW_TOKENS,
    }
    write_json(Path(work) / "calibration.json", facts)
    return facts


def check_disjoint(rows: Collection[str], held_out: Collection[str]) -> None:
    """Refuse calibration rows that evaluate too.

    Raises:
        UserError: ids that are in both.
    """
    shared = sorted(set(rows) & set(held_out))
    if shared:
        raise UserError(
            f"{len(shared)} calibration rows are held-out rows too, for instance {shared[0]}",
            where="data.splits.calibration",
            fix="remove duplicates from the data, or set quantize.calibration: none",
        )


def importance_of(found: Statistics, names: Mapping[str, str], dataset: str) -> Importance:
    """Squared inputs by the names of a GGUF."""
    sums = {names[name]: value.numpy() for name, value in found.squares.items() if name in names}
    return Importance(sums, {names[name]: found.tokens[name] for name in found.squares if name in names}, [dataset])


def enough(importance: Importance, progress: Progress) -> int:
    """Calibration tokens; warned of where they are few."""
    tokens = max(importance.counts.values())
    if tokens < FEW_TOKENS:
        progress.warn(f"only {tokens} calibration tokens: {FEW_TOKENS:,} or more give steadier statistics")
    return tokens


def gguf_names(model_dir: Path) -> dict[str, str]:
    """Hugging Face weight name -> GGUF tensor name; a tied head is the embedding's tensor.

    Raises:
        UserError: an architecture without a map.
    """
    config = read_json(Path(model_dir) / "config.json")
    family = by_model_type(config.get("model_type", "unknown"))
    if family is None:
        raise refuse(config.get("model_type", "unknown"), str(model_dir))
    names = {theirs: ours for ours, theirs in family.names(config["num_hidden_layers"]).items()}
    if config.get("tie_word_embeddings", True) and "lm_head.weight" in names:
        names["lm_head.weight"] = "token_embd.weight"
    return names
