"""A model that a recipe names, by what is here of it: nothing is fetched, no weights are read, no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill2edge.intake import bundled
from distill2edge.intake.facts import ModelFacts, model_facts
from distill2edge.models.directory import read_directory
from distill2edge.recipe.paths import locate
from distill2edge.recipe.scratch import Scratch
from distill2edge.util.files import read_object

_MAX_TOKENIZER = 64 << 20  # bytes of a tokenizer.json


@dataclass(frozen=True)
class Glance:
    """A model by its small files.

    Attributes:
        path: a Hugging Face directory, perhaps of the hub's cache without weights, or a GGUF file.
    """

    path: Path
    facts: ModelFacts

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the part that reads and writes text."""
        inner = self.facts.config.get("text_config")
        return inner if isinstance(inner, dict) else dict(self.facts.config)

    @property
    def decoder_layers(self) -> int | None:
        """Blocks of an encoder-decoder's decoder."""
        for name in ("num_decoder_layers", "decoder_layers"):
            if isinstance(value := self.text.get(name), int):
                return value
        return self.facts.layers

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of a directory's tensors; none of a GGUF, which names them otherwise."""
        return tuple(read_directory(self.path).tensors) if self.path.is_dir() else ()

    @property
    def tokenizer(self) -> dict[str, Any] | None:
        """The tokenizer's description; None where there is no tokenizer.json."""
        if not (self.path / "tokenizer.json").is_file():
            return None
        return read_object(self.path / "tokenizer.json", _MAX_TOKENIZER)


def glance(model: str | Scratch | None, revision: str | None = None) -> Glance | None:
    """What is here of a model; None where it is not here yet, runs behind an endpoint, or is randomly initialised.

    Args:
        model: as `teacher.model` names it.

    Raises:
        UserError: files that are here and are not a model.
    """
    path = place_of(model, revision) if isinstance(model, str) else None
    if path is None:
        return None
    return Glance(path, facts_of(path))


def facts_of(path: Path) -> ModelFacts:
    """As `model_facts`, with the header of a GGUF read once in a process: it holds the whole vocabulary.

    Raises:
        UserError: as `model_facts`.
    """
    if path.is_dir():
        return model_facts(path)
    state = path.stat()
    return _gguf_facts(path, state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=8)
def _gguf_facts(path: Path, changed: int, size: int) -> ModelFacts:
    return model_facts(path)


def place_of(model: str, revision: str | None = None) -> Path | None:
    """The directory or GGUF file of a model that is here already; None for every other."""
    if model.startswith("bundled:"):
        entry = bundled.BUNDLED.get(model.removeprefix("bundled:"))
        path = bundled.cached_path(entry.name) if entry is not None and entry.kind in bundled.MODELS else None
    else:
        path = locate(model)
        path = path if path.exists() else _cached(model, revision)
    if path is not None and path.is_dir() and not (path / "config.json").is_file():
        files = list(path.glob("*.gguf"))
        path = files[0] if len(files) == 1 else None
    if path is not None and path.is_file() and path.suffix.lower() != ".gguf":
        return None
    return path


def _cached(model: str, revision: str | None) -> Path | None:
    """The folder of the hub's local cache that holds the model's configuration."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model) or len(model) > 96:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except (HFValidationError, OSError, ValueError):  # no name or revision that a hub has
        return None
    return Path(found).parent if isinstance(found, str) else None
