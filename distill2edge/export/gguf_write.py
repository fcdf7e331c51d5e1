"""Writes a Hugging Face directory as an unquantized GGUF, tensor by tensor."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.gguf import hyperparameters as gguf_config
from distill2edge.gguf.families import Family, by_model_type, llama3_factors, refuse
from distill2edge.gguf.ggml_types import file_type
from distill2edge.models.kinds import EMBEDDER, kind_of
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import numpy as np

# meta's keys that have a field of their own in the GGUF specification; every other goes under distill2edge.*
_GENERAL = {"name": "general.name", "licence": "general.license", "description": "general.description"}

_ALWAYS_F32 = ("position_embd.weight", "token_types.weight")
_BIAS = ".attn_rel_b.weight"  # of T5's positions: small, added to every score


def metadata_fields(meta: dict[str, Any]) -> list[tuple[str, Any]]:
    """GGUF key-values of the export's `meta`: name, licence and description, the teacher, the recipe and its key."""
    fields: list[tuple[str, Any]] = []
    for key, value in meta.items():
        if value in (None, ""):
            continue
        if key in _GENERAL:
            fields.append((_GENERAL[key], str(value)))
        else:
            fields.append((f"distill2edge.{key}", str(value)))
        if key == "teacher":
            fields += [("general.base_model.count", 1), ("general.base_model.0.name", str(value))]
    return fields


def load_config(model_dir: Path) -> tuple[Any, Family]:
    """The configuration and its family.

    Raises:
        UserError: no configuration, or an architecture without a writer.
    """
    from transformers import AutoConfig

    path = model_dir / "config.json"
    if not path.is_file():
        raise UserError("no config.json", where=str(model_dir), fix="give a Hugging Face model directory")
    stated = json.loads(path.read_text())
    model_type = stated.get("model_type", "unknown")
    family = by_model_type(model_type, embedder=kind_of(stated) is EMBEDDER)
    if family is None:
        raise refuse(model_type, str(model_dir))
    return AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True), family


def write_gguf(
    model_dir: Path, target: Path, kind: str, vocabulary: Any, meta: dict[str, Any], progress: Progress
) -> int:
    """Write the unquantized GGUF.

    Args:
        model_dir: Hugging Face directory with safetensors.
        target: file to write.
        kind: F32, F16 or BF16, the type of matrices; vectors are always F32.
        vocabulary: what `gguf_vocab.vocabulary_of` returned.
        meta: the export's metadata.
        progress: where to report.

    Returns:
        number of weights written.

    Raises:
        UserError: weights missing, or ones that the family does not have.
    """
    import gguf

    config, family = load_config(model_dir)
    names = {theirs: ours for ours, theirs in family.names_of(config).items()}
    with ExitStack() as stack:
        tensors = open_weights(model_dir, stack)
        tied = family.tied(config, tensors)
        if tied:
            names.pop("lm_head.weight", None)  # llama.cpp uses the embedding where no output tensor is
        plan = _plan(tensors, names, tied, str(model_dir))
        shapes = {theirs: tuple(tensors[theirs].get_slice(theirs).get_shape()) for theirs, _ in plan}
        weights = sum(math.prod(shape) for shape in shapes.values())
        writer = gguf.GGUFWriter(target, family.architecture, use_temp_file=False)
        write_fields(writer, meta, gguf_config.fields_of(config, family), kind, weights)
        vocabulary.write(writer)
        extra = _extra(config, family)
        matrix = gguf.GGMLQuantizationType[kind]
        for name, array in extra.items():
            writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes)
        for theirs, ours in plan:
            _announce(writer, ours, shapes[theirs], _type_of(ours, matrix))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for array in extra.values():
            writer.write_tensor_data(array)
        with progress.task(f"writing GGUF ({kind})", len(plan)) as task:
            for theirs, ours in plan:
                array = tensors[theirs].get_tensor(theirs).float().numpy()
                array = family.to_gguf(ours, array, config.num_attention_heads, _kv_heads(config))
                if ours == "dec.output_norm.weight" and config.scale_decoder_outputs:
                    # T5 scales its last hidden state before the head; llama.cpp does not, so the last norm does.
                    array = array * array.dtype.type(config.d_model**-0.5)
                writer.write_tensor_data(_encode(array, _type_of(ours, matrix)))
                task.advance()
        writer.close()
    return weights


