"""A Hugging Face directory loaded in the class that it was saved as, so that its head is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.files import read_json


def load_saved(model_dir: Path, dtype: Any = "auto") -> Any:
    """The model, in eval mode.

    Args:
        dtype: a torch dtype, its name, or `auto` for the stored one.

    Raises:
        UserError: transformers has no such class.
    """
    import transformers

    path = Path(model_dir) / "config.json"
    architectures = read_json(path).get("architectures") or []
    cls = getattr(transformers, architectures[0], None) if architectures else transformers.AutoModel
    if cls is None:
        raise UserError(f"transformers has no class {architectures[0]}", where=str(path),
                        fix="save the model with transformers")  # fmt: skip
    return cls.from_pretrained(model_dir, dtype=dtype, local_files_only=True).eval()
