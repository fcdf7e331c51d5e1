"""End to end beside TRL 1.16: the same rows, student, steps and loss; processor seconds, peak memory, held-out KL.

python benchmarks/peers_trl.py                     three seeds, one epoch and three
python benchmarks/peers_trl.py --seeds 0 --epochs 1

SmolLM2-135M-Instruct teaches its own lowest 16 layers through adapters of rank 32: forward KL at temperature 1 on 64
tokens after a prompt of 32, 192 rows of film reviews, batches of 8, float32, one thread. Ours is `distill2edge merge`
of a recipe with the defaults (200 validation rows, asked at four checkpoints and at the end) from an empty store:
signal, student, training, merge. TRL's is benchmarks/peers/trl_arm.py in an environment of its own on the same
packages, with as many evaluations on the same rows. Both are whole processes, imports included, in turns; seconds and
peak are the kernel's for the process and all that it started.
"""

from __future__ import annotations

import argparse
import json
import os
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from common import ROOT, bar, paired, ratio, write_result

from distill2edge.data.encode import encode_rows
from distill2edge.data.split_files import read_rows
from distill2edge.intake import bundled
from distill2edge.intake.obtain import fetch_model
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.loading import load_model
from distill2edge.util.progress import SilentProgress

PEER = "trl==1.16.0"
MODEL, SOURCE = "bundled:smollm2-135m-instruct", "movie-sentiment"
SEEDS, EPOCHS = (0, 1, 2), (1, 3)
PROMPT, ANSWER, LENGTH = 32, 63, 128
SPLITS = {"train": 192, "validation": 200, "calibration": 0, "test": 32}
BATCH, RANK, RATE, WARMUP, EVALUATIONS = 8, 32, 1e-3, 0.05, 5
ARMS = ("ours", "TRL")


@dataclass(frozen=True)
class Cost:
    """Of a process and what it started: processor seconds, wall seconds, peak bytes of the largest."""

    cpu_s: float
    wall_s: float
    peak: float


def measured(command: Sequence[str], log: Path, **environment: str) -> Cost:
    """Run a command to its end on one thread; what an earlier try has measured is taken."""
    kept = log.with_suffix(".cost.json")
    if kept.is_file():
        return Cost(**json.loads(kept.read_text()))
    own = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        **environment,
    }
    start = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=own)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: see {log}")
    seconds = usage.ru_utime + usage.ru_stime
    cost = Cost(seconds, time.monotonic() - start, usage.ru_maxrss * 1024.0)
    kept.write_text(json.dumps(asdict(cost)))
    return cost


def environment(place: Path) -> Path:
    """The Python of an environment that has the peer, and this one's packages for all else."""
    python = place / "bin" / "python"
    if not python.exists():
        venv.create(place, with_pip=True)
        (own,) = place.glob("lib/python*/site-packages")
        (own / "shared.pth").write_text("\n".join(site.getsitepackages()) + "\n")
        subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", PEER], check=True)
    return python


