"""Which kind of model a Hugging Face directory holds (decoder, encoder-decoder, classifier), and how it is read."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.config import usable_positions
from distill2edge.util.files import read_object


def is_encoder_decoder(model_dir: Path | str) -> bool:
    """Whether the directory's config.json says so; False without one."""
    return bool(_config(model_dir).get("is_encoder_decoder"))


def is_classifier(model_dir: Path | str) -> bool:
    """Whether the directory's config.json names a sequence classifier; False without one."""
    names = _config(model_dir).get("architectures")
    return isinstance(names, list) and bool(names) and str(names[0]).endswith("ForSequenceClassification")


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

    Raises:
        UserError: tensors that are missing, unexpected or of another shape.
        ValueError: another kind of model (transformers says which).
    """
    from optimum.exporters.tasks import TasksManager

    return load_checkpoint(TasksManager.get_model_class_for_task(_task(model_dir)), model_dir, **options)


def _task(model_dir: Path | str) -> str:
    """What the model of a directory does, in the hub's terms."""
    if is_classifier(model_dir):
        return "text-classification"
    return "text2text-generation" if is_encoder_decoder(model_dir) else "text-generation"


def logits_of(model: Any, ids: Sequence[int], prompt: int) -> Any:
    """Logits of one text alone: [L, V] of a decoder, [1 + T, V] of an encoder-decoder, [C] of a classifier.

    Args:
        ids: [L] tokens.
        prompt: count of tokens before the response: an encoder-decoder reads those as its source.
    """
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if type(inner).__name__.endswith("ForSequenceClassification"):
        return model(torch.tensor([list(ids)], device=model.device)).logits[0]
    if model.config.is_encoder_decoder:
        inputs = {name: part.to(model.device) for name, part in pair_inputs(model.config, ids, prompt).items()}
        return model(**inputs, use_cache=False).logits[0]
    return model(torch.tensor([list(ids)], device=model.device), use_cache=False).logits[0]


def start_token_id(config: Any) -> int:
    """The token that a decoder's output begins after, in an encoder-decoder."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError("the configuration names no token that a decoder starts from")


def pair_inputs(config: Any, ids: Sequence[int], prompt: int) -> dict[str, Any]:
    """One pair as tensors for an encoder-decoder.

    Args:
        ids: source and target tokens.
        prompt: count of source tokens.

    Returns:
        input_ids [1, S]; decoder_input_ids [1, 1 + T]: the start token and every target token, so that row i of the
        logits is the distribution of target token i, and the last row that of what would follow.
    """
    import torch

    target = [start_token_id(config), *ids[prompt:]]
    return {"input_ids": torch.tensor([list(ids[:prompt])]), "decoder_input_ids": torch.tensor([target])}


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files and the generation settings as they are: rewriting them could change them."""
    names = (
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "generation_config.json",
    )  # fmt: skip
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def context_of(model_dir: Path | str) -> int | None:
    """Tokens that a directory's model reads at most; None where its positions have no end."""
    return usable_positions(_config(model_dir))
