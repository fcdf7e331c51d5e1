"""The sensitivity stage: what a mix of types is chosen and rounded by, measured on the calibration rows.

Memory is bounded: the Fisher information and the products of inputs are gathered for as many tensors at a time as fit
in `ROOM` bytes, each part in a pass of its own over the rows.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.architectures import load_model
from distill2edge.errors import UserError
from distill2edge.files import read_json, replacing, write_json
from distill2edge.gguf_format.imatrix import read_imatrix, write_imatrix
from distill2edge.progress import Progress
from distill2edge.quantize import onnx_mix, sensitivity
from distill2edge.quantize.calibrate import check_disjoint, enough, gguf_names, importance_of
from distill2edge.quantize.mix import Options
from distill2edge.quantize.statistics import FEW_TOKENS, collect, collect_fisher

if TYPE_CHECKING:
    import numpy as np
    import torch

ROOM = 1 << 30
"""Bytes of statistics in memory at once, beside the model; a single larger tensor still goes through."""
FISHER_SHARE = 4
"""The Fisher information sees one calibration token of so many: it takes a backward pass."""
_FACTS, _IMATRIX = "sensitivity.json", "imatrix.gguf"


@dataclass(frozen=True)
class Weighed:
    """What the stage wrote; tensors go by their GGUF names.

    Attributes:
        options: tensor -> type -> (bytes, expected KL in nats per token), of a GGUF.
        onnx: the same of an ONNX file, by the groups of weights that its graph joins.
        sources: tensor -> its name in the Hugging Face directory.
        importance: tensor -> [columns] mean squared inputs.
        grams: tensor -> (file, key) of its inputs' products.
        facts: rows and tokens that were seen.
    """

    options: Options
    onnx: Options
    sources: Mapping[str, str]
    importance: Mapping[str, np.ndarray]
    grams: Mapping[str, tuple[Path, str]]
    facts: Mapping[str, Any]

    def gram(self, name: str) -> torch.Tensor | None:
        """[columns, columns] of one tensor, read from its file."""
        path, key = self.grams.get(name, (None, ""))
        return None if path is None else _gram(path.parent, (path.name, key))

    def inputs(self, name: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """[columns] mean squared inputs and [columns, columns] mean of their products, of one tensor."""
        return _inputs(self.importance.get(name), self.gram(name))


def write_sensitivity(
    model_dir: Path,
    rows: Mapping[str, Sequence[int]],
    held_out: Collection[str],
    work: Path,
    progress: Progress,
    *,
    max_tokens: int,
    dataset: str,
    formats: Collection[str] = ("gguf",),
) -> dict[str, Any]:
    """Write `sensitivity.json`, `imatrix.gguf` and `grams-N.safetensors`.

    Args:
        model_dir: merged model.
        rows: id -> token ids of each calibration row.
        held_out: ids of the rows that evaluate; none of them may calibrate.
        max_tokens: rows beyond this many tokens are left out; a quarter of them give the Fisher information.
        dataset: where the rows come from, for the file's metadata.
        formats: of the files whose types are weighed, `gguf` or `onnx`.

    Returns:
        {schema_version, rows, tokens, fisher_tokens, tensors, few}.

    Raises:
        UserError: rows that overlap with the held-out ones, none at all, an architecture whose tensors have no GGUF
            names here, weights or activations that are not finite.
    """
    import torch

    check_disjoint(rows, held_out)
    names = gguf_names(model_dir)
    model = load_model(model_dir, dtype=torch.float32).eval()
    parts: dict[str, list[str]] = {}  # a tied matrix is one tensor with two uses
    weights: dict[str, torch.Tensor] = {}
    for source, weight in model.state_dict().items():
        if source in names and weight.ndim == 2:
            parts.setdefault(names[source], []).append(source)
            weights[source] = weight
    chosen = list(rows.values())
    squares, where = _grams(model, weights, chosen, Path(work), progress, max_tokens)
    importance = importance_of(squares, names, dataset)
    tokens = enough(importance, progress)
    write_imatrix(Path(work) / _IMATRIX, importance)
    means = importance.means()
    # Of a tied matrix the products are those of the head: a lookup multiplies nothing.
    grams = {name: where[source] for name, own in parts.items() for source in own if source in where}
    options: dict[str, Any] = {}
    by_weight: dict[str, Any] = {}
    fisher_tokens = max(64, max_tokens // FISHER_SHARE)
    for group in _groups({name: 4 * weights[own[0]].numel() for name, own in parts.items()}):
        only = [source for name in group for source in parts[name]]
        fisher = collect_fisher(model, chosen, progress, max_tokens=fisher_tokens, only=only).fisher
        with progress.task("weighing types", len(group)) as task:
            for name in group:
                found = [fisher.pop(source) for source in parts[name] if source in fisher]
                if not found or not all(bool(torch.isfinite(part).all()) for part in found):
                    raise UserError(f"the gradients of {name} are missing or not finite", where=str(model_dir),
                                    fix="check the weights for NaN or Inf, or export a stock scheme")  # fmt: skip
                source, total, products = parts[name][0], sum(found[1:], found[0]), grams.get(name)
                if "gguf" in formats:
                    left = 1.0 if products is None else sensitivity.left(products[1])
                    options[name] = sensitivity.option(
                        weights[source].numpy(), total.numpy(), means.get(name), left=left
                    )
                if "onnx" in formats:
                    gram = _gram(Path(work), products)
                    by_weight[source] = onnx_mix.option(weights[source], total, *_inputs(means.get(name), gram))
                task.advance(note=name)
    seen = min(fisher_tokens, sum(map(len, chosen)))
    facts = {
        "schema_version": 1,
        "rows": len(rows),
        "tokens": tokens,
        "fisher_tokens": seen,
        "tensors": len(parts),
        "few": tokens < FEW_TOKENS,
    }
    sources = {name: own[0] for name, own in parts.items()}
    tables = {"options": options, "onnx": onnx_mix.joined(by_weight)}
    write_json(Path(work) / _FACTS, {**facts, **tables, "sources": sources, "grams": grams})
    return facts


def read_sensitivity(directory: Path) -> Weighed:
    """What `write_sensitivity` wrote; products of inputs stay on the disk."""
    directory = Path(directory)
    document = read_json(directory / _FACTS)
    options, onnx = (
        {
            name: {kind: (int(size), float(loss)) for kind, (size, loss) in kinds.items()}
            for name, kinds in document.pop(table, {}).items()
        }
        for table in ("options", "onnx")
    )
    grams = {name: (directory / file, key) for name, (file, key) in document.pop("grams").items()}
    importance = read_imatrix(directory / _IMATRIX).means()
    return Weighed(options, onnx, document.pop("sources"), importance, grams, document)


def _gram(directory: Path, where: tuple[str, str] | None) -> torch.Tensor | None:
    from safetensors import safe_open

    if where is None:
        return None
    with safe_open(directory / where[0], framework="pt") as file:
        return file.get_tensor(where[1])


def _inputs(means: np.ndarray | None, gram: torch.Tensor | None) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Mean squares and mean products: the products' file has their sum, whose diagonal is that of the squares. Inputs
    that were all zero compensate nothing."""
    import torch

    if means is None:
        return None, None
    squares = torch.from_numpy(means.copy()).clamp_min(1e-12)
    if gram is None or not bool(gram.diagonal().any()):
        return squares, None
    return squares, gram * (squares.sum() / gram.diagonal().sum())


