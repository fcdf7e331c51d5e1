"""Which kind of model a Hugging Face directory holds: a decoder, or a classifier."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def is_classifier(model_dir: Path | str) -> bool:
    """Whether the directory's config.json names a sequence classifier; False without one."""
    path = Path(model_dir) / "config.json"
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") if path.is_file() else None
    return bool(names) and str(names[0]).endswith("ForSequenceClassification")


def load_model(model_dir: Path | str, **options: Any) -> Any:
    """`from_pretrained` of the class with the directory's head. Local files, no remote code.

    Raises:
        ValueError: another kind of model (transformers says which).
    """
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    kind: Any = AutoModelForSequenceClassification if is_classifier(model_dir) else AutoModelForCausalLM
    return kind.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False, **options)


def logits_of(model: Any, ids: Any) -> Any:
    """Logits of [1, L] ids, each text alone: [L, V] of a language model, [C] of a classifier."""
    if _classifies(model):
        return model(ids).logits[0]
    return model(ids, use_cache=False).logits[0]


def _classifies(model: Any) -> bool:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(inner).__name__.endswith("ForSequenceClassification")
