"""What is read from a Hugging Face directory: config, tokenizer and weights, whole or refused.

`from_pretrained` gives random weights to a tensor that is missing, and leaves out one that it does not know; here both
refuse. Local files alone, no remote code, no pickle. A library's own refusal of a file becomes a UserError that names
the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.directory import read_directory
from distill2edge.models.placement import WHOLE, Placement, device_of, offload_folder, remove_with
from distill2edge.util.files import disk_full

# Heads of other tasks that checkpoints of encoders carry: bert-base-uncased its next-sentence head, an ELECTRA its
# discriminator. The body of a model never goes by these names.
_OTHER_HEADS = re.compile(
    r"(?:\w+\.)?(?:cls|lm_head|mlm_head|vocab_(?:transform|layer_norm|projector)|\w*predictions|generator_\w+|"
    r"classifier|pre_classifier|qa_outputs|pooler|summary|head|score)\."
)
_SAFE = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
_FIX = "get the model again, all its files: weights and config.json must be of one model"


class MissingTensors(UserError):
    """A directory lacks tensors that its config asks for.

    Attributes:
        head_alone: the body of the model is whole.
    """

    def __init__(self, names: list[str], where: str, *, head_alone: bool) -> None:
        super().__init__(f"tensors are missing: {_some(names)}", where=where, fix=_FIX)
        self.head_alone = head_alone


@contextmanager
def refusals(what: str, where: str | Path, fix: str = "get the file again, or use another model") -> Iterator[None]:
    """Around one call of a library on a user's file: what it raises becomes a UserError.

    Args:
        what: what could not be done ("no usable tokenizer").
        where: the file.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if disk_full(error) or isinstance(error, MemoryError):
            raise
        raise UserError(f"{what}: {_words(error)}", where=str(where), fix=fix) from error
    except BaseException as error:
        # What a panic inside a Rust library (tokenizers) becomes; it is no Exception, and its type can't be imported.
        if type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{what}: {_words(error)}", where=str(where), fix=fix) from error


