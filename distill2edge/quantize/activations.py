"""What each matrix is multiplied with on the calibration rows: mean squared inputs, and the products of inputs.

The squares go into llama.cpp's importance matrix, the products into safetensors: as many tensors at a time as fit in
`ROOM` bytes, each part in a pass of its own over the rows, so that memory is bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.gguf.imatrix import Importance, read_imatrix, write_imatrix
from distill2edge.quantize.activation_statistics import FEW_TOKENS, Statistics, collect
from distill2edge.util.files import read_json, replacing
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    import torch

ROOM = 1 << 30
"""Bytes of statistics in memory at once, beside the model; a single larger tensor still goes through."""
IMATRIX = "imatrix.gguf"


@dataclass(frozen=True)
class Activations:
    """What the calibration stage wrote; tensors are named as in a GGUF.

    Attributes:
        sources: tensor -> its name in the Hugging Face directory; of a tied matrix the first of its two.
        importance: tensor -> [columns] mean squared inputs.
        grams: tensor -> (file, key) of the products of its inputs, which stay on the disk.
    """

    sources: Mapping[str, str]
    importance: Mapping[str, np.ndarray]
    grams: Mapping[str, tuple[Path, str]]

    def gram(self, name: str) -> torch.Tensor | None:
        """[columns, columns], the summed products of one tensor's inputs, read from their file."""
        from safetensors import safe_open

        if name not in self.grams:
            return None
        path, key = self.grams[name]
        with safe_open(path, framework="pt") as file:
            return file.get_tensor(key)

    def sums(self, name: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """[columns] mean squared inputs and [columns, columns] summed products of one tensor, as they were written."""
        import torch

        importance = self.importance.get(name)
        return None if importance is None else torch.from_numpy(importance), self.gram(name)

    def means(self, name: str) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """[columns] mean squared inputs and [columns, columns] mean of their products, of one tensor.

        The file has the sum of products, whose diagonal is that of the squares. Inputs that were all zero compensate
        nothing.
        """
        squares, gram = self.sums(name)
        if squares is None:
            return None, None
        squares = squares.clamp_min(1e-12)
        if gram is None or not bool(gram.diagonal().any()):
            return squares, None
        return squares, gram * (squares.sum() / gram.diagonal().sum())

    def table(self) -> dict[str, Any]:
        """For the stage's JSON, beside which the products lie."""
        return {"sources": self.sources, "grams": {name: (path.name, key) for name, (path, key) in self.grams.items()}}


def gather_activations(
    model: Any,
    names: Mapping[str, str],
    rows: Sequence[Sequence[int]],
    work: Path,
    progress: Progress,
    *,
    max_tokens: int,
    dataset: str,
    grams: bool,
) -> tuple[Activations, int]:
    """Write `imatrix.gguf`, and with `grams` also `grams-N.safetensors`.

    Args:
        model: a torch model in eval mode.
        names: Hugging Face weight name -> GGUF tensor name.
        rows: token ids.
        max_tokens: rows beyond this many tokens are left out.
        dataset: where the rows come from, for the file's metadata.
        grams: also keep the products of inputs.

    Returns:
        what was written, and the calibration tokens.

    Raises:
        UserError: no rows, or activations that are not finite.
    """
    parts, weights = matrices(model, names)
    squares, where = _gather(model, weights if grams else {}, rows, Path(work), progress, max_tokens)
    importance = importance_of(squares, names, dataset)
    tokens = enough(importance, progress)
    write_imatrix(Path(work) / IMATRIX, importance)
    # Of a tied matrix the products are those of the head: a lookup multiplies nothing.
    kept = {name: where[source] for name, own in parts.items() for source in own if source in where}
    return Activations({name: own[0] for name, own in parts.items()}, importance.means(), kept), tokens


def read_activations(directory: Path, facts: str) -> Activations:
    """What a stage wrote.

    Args:
        facts: name of the stage's JSON, which has `Activations.table`.
    """
    document = read_json(Path(directory) / facts)
    grams = {name: (Path(directory) / file, key) for name, (file, key) in document["grams"].items()}
    return Activations(document["sources"], read_imatrix(Path(directory) / IMATRIX).means(), grams)


def matrices(model: Any, names: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, torch.Tensor]]:
    """GGUF tensor -> weights of the model's state that are it (a tied matrix has two uses), and those weights.

    They are those of linear layers and the embedding: what else is multiplied (routers, experts, further tables) has
    no inputs that are seen.
    """
    import torch

    embedding = model.get_input_embeddings()
    measured = {
        f"{name}.weight"
        for name, part in model.named_modules()
        if isinstance(part, torch.nn.Linear) or part is embedding
    }
    parts: dict[str, list[str]] = {}
    weights: dict[str, torch.Tensor] = {}
    for source, weight in model.state_dict().items():
        if source in names and source in measured:
            parts.setdefault(names[source], []).append(source)
            weights[source] = weight
    return parts, weights


def check_disjoint(rows: Collection[str], held_out: Collection[str]) -> None:
    """Refuse calibration rows that evaluate too.

    Raises:
        UserError: ids that are in both.
    """
    shared = sorted(set(rows) & set(held_out))
    if shared:
        raise UserError(
            f"{len(shared)} calibration rows are held-out rows too, for instance {shared[0]}",
            where="data.splits.calibration",
            fix="remove duplicates from the data, or set quantize.calibration: none",
        )


def importance_of(found: Statistics, names: Mapping[str, str], dataset: str) -> Importance:
    """Squared inputs by the names of a GGUF."""
    sums = {names[name]: value.numpy() for name, value in found.squares.items() if name in names}
    return Importance(sums, {names[name]: found.tokens[name] for name in found.squares if name in names}, [dataset])


def enough(importance: Importance, progress: Progress) -> int:
    """The number of calibration tokens; warns if they are few."""
    tokens = max(importance.counts.values())
    if tokens < FEW_TOKENS:
        progress.warn(f"only {tokens} calibration tokens: {FEW_TOKENS:,} or more give steadier statistics")
    return tokens


def groups(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Names in order, as many together as fit in `ROOM`."""
    group: list[str] = []
    total = 0
    for name, size in sizes.items():
        if group and total + size > ROOM:
            yield group
            group, total = [], 0
        group.append(name)
        total += size
    if group:
        yield group


def _gather(
    model: Any,
    weights: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[int]],
    work: Path,
    progress: Progress,
    max_tokens: int,
) -> tuple[Statistics, dict[str, tuple[Path, str]]]:
    """Squared inputs of every layer, and weight -> (file, key) of the products that were written.

    Args:
        weights: those whose inputs' products are kept.
    """
    import torch
    from safetensors.torch import save_file

    layers = {f"{name}.weight" for name, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    sizes = {name: 4 * weight.shape[1] ** 2 for name, weight in weights.items() if name in layers}
    where: dict[str, tuple[Path, str]] = {}
    found = None
    for number, group in enumerate(groups(sizes)):
        found = collect(model, rows, progress, max_tokens=max_tokens, grams=frozenset(group))
        path = work / f"grams-{number}.safetensors"
        keys: dict[int, str] = {}  # layers that share their input share its products
        tensors = {}
        for name, gram in found.grams.items():
            key = keys.setdefault(id(gram), name)
            tensors[key] = gram
            where[name] = (path, key)
        with replacing(path) as temporary:
            save_file(tensors, temporary)
        found.grams.clear()
    return found or collect(model, rows, progress, max_tokens=max_tokens), where
