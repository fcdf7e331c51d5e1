"""Whether a file computes what the model it was made of computes: its logits against PyTorch's, before any rounding.

A quantized file differs from its model, and the difference does not show whether the graph is right. So the unquantized
graph is compared, and every scheme is made from one that passed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export.probes import Probe, make_probes
from distill2edge.models.kinds import (
    CLASSIFIER,
    DECODER,
    EMBEDDER,
    ENCODER_DECODER,
    KINDS,
    MULTI_LABEL,
    REGRESSOR,
    TAGGER,
)
from distill2edge.models.two_events import two_events
from distill2edge.runtimes import open_runtime
from distill2edge.util.isolate import Crash, run_worker, serve
from distill2edge.util.threads import available_threads

if TYPE_CHECKING:
    from distill2edge.util.progress import Progress

TOLERANCE = {"float32": 1e-5, "float16": 1e-3, "bfloat16": 2e-2}
"""How far a file may be from PyTorch, in nats per token, by the type that its runtime multiplies in: llama.cpp rounds
activations to the type of the weights."""
RELATIVE = {"float32": 3e-3, "float16": 3e-2, "bfloat16": 2e-1}
"""The most that logits may differ: root mean square over their standard deviation. (Flat distributions are close in
nats, whatever they say.) A graph that computes another model differs by some tenths at least."""
_SLACK = 10  # llama.cpp in float32 still has half-precision tables: SmolLM2-135M differs by 1.2e-6 nats, .0007
_LARGE = 1 << 26  # bytes
_DIGITS = 8, 4  # of what is written down: what lies below is float32's own noise


class Check:
    """A comparison that is prepared: PyTorch's outputs are computed, and the model is out of memory again."""

    def __init__(
        self,
        model_dir: Path,
        kind: str,
        runtime: str,
        progress: Progress,
        precision: str = "float32",
        *,
        pairs: bool = False,
    ) -> None:
        """
        Args:
            model_dir: Hugging Face directory.
            kind: of model, by its name.
            runtime: `onnxruntime` or `llama.cpp`.
            precision: what the file stores matrices in; a key of `TOLERANCE`.
            pairs: whether it reads two texts.
        """
        self._began = time.monotonic()
        progress.say("  computing what PyTorch gives, to compare the file with")
        self._progress = progress
        self._kind, self._runtime, self._precision = kind, runtime, precision
        self._probes, self._reach = make_probes(
            model_dir, kind, caches=runtime == "onnxruntime", stored=precision, pairs=pairs
        )

    def of(self, path: Path, work: Path) -> dict[str, Any]:
        """Compare a file.

        Args:
            path: a directory with graphs, or a GGUF, unquantized.
            work: empty directory for what a worker reads and writes.

        Returns:
            for export.json: kl (mean nats per token of the worst probe), relative, tolerance, positions (compared up
            to), window, places, probes. No time: it differs from run to run.

        Raises:
            UserError: the file computes another model; says how much it differs, and where.
            EnvironmentFault: the runtime is missing.
        """
        got, unit = self._answers(path, work), "token" if KINDS[self._kind].writes else "text"
        numbers = {EMBEDDER.name: "vectors", REGRESSOR.name: "numbers"}.get(self._kind)  # which are no distribution
        expected = [probe.expected for probe in self._probes]
        if self._kind == MULTI_LABEL.name:  # then what is added to every logit is a difference
            expected, got = [*map(two_events, expected)], [*map(two_events, got)]
        deviation = deviation_of(expected)
        probes = []
        for probe, first, second in zip(self._probes, expected, got, strict=True):
            kl, relative = difference(first, second, deviation)
            probes.append({"probe": probe.name, "kl": round(kl, _DIGITS[0]), "relative": round(relative, _DIGITS[1])})
        worst = max(probes, key=lambda each: each["relative"])
        kl = max(each["kl"] for each in probes)
        slack = _SLACK if self._runtime == "llama.cpp" and self._precision == "float32" else 1
        tolerance = TOLERANCE[self._precision] * slack
        if not (kl <= tolerance and worst["relative"] <= RELATIVE[self._precision] * slack):
            raise UserError(
                f"the file does not compute what the model does in PyTorch: {worst['probe']}, KL {kl:.2g} nats per "
                f"{unit}, logits differ by {worst['relative']:.2g} of their standard deviation",
                where=str(path),
                fix="use another format, and report this: the model should have been refused before the export",
            )
        said = f"{numbers} differ by {worst['relative']:.1g}" if numbers else f"KL {kl:.1g} nats per {unit}"
        seconds = time.monotonic() - self._began
        self._progress.say(f"  compared with PyTorch up to position {self._reach.compared} of "
                           f"{self._reach.window or 'any'}: {said} ({seconds:.1f} s)")  # fmt: skip
        return {
            "kl": kl,
            "relative": worst["relative"],
            "tolerance": tolerance,
            "positions": self._reach.compared,
            "window": self._reach.window,
            "places": list(self._reach.places),
            "probes": probes,
        }

    def _answers(self, path: Path, work: Path) -> list[np.ndarray]:
        if self._runtime == "onnxruntime":
            return answers(self._runtime, path, self._probes, self._kind, available_threads())
        # llama.cpp can abort, and its peaks of memory stay with a process.
        work.mkdir(parents=True, exist_ok=True)
        parts = [{"ids": each.ids, "positions": each.positions, "prompt": each.prompt} for each in self._probes]
        # Threads that wait for one another cost more than they give where there is little to compute.
        threads = available_threads() if path.stat().st_size > _LARGE else 1
        spec = {"path": str(path), "kind": self._kind, "probes": parts, "threads": threads,
                "answers": str(work / "answers.npz")}  # fmt: skip
        outcome = run_worker(__name__, spec, work, "compare", threads=threads)
        if isinstance(outcome, Crash):
            kind = EnvironmentFault if outcome.environment else UserError
            raise kind(f"llama.cpp cannot run the file: {outcome.words}", where=str(path), fix="use another format")
        with np.load(work / "answers.npz") as stored:
            return [stored[str(index)] for index in range(len(self._probes))]