def _words(error: BaseException) -> str:
    """The first lines of an error that say something, and its kind where the text alone does not."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:3])[:300]
    return text if " " in text else f"{type(error).__name__} {text}".strip()


def load_config(model_dir: Path | str) -> Any:
    """The configuration of a directory, as transformers knows it.

    Raises:
        UserError: one that transformers does not know, or refuses.
    """
    from transformers import AutoConfig

    with refusals("not a model that transformers knows without remote code", Path(model_dir) / "config.json",
                  "take a model whose architecture is part of transformers"):  # fmt: skip
        return AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)


def load_tokenizer(model_dir: Path | str) -> Any:
    """The tokenizer of a directory.

    Raises:
        UserError: there is none, or the libraries refuse its files.
    """
    from transformers import AutoTokenizer

    with refusals("no usable tokenizer", model_dir, "put tokenizer.json beside the model"):
        try:
            return AutoTokenizer.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise UserError(
                "its tokenizer is Python code of its own, and code that comes with a model never runs here",
                where=str(model_dir),
                fix="put a tokenizer.json beside it (its conversion to a fast tokenizer), or take another model",
            ) from error


def load_checkpoint(
    kind: Any, model_dir: Path | str, *, new_head: bool = False, placement: Placement = WHOLE, **options: Any
) -> Any:
    """`kind.from_pretrained`, with every tensor there and none left over, and a config that the model can run by.

    Args:
        kind: a class of transformers.
        new_head: a head, and BERT's pooler under it, may be missing: those are then random.
        placement: where its weights lie, and in how many bits.
        options: of `from_pretrained`.

    Returns:
        the model.

    Raises:
        UserError: tensors that are missing, unexpected or of another shape, or a config whose fields contradict one
            another (sliding layers without the width of a window).
        ValueError: a directory of another kind of model (transformers says which).
    """
    check_tensors(kind, model_dir, new_head=new_head, **options)
    model = (
        _placed(kind, model_dir, placement, options)
        if placement
        else kind.from_pretrained(model_dir, **options | _SAFE)
    )
    with refusals("no text can be read with its config", model_dir, _FIX):
        _read_two_tokens(model)
    return model


def _placed(kind: Any, model_dir: Path | str, placement: Placement, options: Mapping[str, Any]) -> Any:
    """A model that is shared out over devices, or rounded as it is loaded."""
    folder = offload_folder()
    given = {**options, **placement.options(options["dtype"]), "offload_folder": folder}
    with refusals("its weights can't be placed as teacher.load says", model_dir,
                  "give the devices more in teacher.load.max_memory, or take teacher.load out"):  # fmt: skip
        model = kind.from_pretrained(model_dir, **{**given, **_SAFE})
    remove_with(model, folder)
    return model


def check_tensors(kind: Any, model_dir: Path | str, *, new_head: bool = False, **options: Any) -> Any:
    """Compare a directory's tensors with what its config asks for; nothing is allocated.

    Args:
        kind, new_head, options: as in `load_checkpoint`.

    Returns:
        the model on the meta device.

    Raises:
        as `load_checkpoint`.
    """
    where = str(model_dir)
    read_directory(Path(model_dir))  # nothing may be allocated by a number that no tensor bears out
    _check_kind(kind, load_config(model_dir))
    with refusals("its weights can't be read with its config", where, _FIX):
        model, report = kind.from_pretrained(
            model_dir,
            output_loading_info=True,
            **options | _SAFE | {"device_map": "meta", "ignore_mismatched_sizes": True},
        )
    body = f"{model.base_model_prefix}."
    whole = hasattr(model, model.base_model_prefix)  # else the model is a body alone, whose names have no prefix
    head = {
        name for name in report["missing_keys"]
        if ".pooler." in f".{name}" or (whole and not name.startswith(body))
    }  # fmt: skip
    missing = sorted(set(report["missing_keys"]) - (head if new_head else set()))
    encoder = not model.config.is_encoder_decoder and not model.can_generate()
    unexpected = sorted(name for name in report["unexpected_keys"] if not (encoder and _OTHER_HEADS.match(name)))
    if report["mismatched_keys"]:
        name, found, wanted = sorted(report["mismatched_keys"])[0]
        raise UserError(
            f"tensor {name} has the shape {list(found)}, and config.json asks for {list(wanted)}", where=where, fix=_FIX
        )
    if missing:
        raise MissingTensors(missing, where, head_alone=set(missing) <= head)
    if unexpected:
        raise UserError(
            f"tensors that a {type(model).__name__} of this config does not have: {_some(unexpected)}",
            where=where,
            fix=_FIX,
        )
    if report["error_msgs"]:
        raise UserError(f"its weights can't be read: {report['error_msgs'][0]}", where=where, fix=_FIX)
    return model


def _read_two_tokens(model: Any) -> None:
    """Many fields are used only when a model runs: a contradiction among them shows here, not in the training."""
    import torch

    ids = torch.zeros(1, 2, dtype=torch.long, device=device_of(model))
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        given["decoder_input_ids"] = ids
    with torch.no_grad():
        model(**given)


def load_adapter(base: Any, directory: Path | str) -> Any:
    """A PEFT model of `base` with the adapter in a directory, every tensor there and none left over.

    Raises:
        UserError: tensors that are missing, unexpected or of another shape.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    path = Path(directory) / "adapter_model.safetensors"
    fix = "run the training again"
    with refusals("the adapter can't be read", path, fix):
        adapted = PeftModel.from_pretrained(base, directory)
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
    wanted = set(get_peft_model_state_dict(adapted))
    if stored != wanted:
        raise UserError(f"its tensors are not the adapter's: {_some(sorted(stored ^ wanted))}",
                        where=str(path), fix=fix)  # fmt: skip
    return adapted


def _check_kind(kind: Any, config: Any) -> None:
    """Refuse a configuration that an auto class has no model for: what that means is the caller's to say."""
    mapping = getattr(kind, "_model_mapping", None)
    if mapping is not None and type(config) not in mapping:
        raise ValueError(f"a {config.model_type} is no {kind.__name__.removeprefix('AutoModelFor')} model")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more
