"""The grid of a whole model: taken from the file that a scheme makes of it, kept beside the weights that use it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.quantize.grids import GRIDS
from distill2edge.quantize.scales import Held
from distill2edge.quantize.schemes import TRAINABLE
from distill2edge.util.files import replacing

if TYPE_CHECKING:
    import numpy as np

Grids = dict[str, Held]
FILE = "grid.safetensors"
_PARTS = ("scale", "offset", "header")


def save_grids(grids: Mapping[str, Held], scheme: str, directory: Path) -> None:
    """Write `grid.safetensors`: NAME.scale, NAME.offset and NAME.header, and the kinds and columns as metadata."""
    from safetensors.torch import save_file

    tensors = {
        f"{name}.{part}": values.contiguous()
        for name, held in grids.items()
        for part in _PARTS
        if (values := getattr(held, part)) is not None
    }
    about = {name: [held.kind, held.columns] for name, held in grids.items()}
    with replacing(Path(directory) / FILE) as temporary:
        save_file(tensors, temporary, metadata={"scheme": scheme, "grids": json.dumps(about)})


def load_grids(directory: Path) -> tuple[Grids, str]:
    """The grids and their scheme.

    Raises:
        UserError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(directory) / FILE
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            names = set(file.keys())
            grids = {
                name: Held(
                    kind,
                    file.get_tensor(f"{name}.scale"),
                    file.get_tensor(f"{name}.offset") if f"{name}.offset" in names else None,
                    columns,
                    file.get_tensor(f"{name}.header") if f"{name}.header" in names else None,
                )
                for name, (kind, columns) in json.loads(metadata["grids"]).items()
            }
            return grids, str(metadata["scheme"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"not a grid: {error}", where=str(path), fix="run the quantization_aware stage again"
        ) from error


def of_gguf(path: Path, model_dir: Path) -> Grids:
    """The grid of every quantized tensor of a GGUF that was made of `model_dir`, by the names in its state.

    Raises:
        UserError: a type whose grid cannot be trained on.
    """
    import gguf

    from distill2edge.gguf.reader import read_gguf

    file = read_gguf(Path(path))
    found: Grids = {}
    for ours, theirs in gguf_names(model_dir).items():
        info = file.tensors.get(ours)
        if info is None or len(info.shape) < 2:
            continue
        kind = gguf.GGMLQuantizationType(info.type).name
        if kind in ("F32", "F16", "BF16"):
            continue
        if kind not in GRIDS:
            raise UserError(
                f"{ours} is stored as {kind}, whose grid cannot be trained on",
                where="distill.quantization_aware",
                fix=f"a scheme of {', '.join(TRAINABLE)}",
            )
        raw = _raw(file, info).reshape(info.shape[0], -1)
        found[theirs] = Held.of_gguf(to_hf(model_dir, ours, raw), kind)
    return found


def gguf_names(model_dir: Path) -> dict[str, str]:
    """GGUF tensor name -> Hugging Face name, of every tensor the model may have."""
    from distill2edge.gguf.families import by_model_type, refuse

    config = _config(model_dir)
    family = by_model_type(config["model_type"])
    if family is None:
        raise refuse(config["model_type"], str(model_dir))
    return family.names(config["num_hidden_layers"])


def _config(model_dir: Path) -> dict[str, Any]:
    from distill2edge.util.files import read_json

    return dict(read_json(Path(model_dir) / "config.json"))


def _layout(model_dir: Path) -> tuple[Any, int, int]:
    from distill2edge.gguf.families import by_model_type

    config = _config(model_dir)
    family = by_model_type(config["model_type"])
    assert family is not None
    heads = int(config["num_attention_heads"])
    return family, heads, int(config.get("num_key_value_heads") or heads)


def to_gguf(model_dir: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """Rows in GGUF's order."""
    import numpy as np

    family, heads, kv_heads = _layout(model_dir)
    return np.ascontiguousarray(family.to_gguf(name, rows, heads, kv_heads))


def to_hf(model_dir: Path, name: str, rows: np.ndarray) -> np.ndarray:
    """The inverse."""
    import numpy as np

    family, heads, kv_heads = _layout(model_dir)
    return np.ascontiguousarray(family.to_hf(name, rows, heads, kv_heads))


def _raw(file: Any, info: Any) -> np.ndarray:
    import numpy as np

    return np.memmap(file.path, dtype=np.uint8, mode="r", offset=info.offset, shape=(info.size,))