def write_rows(model: Path, path: Path) -> None:
    """Pieces of running text, as a prompt and what follows it."""
    tokenizer = load_tokenizer(model)
    text = " ".join(str(row["text"]).strip() for row in bundled.rows(SOURCE, SilentProgress()))
    ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    size = PROMPT + ANSWER + 1
    pieces = [ids[at : at + size] for at in range(0, len(ids) - size, size)][: sum(SPLITS.values()) + 20]
    rows = [
        {"prompt": tokenizer.decode(piece[:PROMPT]), "response": tokenizer.decode(piece[PROMPT:-1])} for piece in pieces
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def recipe_of(teacher: Path, rows: Path, seed: int, epochs: int) -> dict[str, Any]:
    """What ours runs: the defaults but for what both sides have in common."""
    return {
        "name": "peers", "seed": seed, "task": "causal-lm",
        "teacher": {"model": str(teacher), "licence": "apache-2.0"},
        "data": {"source": str(rows), "template": "plain", "max_length": LENGTH, "splits": SPLITS,
                 "leakage": {"near_duplicate": 1.0, "action": "keep", "max_fraction": 1.0}},
        "signal": {"kind": "logits", "temperature": 1.0},
        "student": {"init": {"from": "teacher", "layers": 16, "select": "first"},
                    "lora": {"rank": RANK, "alpha": 2 * RANK}},
        "distill": {"loss": {"forward_kl": 1.0}, "epochs": epochs, "learning_rate": RATE, "batch_size": BATCH,
                    "dtype": "float32"},
        "export": ["gguf:Q8_0"],
    }  # fmt: skip


class Work:
    """A place with the teacher, the rows, the student that TRL begins with, and the peer's environment."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.teacher, self.rows = place / "fetched" / "model", place / "rows.jsonl"
        if not self.rows.is_file():
            fetch_model(MODEL, None, place / "fetched", SilentProgress(), where="teacher.model")
            write_rows(self.teacher, self.rows)
        self.python = environment(place / "peer")

    def ours(self, seed: int, epochs: int) -> tuple[Cost, Path]:
        """`distill2edge merge` from an empty store, and the merged student."""
        name = self.place / f"ours-{seed}-{epochs}"
        recipe = name.with_suffix(".yaml")
        recipe.write_text(yaml.safe_dump(recipe_of(self.teacher, self.rows, seed, epochs)))
        command = [sys.executable, "-m", "distill2edge", "merge", str(recipe), "--store", str(name)]
        cost = measured(command, name.with_suffix(".log"))
        (merged,) = (name / "merge").glob("*/model")
        return cost, merged

    def trl(self, seed: int, epochs: int) -> tuple[Cost, Path]:
        """TRL on the rows and the student that ours had; called after `ours`."""
        name, store = self.place / f"trl-{seed}-{epochs}", self.place / f"ours-{seed}-{epochs}"
        (data,), (student,) = (store / "data").glob("*"), (store / "student").glob("*/model")
        job = {
            "seed": seed, "epochs": epochs, "batch": BATCH, "rate": RATE, "warmup": WARMUP, "rank": RANK,
            "length": LENGTH, "evaluations": EVALUATIONS, "student": str(student), "teacher": str(self.teacher),
            "result": str(name),
            "rows": {split: self.encoded(data, split) for split in ("train", "validation")},
        }  # fmt: skip
        path = name.with_suffix(".json")
        path.write_text(json.dumps(job))
        return measured(
            [str(self.python), str(ROOT / "benchmarks/peers/trl_arm.py"), str(path)], name.with_suffix(".log")
        ), name

    def encoded(self, data: Path, split: str) -> list[dict[str, Any]]:
        """Token ids and masks of a split, as ours trains on them."""
        found = encode_rows(read_rows(data, split), load_tokenizer(self.teacher), "plain", None, LENGTH)
        return [{"ids": list(row.ids), "mask": [bool(each) for each in row.mask]} for row in found]

    @torch.no_grad()
    def divergences(self, model: Path, seed: int, epochs: int) -> list[float]:
        """KL(teacher || model) of each held-out row, nats per supervised token, over the whole vocabulary."""
        (data,) = (self.place / f"ours-{seed}-{epochs}" / "data").glob("*")
        models = [load_model(path, dtype=torch.float32).eval() for path in (self.teacher, model)]
        found = []
        for row in self.encoded(data, "test"):
            ids, at = torch.tensor([row["ids"]]), [t - 1 for t, own in enumerate(row["mask"]) if own]
            wanted, ours = (torch.log_softmax(each(ids, use_cache=False).logits[0, at].float(), -1) for each in models)
            found.append(float((wanted.exp() * (wanted - ours)).sum(-1).mean()))
        return found


def main() -> None:
    """Run both in turns, compare, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--epochs", type=int, nargs="+", default=EPOCHS)
    parser.add_argument("--place", type=Path, help="kept, with what was measured; by default a temporary one")
    options = parser.parse_args()
    work = Work(options.place or Path(tempfile.mkdtemp()))
    costs: dict[str, dict[str, list[Cost]]] = {}
    kl: dict[str, dict[str, list[list[float]]]] = {}
    for epochs in options.epochs:
        name = f"{epochs} epochs" if epochs > 1 else "1 epoch"
        costs[name], kl[name] = ({arm: [] for arm in ARMS} for _ in range(2))
        for seed in options.seeds:
            for arm, run in zip(ARMS, (work.ours, work.trl), strict=True):
                cost, model = run(seed, epochs)
                costs[name][arm].append(cost)
                kl[name][arm].append(work.divergences(model, seed, epochs))
                mean = sum(kl[name][arm][-1]) / len(kl[name][arm][-1])
                print(
                    f"{name}, seed {seed}, {arm}: {cost.cpu_s:.0f} s, {cost.peak / 1e9:.2f} GB, KL {mean:.3f}",
                    flush=True,
                )
    seeds, passes = (" ".join(map(str, each)) for each in (options.seeds, options.epochs))
    write(f"--seeds {seeds} --epochs {passes}", options.seeds, costs, kl)


def write(asked: str, seeds: Sequence[int], costs: Any, kl: Any) -> None:
    """The result file; `asked`: the options that make it again."""
    bars, metrics = [], {}
    for name, found in costs.items():
        cpu = {arm: [cost.cpu_s for cost in found[arm]] for arm in ARMS}
        peak = {arm: [cost.peak for cost in found[arm]] for arm in ARMS}
        faster, memory, worse = (
            ratio(cpu, "TRL", "ours"),
            ratio(peak, "ours", "TRL"),
            paired(kl[name]["ours"], kl[name]["TRL"]),
        )
        bars += [
            bar(
                f"{name}: processor seconds, TRL's over ours", faster, ">=", 1.4 if name == "1 epoch" else 2.0, unit="x"
            ),
            bar(f"{name}: peak memory over TRL's", memory, "<=", 0.6, unit="x"),
            bar(f"{name}: held-out KL less TRL's", worse, "<=", 0.0, unit="nats"),
        ]
        metrics[name] = {"faster": faster, "memory": memory, "KL": worse}
    write_result(
        "peers_trl",
        f"python benchmarks/peers_trl.py {asked}",
        description=f"distill2edge merge beside {PEER} (GKDTrainer, off-policy): the same rows, student, steps, loss",
        bars=bars,
        samples={
            f"{name}, {arm}": [{"cpu_s": c.cpu_s, "wall_s": c.wall_s, "peak": c.peak} for c in found[arm]]
            for name, found in costs.items() for arm in ARMS
        },
        metrics={**metrics, "KL by row": kl},
        seeds=seeds,
    )  # fmt: skip


if __name__ == "__main__":
    main()
