"""The tokenizer that ships with a model: as it was trained, without the paddings and paths of where it came from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from distill2edge.data.model_inputs import InputForm
from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError
from distill2edge.gguf.corpus import TEXTS
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.util.files import write_json, write_text

_COPIED = (
    "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt",
    "merges.txt",
)  # fmt: skip
_TEMPLATE, _CONFIG, _GENERATION = "chat_template.jinja", "tokenizer_config.json", "generation_config.json"
# Of the machine that saved it, or of a batch there.
_DROPPED = frozenset(
    {
        "name_or_path", "tokenizer_file", "vocab_file", "merges_file", "special_tokens_map_file", "auto_map",
        "chat_template", "padding", "max_length", "pad_to_multiple_of", "stride", "truncation", "truncation_strategy",
        "truncation_side",
    }
)  # fmt: skip


def write_tokenizer(
    tokenizer: Any, model_dir: Path, form: InputForm, template: str | None, limit: int | None, directory: Path
) -> list[str]:
    """Write the tokenizer, its chat template and the model's settings beside a graph, or into the model's directory.

    A classifier's tokenizer cuts texts at `limit`, as training did. A generator's cuts none: an answer to half a
    prompt is worse than a refusal. Nothing pads.

    Args:
        tokenizer: of transformers, as the model was trained with.
        model_dir: the model's settings, and files of the tokenizer besides tokenizer.json; may be `directory`.
        template: the chat template of the file.
        limit: tokens of a classifier's text.

    Returns:
        names of the files.

    Raises:
        UserError: a tokenizer that cannot be written as tokenizer.json, or reads otherwise from the directory.
    """
    written = ["tokenizer.json"]
    core = bare_core(tokenizer, str(model_dir))
    if not form.reading.answers and limit is not None:
        core.enable_truncation(limit)
    write_text(directory / "tokenizer.json", core.to_str(pretty=True))
    for name in _COPIED:
        if (model_dir / name).is_file():
            if model_dir != directory:
                shutil.copyfile(model_dir / name, directory / name)
            written.append(name)
    config = _read(model_dir / _CONFIG) or {"tokenizer_class": "PreTrainedTokenizerFast"}
    config = {key: value for key, value in config.items() if key not in _DROPPED}
    if not form.reading.answers and limit is not None:
        config["model_max_length"] = limit
    write_json(directory / _CONFIG, config)
    written.append(_CONFIG)
    (directory / _TEMPLATE).unlink(missing_ok=True)
    if template:
        write_text(directory / _TEMPLATE, template)
        written.append(_TEMPLATE)
    generation = _read(model_dir / _GENERATION)
    if form.stop and form.reading.answers:
        generation = _stopping(generation or {}, form)
    if generation is not None:
        write_json(directory / _GENERATION, generation)
        written.append(_GENERATION)
    settings = _read(model_dir / "config.json")
    if settings is not None:
        write_json(directory / "config.json", {key: value for key, value in settings.items() if key != "_name_or_path"})
        written.append("config.json")
    _check(tokenizer, core, directory)
    return written


def bare_core(tokenizer: Any, where: str) -> Any:
    """A copy of the fast tokenizer inside, which cuts and pads nothing.

    Raises:
        UserError: there is none.
    """
    from tokenizers import Tokenizer

    inside = getattr(tokenizer, "backend_tokenizer", None)
    if inside is None:
        raise UserError(
            "only fast tokenizers (tokenizer.json) can be shipped", where=where, fix="save the tokenizer as a fast one"
        )
    core = Tokenizer.from_str(inside.to_str())
    core.no_padding()
    core.no_truncation()
    return core


def _check(tokenizer: Any, core: Any, directory: Path) -> None:
    """tokenizer.json alone, and the directory as transformers reads it, must give the ids of the trained tokenizer."""
    core.no_truncation()
    again = load_tokenizer(directory)
    trained = tokenize(tokenizer, TEXTS, special=True)
    alone = [encoding.ids for encoding in core.encode_batch(list(TEXTS))]
    reread = tokenize(again, TEXTS, special=True)
    for name, found in (("tokenizer.json", alone), ("the directory", reread)):
        for text, wanted, got in zip(TEXTS, trained, found, strict=True):
            if got != wanted:
                raise UserError(
                    f"written out, {name} reads {text!r} as {got[:20]}, the model's tokenizer as {wanted[:20]}",
                    where=str(directory),
                    fix="save the model's tokenizer again with the installed transformers",
                )


def _stopping(generation: dict[str, Any], form: InputForm) -> dict[str, Any]:
    known = generation.get("eos_token_id")
    others = [] if known is None else known if isinstance(known, list) else [known]
    ends = list(dict.fromkeys([*form.stop, *others]))
    return {**generation, "eos_token_id": ends[0] if len(ends) == 1 else ends}


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None
