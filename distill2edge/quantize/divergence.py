"""KL of a model with other weights from the model itself, in torch: the measurement behind `max_kl`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from distill2edge.errors import EnvironmentFault
from distill2edge.models.kinds import CLASSIFIER, DECODER, ENCODER_DECODER, kind_of_model, logits_of
from distill2edge.models.loading import load_model
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

if TYPE_CHECKING:
    import torch


class Row(NamedTuple):
    """A text that is compared.

    Attributes:
        ids: tokens.
        positions: whose distributions are compared; a classifier has one, 0.
        prompt: count of the tokens before the response.
        types: segment ids, of two texts that an encoder reads.
    """

    ids: Sequence[int]
    positions: Sequence[int]
    prompt: int
    types: Sequence[int] | None = None


_CHUNK = 64  # positions whose distributions are in memory at once


class Divergence:
    """Mean KL(model || model with other weights) in nats per position over rows: a token, or a classifier's text.

    The model's own log-probabilities are kept in a file until `close`.

    Args:
        model_dir: Hugging Face directory.
        rows: those without positions are left out.
        work: directory for the file.

    Raises:
        EnvironmentFault: too little disk space for the file.
    """

    def __init__(self, model_dir: Path, rows: Sequence[Row], work: Path, progress: Progress) -> None:
        import torch

        self._model: Any = load_model(model_dir, dtype=torch.float32).eval()
        self._rows = [row for row in rows if row.positions]
        self._look = _LOGITS[kind_of_model(self._model).name]
        self._progress = progress
        self._path = Path(work) / "reference.f32"
        self.positions = sum(len(row.positions) for row in self._rows)
        self._write()

    def of(self, weights: Mapping[str, torch.Tensor], title: str) -> float:
        """The KL once these weights, by their names in the model's state, are in place; they stay there."""
        import numpy as np
        import torch

        state = self._model.state_dict()
        with torch.no_grad():
            for name, weight in weights.items():
                state[name].copy_(weight)
        wanted = np.memmap(self._path, dtype=np.float32, mode="r", shape=(self.positions, self._vocabulary))
        total, start = 0.0, 0
        with self._progress.task(title, len(self._rows)) as task, torch.no_grad():
            for row in self._rows:
                ours, count = self._logits(row), len(row.positions)
                for at in range(0, count, _CHUNK):
                    end = min(at + _CHUNK, count)
                    target = torch.from_numpy(np.array(wanted[start + at : start + end])).double()
                    here = torch.log_softmax(ours[at:end].double(), -1)
                    total += float((target.exp() * (target - here)).sum())
                start += count
                task.advance()
        return max(0.0, total / self.positions)

    def close(self) -> None:
        """Remove the reference."""
        self._path.unlink(missing_ok=True)

    def _logits(self, row: Row) -> torch.Tensor:
        """[positions, classes]."""
        return self._look(self._model, row).float()

    def _write(self) -> None:
        import shutil

        import numpy as np
        import torch

        with torch.no_grad():
            self._vocabulary = self._logits(self._rows[0]).shape[-1]
        need, free = self.positions * self._vocabulary * 4, shutil.disk_usage(self._path.parent).free
        if need > free:
            raise EnvironmentFault(f"{readable_bytes(need)} are needed to measure KL, {readable_bytes(free)} are free",
                                   where=str(self._path.parent), fix="free disk space, or move the store")  # fmt: skip
        out = np.memmap(self._path, dtype=np.float32, mode="w+", shape=(self.positions, self._vocabulary))
        start = 0
        with self._progress.task("reference distributions", len(self._rows)) as task, torch.no_grad():
            for row in self._rows:
                end = start + len(row.positions)
                out[start:end] = torch.log_softmax(self._logits(row), -1).numpy()
                start = end
                task.advance()
        out.flush()


def _of_decoder(model: Any, row: Row) -> torch.Tensor:
    import torch

    places = torch.tensor(row.positions)
    found: torch.Tensor = model(input_ids=torch.tensor([row.ids]), use_cache=False, logits_to_keep=places).logits[0]
    return found


def _of_pair(model: Any, row: Row) -> torch.Tensor:
    found: torch.Tensor = logits_of(model, row.ids, row.prompt)
    return found[[position - (row.prompt - 1) for position in row.positions]]


def _of_text(model: Any, row: Row) -> torch.Tensor:
    found: torch.Tensor = logits_of(model, row.ids, row.prompt, row.types)
    return found[None]


_LOGITS: Mapping[str, Callable[[Any, Row], torch.Tensor]] = {
    DECODER.name: _of_decoder,
    ENCODER_DECODER.name: _of_pair,
    CLASSIFIER.name: _of_text,
}
"""Kind of model -> logits [positions, classes] of a row. A number and a vector are no distributions, and have no KL."""