def source_type(model_dir: Path) -> str:
    """The widest type of the stored weights: F32, BF16 or F16 (what loses nothing as a base)."""
    with ExitStack() as stack:
        found = {handle.get_slice(name).get_dtype() for name, handle in open_weights(model_dir, stack).items()}
    if found <= {"BF16"}:
        return "BF16"
    return "F16" if found <= {"F16"} else "F32"


def open_weights(model_dir: Path, stack: ExitStack) -> dict[str, Any]:
    """Tensor name -> open safetensors file that holds it.

    Raises:
        UserError: no safetensors, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    files = sorted(model_dir.glob("*.safetensors"))
    if not files:
        raise UserError("no safetensors weights", where=str(model_dir), fix="save the model as safetensors")
    found: dict[str, Any] = {}
    for file in files:
        try:
            handle = stack.enter_context(safe_open(file, framework="pt"))
        except SafetensorError as error:
            raise UserError(f"damaged safetensors: {error}", where=str(file), fix="save the model again") from error
        found |= dict.fromkeys(handle.keys(), handle)
    return found


def _plan(tensors: dict[str, Any], names: dict[str, str], tied: bool, where: str) -> list[tuple[str, str]]:
    """(Hugging Face name, GGUF name) of the tensors to write, in GGUF's usual order."""
    ignored = {"lm_head.weight"} if tied else set()
    unknown = sorted(name for name in tensors if name not in names and name not in ignored
                     and not name.endswith(("rotary_emb.inv_freq", "embeddings.position_ids")))  # fmt: skip
    if unknown:
        raise UserError(f"weights that this family does not have: {', '.join(unknown[:5])}", where=where,
                        fix="merge adapters first, or give --converter PATH")  # fmt: skip
    missing = sorted(name for name in names if name not in tensors and not name.endswith(".bias"))
    if missing:
        raise UserError(f"weights are missing: {', '.join(missing[:5])}", where=where, fix="save the complete model")
    return [(theirs, ours) for theirs, ours in names.items() if theirs in tensors]


def _extra(config: Any, family: Family) -> dict[str, np.ndarray]:
    if family.architecture != "llama":
        return {}
    rope = gguf_config.rope_of(config)
    if rope.get("rope_type") != "llama3":
        return {}
    return {"rope_freqs.weight": llama3_factors(rope, gguf_config.head_dim(config))}


def write_fields(writer: Any, meta: dict[str, Any], fields: list[gguf_config.Field], kind: str, weights: int) -> None:
    """Every key-value but the vocabulary: what the file is, its family's hyperparameters, how it is stored."""
    import gguf

    writer.add_type("model")
    for key, value in metadata_fields(meta):
        writer.add_uint32(key, value) if isinstance(value, int) else writer.add_string(key, value)
    writer.add_size_label(gguf.size_label(weights, 0, 0, 0))
    add = {"uint32": writer.add_uint32, "float32": writer.add_float32, "string": writer.add_string,
           "bool": writer.add_bool, "bools": writer.add_array, "strings": writer.add_array}  # fmt: skip
    for key, form, value in fields:
        add[form](key, value)
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _kv_heads(config: Any) -> int:
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _type_of(name: str, matrix: Any) -> Any:
    """The type of a tensor: llama.cpp adds BERT's position and type embeddings, and T5's position bias, as float32."""
    import gguf

    return gguf.GGMLQuantizationType.F32 if name in _ALWAYS_F32 or name.endswith(_BIAS) else matrix


def _announce(writer: Any, name: str, shape: tuple[int, ...], matrix: Any) -> None:
    import gguf
    import numpy as np

    if len(shape) == 1 or matrix == gguf.GGMLQuantizationType.F32:
        writer.add_tensor_info(name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    elif matrix == gguf.GGMLQuantizationType.F16:
        writer.add_tensor_info(name, shape, np.dtype(np.float16), int(np.prod(shape)) * 2)
    else:
        bytes_shape = (*shape[:-1], shape[-1] * 2)
        writer.add_tensor_info(name, bytes_shape, np.dtype(np.uint8), int(np.prod(bytes_shape)), raw_dtype=matrix)


def _encode(array: np.ndarray, matrix: Any) -> np.ndarray:
    import gguf
    import numpy as np

    if array.ndim == 1 or matrix == gguf.GGMLQuantizationType.F32:
        return np.ascontiguousarray(array, dtype=np.float32)
    if matrix == gguf.GGMLQuantizationType.F16:
        return np.ascontiguousarray(array, dtype=np.float16)
    return gguf.quants.quantize(np.ascontiguousarray(array), matrix)
