"""A GGUF with some of its tensors stored in other types: everything else is copied."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

_ALIGNMENT = 32


def padded(size: int) -> int:
    """Bytes of a tensor in a GGUF, where each starts at a multiple of 32."""
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def overhead(source: Path, tensors: Collection[str]) -> int:
    """Bytes that `repack` writes beside the tensors that it replaces: header, key-values, and what it copies.

    `overhead` and the replaced tensors' bytes, each padded to 32, add up to the size of the new file.
    """
    import gguf

    reader = gguf.GGUFReader(source)
    kept = sum(padded(tensor.n_bytes) for tensor in reader.tensors if tensor.name not in tensors)
    return int(reader.data_offset) + int(kept)


def repack(
    source: Path,
    target: Path,
    tensors: Mapping[str, tuple[str, np.ndarray]],
    *,
    file_type: int | None = None,
    extra: Mapping[str, str] | None = None,
) -> None:
    """Write `target`.

    Args:
        source: a GGUF, whose key-values, tensor order and other tensors are kept.
        tensors: tensor name -> (type, its bytes [rows, row bytes] uint8 in that type).
        file_type: `general.file_type` of the new file; None keeps the source's.
        extra: text key-values to add.

    Raises:
        UserError: a tensor that the source does not have, or bytes of another shape.
    """
    import gguf
    import numpy as np

    reader = gguf.GGUFReader(source)
    known = {tensor.name: tensor for tensor in reader.tensors}
    if strange := sorted(set(tensors) - set(known)):
        raise UserError(f"no tensor {strange[0]} in this GGUF", where=str(source), fix="make the grid again")
    with replacing(Path(target)) as temporary:
        writer = gguf.GGUFWriter(temporary, reader.fields["general.architecture"].contents(), use_temp_file=False)
        for key, field in reader.fields.items():
            if key.startswith("GGUF.") or key == "general.architecture":
                continue
            value: Any = field.contents()
            if key == "general.file_type" and file_type is not None:
                value = file_type
            sub = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub_type=sub)
        for key, text in (extra or {}).items():
            writer.add_string(key, text)
        for name, tensor in known.items():
            if name not in tensors:
                writer.add_tensor_info(
                    name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, tensor.tensor_type
                )
                continue
            kind, data = tensors[name]
            code = gguf.GGMLQuantizationType[kind]
            weights, size = gguf.GGML_QUANT_SIZES[code]
            if data.size // size * weights != tensor.n_elements:
                raise UserError(f"the bytes of {name} are not those of its shape", where=str(source),
                                fix="make the grid again")  # fmt: skip
            writer.add_tensor_info(name, data.shape, np.dtype(np.uint8), data.nbytes, code)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in known.items():
            writer.write_tensor_data(tensors[name][1] if name in tensors else tensor.data)
        writer.close()