def deviation_of(expected: Sequence[np.ndarray]) -> float:
    """Standard deviation of logits from the mean of their row, each [n, V] (or [C]), over all of them.

    Of one text a classifier may say "either": two logits that are nearly equal, whose own deviation is noise.
    """
    squares = sum(float(np.square(each - each.mean(-1, keepdims=True), dtype=np.float64).sum()) for each in expected)
    return float(np.sqrt(squares / sum(each.size for each in expected)))


def difference(expected: np.ndarray, got: np.ndarray, deviation: float) -> tuple[float, float]:
    """How far logits are from those expected, both [n, V] (or [C]): the mean KL(expected || got) in nats, and the root
    mean square difference over the standard deviation of those expected (`deviation_of`).

    A constant that is added to every logit is no difference. Infinite where shapes differ or a value is not finite.
    """
    first, second = (np.atleast_2d(np.asarray(each, dtype=np.float64)) for each in (expected, got))
    if first.shape != second.shape:
        return float("inf"), float("inf")
    if first.shape[1] == 1:  # a regression: the number itself
        scale = max(float(np.abs(first).max()), 1.0)
        gap = float(np.abs(first - second).max()) / scale
        return gap * gap, gap
    first, second = (each - each.mean(1, keepdims=True) for each in (first, second))
    relative = float(np.sqrt(np.square(first - second).mean()) / max(deviation, 1e-6))
    first, second = (each - np.log(np.exp(each - each.max(1, keepdims=True)).sum(1, keepdims=True))
                     - each.max(1, keepdims=True) for each in (first, second))  # fmt: skip
    kl = float((np.exp(first) * (first - second)).sum(1).mean())
    return (kl, relative) if np.isfinite(kl) and np.isfinite(relative) else (float("inf"), float("inf"))


def answers(runtime: str, path: Path, probes: Sequence[Probe], kind: str, threads: int) -> list[np.ndarray]:
    """A file's logits on each probe, as its runtime computes them."""
    context = max(len(probe.ids) for probe in probes) + 8
    opened: Any = open_runtime(runtime, path, threads=threads, context=context)
    found = []
    try:
        for probe in probes:
            found.append(_ASK[kind](opened, probe))
    finally:
        opened.close()
    return found


def _continued(opened: Any, probe: Probe) -> np.ndarray:
    if probe.cache is not None:
        return np.asarray(opened.logits_after(list(probe.cache.layers()), probe.ids))
    rows = opened.logits(probe.ids, probe.positions)
    opened.prefill(probe.ids[:-1])
    rows[-1] = opened.decode(probe.ids[-1])  # as it is asked when it writes
    return np.asarray(rows)


_ASK: Mapping[str, Callable[[Any, Probe], np.ndarray]] = {
    DECODER.name: _continued,
    CLASSIFIER.name: lambda opened, probe: opened.classify(probe.ids, probe.types),
    MULTI_LABEL.name: lambda opened, probe: opened.classify(probe.ids, probe.types),
    REGRESSOR.name: lambda opened, probe: opened.classify(probe.ids, probe.types),
    TAGGER.name: lambda opened, probe: opened.tag(probe.ids),
    EMBEDDER.name: lambda opened, probe: opened.embed(probe.ids),
    ENCODER_DECODER.name: lambda opened, probe: opened.logits(probe.ids, probe.positions, prompt=probe.prompt),
}
"""Kind of model -> how its runtime is asked."""


def _work(spec: dict[str, Any], report: Any) -> dict[str, Any]:
    probes = [Probe("", part["ids"], part["positions"], np.empty(0), part["prompt"]) for part in spec["probes"]]
    found = answers("llama.cpp", Path(spec["path"]), probes, spec["kind"], spec["threads"])
    np.savez(spec["answers"], **{str(index): each for index, each in enumerate(found)})
    report(1)
    return {"count": len(found)}


if __name__ == "__main__":
    serve(_work, sys.argv[1:])
