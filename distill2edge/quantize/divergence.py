"""KL of a model with other weights from the model itself, in torch: the measurement behind `max_kl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.models.loading import load_model
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

if TYPE_CHECKING:
    import torch

Row = tuple[Sequence[int], Sequence[int]]
"""Token ids, and the positions that are compared."""
_CHUNK = 64  # positions whose distributions are in memory at once


class Divergence:
    """Mean KL(model || model with other weights) in nats per token over rows.

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
        self._rows = [(list(ids), list(positions)) for ids, positions in rows if positions]
        self._progress = progress
        self._path = Path(work) / "reference.f32"
        self.positions = sum(len(positions) for _, positions in self._rows)
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
            for ids, positions in self._rows:
                ours = self._logits(ids, positions)
                for at in range(0, len(positions), _CHUNK):
                    end = min(at + _CHUNK, len(positions))
                    target = torch.from_numpy(np.array(wanted[start + at : start + end])).double()
                    here = torch.log_softmax(ours[at:end].double(), -1)
                    total += float((target.exp() * (target - here)).sum())
                start += len(positions)
                task.advance()
        return max(0.0, total / self.positions)

    def close(self) -> None:
        """Remove the reference."""
        self._path.unlink(missing_ok=True)

    def _logits(self, ids: list[int], positions: list[int]) -> torch.Tensor:
        import torch

        hidden = self._model(input_ids=torch.tensor([ids]), use_cache=False, logits_to_keep=torch.tensor(positions))
        logits: torch.Tensor = hidden.logits[0].float()
        return logits

    def _write(self) -> None:
        import shutil

        import numpy as np
        import torch

        self._vocabulary = int(self._model.config.get_text_config().vocab_size)
        need, free = self.positions * self._vocabulary * 4, shutil.disk_usage(self._path.parent).free
        if need > free:
            raise EnvironmentFault(f"{readable_bytes(need)} are needed to measure KL, {readable_bytes(free)} are free",
                                   where=str(self._path.parent), fix="free disk space, or move the store")  # fmt: skip
        out = np.memmap(self._path, dtype=np.float32, mode="w+", shape=(self.positions, self._vocabulary))
        start = 0
        with self._progress.task("reference distributions", len(self._rows)) as task, torch.no_grad():
            for ids, positions in self._rows:
                logits = self._logits(ids, positions)
                out[start : start + len(positions)] = torch.log_softmax(logits, -1).numpy()
                start += len(positions)
                task.advance()
        out.flush()
