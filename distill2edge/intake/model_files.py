"""The files of a Hugging Face model directory: which ones are taken, and what they say."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake.tokenizer_files import open_tokenizer
from distill2edge.intake.vocabularies import vocabulary_hash
from distill2edge.models.checkpoint import check_tensors, load_config, load_tokenizer, refusals
from distill2edge.models.config import check_fields, usable_positions
from distill2edge.models.directory import INDEX, SINGLE, Directory, read_directory, weight_files
from distill2edge.models.kinds import PAIRS, misstates
from distill2edge.models.pooling import MODULES, POOLING
from distill2edge.models.shape import shape_of
from distill2edge.util.files import read_object

# Everything a model needs and nothing that runs: weights are safetensors, the rest is text.
SMALL = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model",
    "chat_template.jinja", "chat_template.json", "README.md", "LICENSE", "LICENSE.txt", "LICENSE.md", "NOTICE",
    MODULES, POOLING,
)  # fmt: skip
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
_BLOCK = 1 << 24  # weights that are looked at together


def wanted(directory: Path, where: str) -> list[str]:
    """Names of the files to take, weights included.

    Raises:
        UserError: no config, no safetensors, or an index that names other files.
    """
    if not (directory / "config.json").is_file():
        raise UserError(f"{directory} has no config.json", where=where, fix="give a Hugging Face model directory")
    weights = weight_files(directory)
    if not weights:
        pickles = sorted(path.name for path in directory.iterdir() if path.suffix in _PICKLES)
        what = f"only pickle weights ({', '.join(pickles[:3])}), which can run code" if pickles else "no weights"
        raise UserError(
            f"{directory} has {what}",
            where=where,
            fix="convert them where you trust them: load the model and save_pretrained(...), which writes safetensors",
        )
    if weights != [SINGLE] or (directory / INDEX).is_file():
        weights.append(INDEX)
    return [name for name in SMALL if (directory / name).is_file()] + weights


def take(directory: Path, out: Path, where: str, *, link: bool) -> None:
    """Bring the files over: hard links from caches that never change a file, copies of the user's own."""
    names = wanted(directory, where)
    read_directory(directory)  # before gigabytes are copied
    for name in names:
        source = (directory / name).resolve()
        (out / name).parent.mkdir(exist_ok=True)
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
                f"can't copy {name}: {error.strerror}",
                where=str(out),
                fix="free some space, or change its permissions",
            ) from error


def describe(out: Path, where: str) -> dict[str, Any]:
    """Facts of a model directory, after every check that its files can be put to.

    Raises:
        UserError: an architecture that is not in transformers, a quantized or damaged model, tensors that are missing,
            unexpected, misshapen or not finite, no tokenizer, or one that is hostile or of another model.
    """
    found = read_directory(out)
    if found.config.get("quantization_config"):
        raise UserError(
            "the model is quantized already", where=where, fix="take the checkpoint it was quantized from, or a GGUF"
        )
    generation = out / "generation_config.json"
    if generation.is_file():
        check_fields(read_object(generation), generation, vocabulary=found.vocabulary)
    config = load_config(out)
    if misstates(config, found.config):
        raise UserError(f"a {config.model_type} says otherwise there",
                        where=f"{out / 'config.json'}: {PAIRS}",
                        fix="download the file again")  # fmt: skip
    tokenizer = open_tokenizer(out, found.vocabulary)
    kind = saved_class(config, out)
    # A body that was saved without its pooler is whole: nothing here reads what the pooler computes of it.
    model = check_tensors(kind, out, new_head=not kind.__name__.partition("For")[2], dtype="auto")
    _check_values(found)
    _check_tied(getattr(model, "all_tied_weights_keys", {}), found)
    types = sorted({each.dtype for each in found.tensors.values() if each.dtype.startswith(("F", "BF"))})
    return _facts(config, tokenizer, found.parameters, types)


def describe_light(out: Path, parameters: int) -> dict[str, Any]:
    """As `describe`, of configuration and tokenizer alone, whose weights are elsewhere."""
    return _facts(load_config(out), load_tokenizer(out), parameters, [])


def _facts(config: Any, tokenizer: Any, parameters: int, types: list[str]) -> dict[str, Any]:
    text = config.get_text_config()
    shape = shape_of(text)
    return {
        "architecture": config.model_type,
        "parameters": parameters,
        "dtype": types,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "vocabulary": shape.vocabulary,
        "context": usable_positions(text),
        "tied": bool(getattr(text, "tie_word_embeddings", False)),
        "bos": tokenizer.bos_token_id,
        "eos": tokenizer.eos_token_id,
        "pad": tokenizer.pad_token_id,
        "chat_template": bool(getattr(tokenizer, "chat_template", None)),
        "vocabulary_hash": vocabulary_hash(tokenizer),
    }


def saved_class(config: Any, model_dir: Path) -> Any:
    """The class of transformers that a directory was saved as, so that its head is looked at too.

    Raises:
        UserError: transformers has no such class, or none of that name for models.
    """
    import transformers

    names = config.architectures or []
    if not names:
        return transformers.AutoModelForCausalLM if type(config) in _causal() else transformers.AutoModel
    cls = getattr(transformers, str(names[0]), None)
    if not (isinstance(cls, type) and issubclass(cls, transformers.PreTrainedModel)):
        raise UserError(f"transformers has no model class {str(names[0])[:80]!r}",
                        where=f"{model_dir}/config.json: architectures",
                        fix="take a model whose architecture is part of transformers")  # fmt: skip
    return cls


def _causal() -> Any:
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING


def _check_values(found: Directory) -> None:
    """Refuse weights that are infinite or undefined: one of them makes every output so."""
    import torch
    from safetensors import safe_open

    for file in sorted({each.file for each in found.tensors.values()}):
        with refusals("can't be read", found.path / file), safe_open(found.path / file, framework="pt") as shard:
            for name in shard.keys():  # noqa: SIM118 (not a dict)
                values = shard.get_tensor(name).reshape(-1)
                if not values.is_floating_point():
                    continue
                for begin in range(0, len(values), _BLOCK):
                    if not torch.isfinite(values[begin : begin + _BLOCK]).all():
                        raise UserError(
                            f"tensor {name} holds infinite or undefined numbers",
                            where=str(found.path / file),
                            fix="get the model again; its training may have diverged",
                        )


def _check_tied(tied: Mapping[str, str], found: Directory) -> None:
    """Refuse two tensors that the config says are one, and that differ: runtimes would take one or the other."""
    import torch
    from safetensors import safe_open

    for twin, source in tied.items():
        if twin not in found.tensors or source not in found.tensors:
            continue
        pair = []
        for name in (twin, source):
            with safe_open(found.path / found.tensors[name].file, framework="pt") as shard:
                pair.append(shard.get_tensor(name))
        if not torch.equal(*pair):
            raise UserError(
                f"config.json says that {twin} and {source} are one tensor, but they are stored with different values",
                where=str(found.path / "config.json") + ": tie_word_embeddings",
                fix="set tie_word_embeddings: false there, if the model was trained so",
            )
