"""The files of a Hugging Face model directory: which ones are taken, and what they say."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.teacher.vocabulary import vocabulary_hash

# Everything a model needs and nothing that runs: weights are safetensors, the rest is text.
SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "chat_template.jinja", "chat_template.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
)  # fmt: skip
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


def wanted(directory: Path, where: str) -> list[str]:
    """Names of the files to take, weights included, all directly in the directory.

    Raises:
        UserError: no config, no safetensors, or an index that names other files.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory} has no config.json", where=where, fix="give a Hugging Face model directory")
    if (directory / INDEX).is_file():
        try:
            weights = sorted(set(json.loads((directory / INDEX).read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{INDEX} is damaged: {error}", where=str(directory), fix="get it again") from error
        bad = [name for name in weights if not re.fullmatch(r"[\w.-]+\.safetensors", str(name))]
        missing = [name for name in weights if name not in bad and not (directory / name).is_file()]
        if bad or missing:
            what = f"names {bad[0]!r}, no safetensors file" if bad else f"names {missing[0]}, which is missing"
            raise UserError(f"{INDEX} {what}", where=str(directory), fix="get the model again, all its files")
        weights.append(INDEX)
    elif (directory / SINGLE).is_file():
        weights = [SINGLE]
    else:
        pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES)
        what = f"only pickle weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise UserError(
            f"{directory} has {what}",
            where=where,
            fix="convert them where you trust them: load the model and save_pretrained(...), which writes safetensors",
        )
    return [name for name in SMALL if (directory / name).is_file()] + weights


def take(directory: Path, out: Path, where: str, *, link: bool) -> None:
    """Bring the files over: hard links from caches that never change a file, copies of the user's own."""
    for name in wanted(directory, where):
        source = (directory / name).resolve()
        if link:
            try:
                os.link(source, out / name)
                continue
            except OSError:  # another file system
                pass
        try:
            shutil.copyfile(source, out / name)
        except OSError as error:
            raise EnvironmentFault(
                f"can't copy {name}: {error.strerror}", where=str(out), fix="free some space, or mend the permissions"
            ) from error


def describe(out: Path, where: str) -> dict[str, Any]:
    """Facts of a model directory, without loading the weights.

    Raises:
        UserError: an architecture that is not in transformers, a quantized or damaged model, or no tokenizer.
    """
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoTokenizer

    try:
        config = AutoConfig.from_pretrained(out, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        raise UserError(
            f"not a model that transformers knows without remote code: {str(error).splitlines()[0]}",
            where=where,
            fix="take a model whose architecture is part of transformers",
        ) from error
    if getattr(config, "quantization_config", None):
        raise UserError(
            "the model is quantized already", where=where, fix="take the checkpoint it was quantized from, or a GGUF"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=False, local_files_only=True)
    except (ValueError, OSError) as error:
        raise UserError(
            f"no usable tokenizer: {str(error).splitlines()[0]}", where=where, fix="put tokenizer.json beside the model"
        ) from error
    parameters, types = 0, set()
    for path in sorted(out.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as shard:
                for name in shard.keys():  # noqa: SIM118 (not a dict)
                    piece = shard.get_slice(name)
                    if not piece.get_dtype().startswith(("F", "BF")):
                        continue  # position tables of encoders
                    parameters += math.prod(piece.get_shape())
                    types.add(piece.get_dtype())
        except (SafetensorError, OSError) as error:
            raise UserError(f"{path.name} is damaged: {error}", where=where, fix="get the file again") from error
    text = config.get_text_config()
    return {
        "architecture": config.model_type,
        "parameters": parameters,
        "dtype": sorted(types),
        "layers": getattr(text, "num_hidden_layers", None),
        "hidden": getattr(text, "hidden_size", None),
        "vocabulary": getattr(text, "vocab_size", None),
        "context": getattr(text, "max_position_embeddings", None),
        "tied": bool(getattr(text, "tie_word_embeddings", False)),
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "chat_template": bool(getattr(tokenizer, "chat_template", None)),
        "vocabulary_hash": vocabulary_hash(tokenizer),
    }
