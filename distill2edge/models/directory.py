"""A Hugging Face directory looked at without loading it: config, headers of the weights, index. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.config import check_fields, usable_positions
from distill2edge.util.files import read_object

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_MAX_INDEX = 1 << 26
_GET_AGAIN = "get the model again, all its files"
_FLOATS = ("F64", "F32", "F16", "BF16")
# Tables of positions and of masks that encoders and old decoders store as numbers.
_BUFFERS = re.compile(r".*(position_ids|token_type_ids|attn\.bias|masked_bias|num_batches_tracked)$")
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "encoder_layers",
           "decoder_layers")  # fmt: skip
_WIDTHS = ("vocab_size", "hidden_size", "intermediate_size", "d_model", "d_ff", "dim", "hidden_dim", "n_embd",
           "n_inner")  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor as a safetensors header has it."""

    shape: tuple[int, ...]
    dtype: str
    file: str

    @property
    def elements(self) -> int:
        """Number of weights."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Directory:
    """A checked directory.

    Attributes:
        config: content of config.json.
        tensors: name -> header entry.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Stored]

    @property
    def text(self) -> dict[str, Any]:
        """The configuration of the part that reads text."""
        inner = self.config.get("text_config")
        return inner if isinstance(inner, dict) else self.config

    @property
    def parameters(self) -> int:
        """Weights in the files; tied ones are there once."""
        return sum(each.elements for each in self.tensors.values() if each.dtype in _FLOATS)

    @property
    def vocabulary(self) -> int | None:
        """Rows of the embedding by the config."""
        return self.text.get("vocab_size")

    @property
    def positions(self) -> int | None:
        """Tokens that the model reads at most."""
        return usable_positions({"model_type": self.config.get("model_type"), **self.text})


def weight_files(directory: Path) -> list[str]:
    """Names of the safetensors files, the index's first choice; empty where there are none.

    Raises:
        UserError: an index that is damaged, or names files that are missing or no safetensors files.
    """
    if not (directory / INDEX).is_file():
        return [SINGLE] if (directory / SINGLE).is_file() else []
    where = str(directory / INDEX)
    table = read_object(directory / INDEX, _MAX_INDEX).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise UserError("is damaged: it has no table of tensors", where=f"{where}: weight_map", fix=_GET_AGAIN)
    for name, file in table.items():
        if not isinstance(file, str) or not re.fullmatch(r"[\w.-]+\.safetensors", file):
            raise UserError(f"names {str(file)[:80]!r}, no safetensors file",
                            where=f"{where}: weight_map.{name[:80]}", fix=_GET_AGAIN)  # fmt: skip
    files = sorted(set(table.values()))
    missing = [name for name in files if not (directory / name).is_file()]
    if missing:
        raise UserError(f"names {missing[0]}, which is missing", where=where, fix=_GET_AGAIN)
    return files


def read_directory(directory: Path) -> Directory:
    """Read and check config.json and the headers of the weights.

    Raises:
        UserError: names the file, and the field or tensor: damaged JSON, values that no model could mean, damaged
            safetensors, an index that does not say what the files hold, weights that are no floating-point numbers, or
            sizes in the config that no tensor has.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise UserError("has no config.json", where=str(directory), fix="give a Hugging Face model directory")
    config = read_object(path)
    check_fields(config, path)
    if not isinstance(config.get("model_type"), str):
        raise UserError("is missing", where=f"{path}: model_type", fix="get the file again, as it was")
    tensors = read_headers(directory)
    found = Directory(directory, config, tensors)
    _check_sizes(found, path)
    check_fields(config, path, vocabulary=found.vocabulary)
    return found


def read_headers(directory: Path) -> dict[str, Stored]:
    """Every tensor of a directory's safetensors files: name -> shape, type, file.

    Raises:
        UserError: as `read_directory`.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Stored] = {}
    for file in weight_files(directory):
        try:
            with safe_open(directory / file, framework="numpy") as shard:
                for name in shard.keys():  # noqa: SIM118 (not a dict)
                    if name in tensors:
                        raise UserError(f"tensor {name} is in {tensors[name].file} too", where=str(directory / file),
                                        fix=_GET_AGAIN)  # fmt: skip
                    piece = shard.get_slice(name)
                    tensors[name] = Stored(tuple(piece.get_shape()), str(piece.get_dtype()), file)
        except (SafetensorError, OSError, OverflowError) as error:
            raise UserError(f"{file} is damaged: {error}", where=str(directory / file), fix=_GET_AGAIN) from error
    _check_index(directory, tensors)
    for name, entry in tensors.items():
        if entry.dtype not in _FLOATS and not _BUFFERS.match(name):
            raise UserError(
                f"tensor {name} is stored as {entry.dtype}, not as floating-point numbers",
                where=str(directory / entry.file),
                fix="take the checkpoint that it was quantized from, or a GGUF",
            )
    return tensors


def _check_index(directory: Path, tensors: Mapping[str, Stored]) -> None:
    if not (directory / INDEX).is_file():
        return
    table = read_object(directory / INDEX, _MAX_INDEX)["weight_map"]
    for name, file in table.items():
        if name not in tensors or tensors[name].file != file:
            raise UserError(f"{file} has no tensor {name[:120]}, where the index says that it is",
                            where=str(directory / INDEX), fix=_GET_AGAIN)  # fmt: skip
    unlisted = sorted(set(tensors) - set(table))
    if unlisted:
        raise UserError(f"tensor {unlisted[0]} of {tensors[unlisted[0]].file} is not in the index",
                        where=str(directory / INDEX), fix=_GET_AGAIN)  # fmt: skip


def _check_sizes(found: Directory, path: Path) -> None:
    """No size in the config may be larger than what the weights show: a library would allocate by it."""
    if not found.tensors:
        return
    widest = max((extent for each in found.tensors.values() for extent in each.shape), default=0)
    # A layer is at least one tensor. Fused projections are wider than what they hold; nothing is wider than them.
    limits = ((_DEPTHS, len(found.tensors), "tensors"), (_WIDTHS, widest, "rows in their largest tensor"))
    for names, most, what in limits:
        for name in names:
            value = found.text.get(name)
            if isinstance(value, int) and value > most:
                raise UserError(f"{value}, but the weights have {most} {what}", where=f"{path}: {name}",
                                fix="get config.json and the weights of one model")  # fmt: skip
    heads, width = found.text.get("num_attention_heads"), found.text.get("hidden_size")
    if isinstance(heads, int) and isinstance(width, int) and found.text.get("head_dim") is None and width % heads:
        raise UserError(f"{heads} heads do not divide the hidden size of {width}",
                        where=f"{path}: num_attention_heads", fix="get the file again, as it was")  # fmt: skip
    shared = found.text.get("num_key_value_heads")
    if isinstance(heads, int) and isinstance(shared, int) and heads % shared:
        raise UserError(f"{shared} key-value heads do not divide {heads} heads",
                        where=f"{path}: num_key_value_heads", fix="get the file again, as it was")  # fmt: skip
