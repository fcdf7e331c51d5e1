"""`genai_config.json`: what ONNX Runtime GenAI wants beside a graph and its tokenizer."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from distill2edge.util.files import write_json

_DEFAULT_LENGTH = 2048


def write_genai_config(built: dict[str, Any], model_dir: Path, directory: Path) -> None:
    """Write the config of a decoder.

    Args:
        built: what the model builder wrote for this model.
        model_dir: its Hugging Face directory, whose generation settings say where a text ends.
        directory: where `model.onnx` lies.
    """
    config = copy.deepcopy(built)
    config["model"]["decoder"]["filename"] = "model.onnx"
    for key in ("eos_token_id", "pad_token_id", "bos_token_id"):
        value = special_id(model_dir, key)
        if value is not None:
            config["model"][key] = value
    # the cache is allocated for max_length positions at once: the full context of a long-context model is gigabytes
    config["search"]["max_length"] = min(int(config["model"]["context_length"]), _DEFAULT_LENGTH)
    write_json(directory / "genai_config.json", config)


def special_id(model_dir: Path, key: str) -> int | list[int] | None:
    """A token id (or several, for the end of a text) from generation_config.json, else config.json."""
    for name in ("generation_config.json", "config.json"):
        path = model_dir / name
        if path.is_file():
            value = json.loads(path.read_text(encoding="utf-8")).get(key)
            if value is not None:
                return value  # type: ignore[no-any-return]
    return None
