"""A teacher's shards by one process and by two workers of a Ray cluster: are they the same, and what does a kill cost.

Bytes: the SHA-256 of every shard of several kinds of pass (`tests/worker_cases.py`), by one process with one thread
and by two workers of one core. Kill: one worker of two is ended by SIGKILL in the middle of shards of a second.
Speed: logits
of a random Llama, in rows per second from the first shard that is there to the last, so without the start of cluster
and workers, whose seconds stand beside them; not claimed where other work held the cores.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import ROOT, bar, interleave, ratio, write_result

sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

from distill2edge.bench import contention
from distill2edge.recipe.teacher_workers import Workers
from distill2edge.util.progress import SilentProgress
from distill2edge.util.threads import available_threads, limit_threads
from distill2edge.workers.mapping import map_shards, shared_out

ROWS, LENGTH, SHARD, SLOW = 480, 64, 24, 12
ARMS = ("one", "two")


class Timed(SilentProgress):
    """When each row was done."""

    def __init__(self) -> None:
        self.at: list[float] = []
        self.count: list[int] = []

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Any]:
        """As `Progress.task`."""
        yield self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """As `Task.advance`."""
        if steps:
            self.at.append(time.perf_counter())
            self.count.append(steps)

    @property
    def rate(self) -> float:
        """Rows per second after the first shard."""
        from itertools import accumulate

        counts = list(accumulate(self.count))
        first = next(number for number, count in enumerate(counts) if count >= SHARD)
        return (counts[-1] - counts[first]) / (self.at[-1] - self.at[first])


@contextmanager
def made_by(arm: str, progress: Any) -> Iterator[None]:
    """One thread of this process, or two workers of one core."""
    if arm == "one":
        limit_threads(1)
        yield
        limit_threads(os.cpu_count() or 1)
        return
    with shared_out(Workers(replicas=2), progress):
        yield


def same_bytes(place: Path) -> dict[str, float]:
    """Of each kind of pass, the share of shards that two workers made as one process did."""
    from tests import worker_cases as cases

    cases.make(place)
    for arm in ARMS:
        with made_by(arm, SilentProgress()):
            for name in cases.ON_CLUSTER:
                cases.CASES[name](place, place / arm / name, SilentProgress())
    found = {}
    for name in cases.ON_CLUSTER:
        one, two = (cases.shards(place / arm / name) for arm in ARMS)
        found[name] = sum(two.get(shard) == digest for shard, digest in one.items()) / len(one)
    return found


def killed(place: Path) -> dict[str, int]:
    """Shards lost, and finished ones made again, where one of two workers is killed after the third shard."""
    import psutil

    from tests.workers.slow_pass import Slow

    place.mkdir()
    progress, made = SilentProgress(), []
    given = ((number, number) for number in range(SLOW))
    with made_by("two", progress), progress.task("", SLOW) as task:
        for number, _ in map_shards(Slow(place / "log"), given, SLOW, task):
            made.append(number)
            if len(made) == 3:
                crew = [
                    each
                    for each in psutil.Process().children(recursive=True)
                    if "ray::Worker" in " ".join(each.cmdline())
                ]
                crew[0].send_signal(signal.SIGKILL)
    finished = (place / "log").read_text().split()
    return {
        "shards": SLOW, "missing": SLOW - len(set(made)), "made again": len(finished) - len(set(finished)),
    }  # fmt: skip


def scored(place: Path, arm: str, work: Path) -> tuple[float, float]:
    """Rows per second of the logits, and the seconds of the whole stage."""
    from processes import VOCABULARY

    from distill2edge.data.examples import Encoded
    from distill2edge.recipe.schema import LogitsSignal
    from distill2edge.teacher.logits import cache_logits
    from tests.worker_cases import example_id, random

    draw, rows = random.Random(0), []
    for _ in range(ROWS):
        ids = [draw.randrange(3, VOCABULARY) for _ in range(LENGTH)]
        mask = [at >= LENGTH // 2 for at in range(LENGTH)]
        rows.append(Encoded(example_id(ids, mask), ids, mask))
    progress, begin = Timed(), time.perf_counter()
    told = LogitsSignal(top_k=64)  # type: ignore[call-arg]
    with made_by(arm, progress):
        cache_logits(place, rows, told, work, progress, dtype="float32", shard_rows=SHARD)
    return progress.rate, time.perf_counter() - begin


def measure(root: Path, rounds: int) -> None:
    """All of it, then the bars."""
    from processes import student

    from tests.tiny import tiny_tokenizer
    from tests.worker_cases import shards

    same = same_bytes(root / "cases")
    lost = killed(root / "killed")
    student(root / "model")
    tiny_tokenizer(root / "model")
    whole: dict[str, list[float]] = {arm: [] for arm in ARMS}

    def arm_of(arm: str) -> float:
        rate, seconds = scored(root / "model", arm, root / f"{arm}-{len(whole[arm])}")
        whole[arm].append(seconds)
        return rate

    probe = contention.Probe(available_threads())
    say = lambda line: print(line, flush=True)  # noqa: E731
    rates = interleave({arm: (lambda arm=arm: arm_of(arm)) for arm in ARMS}, rounds, warmup=0, log=say)
    busy = probe.stop()
    reasons = contention.reasons(busy, available_threads())
    large = {arm: shards(root / f"{arm}-0") for arm in ARMS}
    same["logits of the timed model"] = float(large["one"] == large["two"])
    found, note = ratio(rates, "two", "one"), "2 would be all"
    if reasons:
        note = f"not claimed: {'; '.join(reasons)} ({found.value:.2f}x was seen, where 2 would be all)"
    path = write_result(
        "ray",
        f"python benchmarks/ray_workers.py --rounds {rounds}",
        description=f"one process with one thread, and two workers of one core on a Ray cluster of this machine; the "
        f"timed model: a random Llama of four layers of 384, {ROWS} rows of {LENGTH} tokens in shards of {SHARD}",
        bars=[
            bar("share of shards whose bytes are those of one process", min(same.values()), ">=", 1.0),
            bar("shards missing after one of two workers was killed", lost["missing"], "<=", 0),
            bar("finished shards made again after that", lost["made again"], "<=", 0),
            bar("two workers / one process: rows/s", None if reasons else found, ">=", 1.6, unit="x", note=note),
        ],
        samples={**rates, **{f"{arm}, whole_s": each for arm, each in whole.items()}},
        metrics={"same_bytes": same, "killed": lost, "contention": {**busy, "reasons": reasons}},
        seeds=[0],
    )
    print(path)


def main() -> None:
    """Measure and write the result file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as temporary:
        measure(Path(temporary), chosen.rounds)


if __name__ == "__main__":
    main()
