"""How an embedder makes one vector of a text: pooling and length, as its `config.json` or sentence-transformers say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from distill2edge.errors import UserError
from distill2edge.models.config import EMBEDDER
from distill2edge.util.files import read_object, read_value, write_json

if TYPE_CHECKING:
    from torch import Tensor

FIELD = EMBEDDER
"""Of a `config.json`: how the model pools. A directory with it holds an embedder."""
OUTPUT = "sentence_embedding"
"""Of an ONNX graph: [batch, dimensions], pooled and of unit length where the model normalises."""
MODULES, POOLING = "modules.json", "1_Pooling/config.json"
"""The files in which sentence-transformers says the same."""

Mode = Literal["mean", "cls", "max"]
_MODES: Mapping[str, Mode] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
}
_FIX = "name another teacher, or state the pooling: teacher.pooling: mean"


@dataclass(frozen=True)
class Pooling:
    """How one vector is made of the hidden states of a text.

    Attributes:
        mode: mean over the tokens, the first token's, or the greatest of each dimension.
        normalize: whether it then gets unit length.
        dimensions: lengths of its prefixes that were trained to serve alone, the whole first; empty: the whole alone.
    """

    mode: Mode = "mean"
    normalize: bool = True
    dimensions: tuple[int, ...] = ()

    def of(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """[B, D] vectors of hidden states [B, L, D]; `mask` [B, L] is 1 at real tokens."""
        import torch

        if self.mode == "cls":
            first = mask.to(torch.int64).argmax(1)[:, None, None]  # padding may lie on the left
            vector = hidden.gather(1, first.expand(-1, 1, hidden.shape[2]))[:, 0]
        elif self.mode == "max":
            vector = hidden.masked_fill(mask[..., None] == 0, torch.finfo(hidden.dtype).min).amax(1)
        else:
            weight = mask[..., None].to(hidden.dtype)
            vector = (hidden * weight).sum(1) / weight.sum(1)
        return torch.nn.functional.normalize(vector, dim=-1) if self.normalize else vector

    def write(self, model_dir: Path) -> None:
        """Say so in a directory: in its `config.json`, and as sentence-transformers reads it."""
        config = read_object(model_dir / "config.json")
        width = width_of(config)
        stated = {**asdict(self), "dimensions": list(self.dimensions)}
        write_json(model_dir / "config.json", {**config, FIELD: stated})
        modes = {name: mode == self.mode for name, mode in _MODES.items()}
        (model_dir / "1_Pooling").mkdir(exist_ok=True)
        write_json(model_dir / POOLING, {"word_embedding_dimension": width, **modes})
        names = ["Transformer", "Pooling", *(["Normalize"] if self.normalize else [])]
        paths = ["", "1_Pooling", "2_Normalize"]
        modules = [
            {"idx": index, "name": str(index), "path": paths[index], "type": f"sentence_transformers.models.{name}"}
            for index, name in enumerate(names)
        ]
        write_json(model_dir / MODULES, modules)


def width_of(config: Mapping[str, Any]) -> int:
    """Dimensions of a text's whole vector; DistilBERT has a name of its own for them."""
    return int(config.get("hidden_size") or config.get("dim") or 0)


def pooling_of(config: Mapping[str, Any] | Any) -> Pooling | None:
    """What a configuration says; None of a model that is no embedder.

    Raises:
        UserError: it says something else than `Pooling` holds.
    """
    stated = config.get(FIELD) if isinstance(config, Mapping) else getattr(config, FIELD, None)
    if stated is None:
        return None
    mode, dimensions = _item(stated, "mode"), _item(stated, "dimensions") or ()
    whole = isinstance(dimensions, list | tuple) and all(type(each) is int and each > 0 for each in dimensions)
    if mode not in get_args(Mode) or not isinstance(_item(stated, "normalize"), bool) or not whole:
        raise UserError(f"{str(stated)[:80]} is no pooling", where=f"config.json: {FIELD}",
                        fix="get the file again, as it was")  # fmt: skip
    return Pooling(mode, _item(stated, "normalize"), tuple(dimensions))


def _item(stated: Any, name: str) -> Any:
    return stated.get(name) if isinstance(stated, Mapping) else None


def sentence_transformers_pooling(model_dir: Path) -> Pooling | None:
    """What `modules.json` and the pooling's own file say; None without them.

    Raises:
        UserError: modules that do something else, or a pooling that no runtime here has.
    """
    path = model_dir / MODULES
    if not path.is_file():
        return None
    listed = read_value(path)
    entries = listed if isinstance(listed, list) else []
    kinds = [str(_item(entry, "type")).rpartition(".")[2] for entry in entries]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise UserError(
            f"its modules are {', '.join(kinds)[:120] or 'none'}: an embedder here is Transformer, Pooling and perhaps "
            "Normalize", where=str(path), fix=_FIX,
        )  # fmt: skip
    settings = model_dir / str(_item(entries[1], "path")) / "config.json"
    if settings != model_dir / POOLING or not settings.is_file():
        raise UserError(f"its pooling is not in {POOLING}", where=str(path), fix=_FIX)
    stated = read_object(settings)
    if (named := stated.get("pooling_mode")) is not None:  # as its newer releases write it
        modes = [str(named)]
    else:
        modes = [_MODES.get(name, name) for name, on in stated.items() if name.startswith("pooling_mode_") and on]
    if len(modes) != 1 or modes[0] not in get_args(Mode):
        raise UserError(f"it pools by {', '.join(modes)[:120] or 'nothing'}, and mean, cls or max is what files here "
                        "can hold", where=str(settings), fix=_FIX)  # fmt: skip
    mode: Any = modes[0]
    return Pooling(mode, "Normalize" in kinds)
