"""A Hugging Face directory read: its configuration, its model in the class of its kind, its tokenizer's files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.config import usable_positions
from distill2edge.models.id_map import MAP_FILE
from distill2edge.models.kinds import kind_of_directory
from distill2edge.models.placement import WHOLE, Placement, to_device
from distill2edge.util.files import read_object


def read_config(model_dir: Path | str) -> dict[str, Any]:
    """The directory's config.json.

    Raises:
        UserError: there is none.
    """
    path = Path(model_dir) / "config.json"
    if not path.is_file():
        raise UserError("not a Hugging Face directory: config.json is missing", where=str(model_dir),
                        fix="give a Hugging Face model directory")  # fmt: skip
    return _config(model_dir)


def _config(model_dir: Path | str) -> dict[str, Any]:
    path = Path(model_dir) / "config.json"
    return read_object(path) if path.is_file() else {}


def load_model(model_dir: Path | str, **options: Any) -> Any:
    """The model of a directory in the class with its head, every tensor there and none left over.

    Args:
        options: of `load_checkpoint`.

    Raises:
        UserError: tensors that are missing, unexpected or of another shape.
        ValueError: another kind of model (transformers says which).
    """
    from optimum.exporters.tasks import TasksManager

    kind = kind_of_directory(model_dir)
    loaded = TasksManager.get_model_class_for_task(kind.hub_task)
    return load_checkpoint(loaded, model_dir, **kind.options(_config(model_dir)), **options)


def load_to_run(model_dir: Path | str, dtype: Any, device: str = "cpu", placement: Placement = WHOLE) -> Any:
    """As `load_model`, in eval mode and without gradients, on a device or where `placement` shares it out.

    Args:
        dtype: of torch, that it computes in.
    """
    model = load_model(model_dir, dtype=dtype, placement=placement)
    return to_device(model, device, placement).eval().requires_grad_(False)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files, the map of its ids and the generation settings as they are: rewriting them could
    change them."""
    names = (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "generation_config.json",
        MAP_FILE,
    )  # fmt: skip
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def context_of(model_dir: Path | str) -> int | None:
    """Tokens that a directory's model reads at most; None where its positions have no end."""
    return usable_positions(_config(model_dir))