def _grams(
    model: Any,
    weights: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[int]],
    work: Path,
    progress: Progress,
    max_tokens: int,
) -> tuple[Any, dict[str, tuple[str, str]]]:
    """Squared inputs of every layer, and weight -> (file, key) of the products that were written."""
    import torch
    from safetensors.torch import save_file

    layers = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    sizes = {name: 4 * weight.shape[1] ** 2 for name, weight in weights.items() if name in layers}
    where: dict[str, tuple[str, str]] = {}
    found = None
    for number, group in enumerate(_groups(sizes)):
        found = collect(model, rows, progress, max_tokens=max_tokens, grams=frozenset(group))
        file = f"grams-{number}.safetensors"
        keys: dict[int, str] = {}  # layers that share their input share its products
        tensors = {}
        for name, gram in found.grams.items():
            key = keys.setdefault(id(gram), name)
            tensors[key] = gram
            where[name] = (file, key)
        with replacing(work / file) as temporary:
            save_file(tensors, temporary)
        found.grams.clear()
    return found or collect(model, rows, progress, max_tokens=max_tokens), where


def _groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in order, as many together as fit in `ROOM`."""
    group: list[str] = []
    held = 0
    for name, size in sizes.items():
        if group and held + size > ROOM:
            yield group
            group, held = [], 0
        group.append(name)
        held += size
    if group:
        yield group
