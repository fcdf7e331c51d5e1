"""What each ingredient of training on a grid brings: start, how many weights move, loss, grid, data.

The reference, the text and the measure are those of `quantization_aware`. The base arm trains every weight by forward
KL on the grid of the Q4_0 file that was rounded with an importance matrix; each other arm changes one thing of it.
Training goes on where it was stopped; finished parts are kept.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import write_result
from quantization_aware import Bench, curve, tokens
from reference_model import SEED, TRAIN_WINDOW, default_work, training_rows

from distill2edge.data.examples import Encoded, example_id
from distill2edge.export.grid import of_gguf
from distill2edge.generation.writers import Sampling, open_writer
from distill2edge.gguf.hf_layout import layout_of
from distill2edge.recipe.schema import Lora, Loss, Training
from distill2edge.util.files import write_json
from distill2edge.util.progress import for_stream

LORA_RATE = 5e-4
"""An adapter wants a larger rate than the weights themselves; one rate for all ranks, alpha being twice the rank."""


@dataclass(frozen=True)
class Arm:
    """One way of training."""

    kind: str = "Q4_0"
    rounding: str = "imatrix"
    rank: int | None = None
    rate: float = 1e-4
    loss: Loss = Loss(ce=0, forward_kl=1)  # type: ignore[call-arg]  # noqa: RUF009
    own_text: bool = False

    @property
    def stock(self) -> str:
        """Label of the file that it starts from."""
        return f"{self.kind}, {self.rounding}"


ARMS = {
    "base: all weights, forward KL, Q4_0 by importance": Arm(),
    "LoRA of rank 8": Arm(rank=8, rate=LORA_RATE),
    "LoRA of rank 32": Arm(rank=32, rate=LORA_RATE),
    "LoRA of rank 128": Arm(rank=128, rate=LORA_RATE),
    "plainly rounded start": Arm(rounding="plain"),
    "compensated start": Arm(rounding="compensated"),
    "reverse KL": Arm(loss=Loss(ce=0, reverse_kl=1)),  # type: ignore[call-arg]
    "cross-entropy on the text": Arm(loss=Loss(ce=1)),  # type: ignore[call-arg]
    "grid of Q4_K_S": Arm(kind="Q4_K_S"),
    "text that the model wrote": Arm(own_text=True),
}
BATCH = 4


def own_text(bench: Bench, count: int) -> list[Encoded]:
    """Rows that the reference wrote after the first token of a review each, without any data (as LLM-QAT, Liu et al.
    2023, arXiv 2305.17888, section 3.1); kept on disk."""
    from transformers import AutoTokenizer

    path = bench.work / f"own-text-{count}.json"
    if not path.is_file():
        reviews, _ = training_rows(bench.model_dir, bench.progress)
        tokenizer = AutoTokenizer.from_pretrained(bench.model_dir, local_files_only=True)
        drawn = Sampling(TRAIN_WINDOW - 1, temperature=1.0)
        write = open_writer(bench.model_dir, tokenizer, drawn, (), "transformers", None)
        prompts = [row.ids[:1] for row in reviews[:count]]
        answers = write(prompts, SEED)
        write_json(path, [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
    mask = [False] + [True] * (TRAIN_WINDOW - 1)
    return [Encoded(example_id(ids, mask), ids, mask) for ids in json.loads(path.read_text())]


def trained(bench: Bench, name: str, arm: Arm, steps: int) -> dict[str, Any]:
    """The figures of one arm: its file before and after, its curve."""
    types = bench.stock_types(arm.kind)
    if arm.rounding == "compensated":
        start, grids = bench.start(types, f"start-{arm.kind}")
        before = bench.measure(arm.stock, lambda: bench.mixed(types, f"stock-{arm.kind}", arm.rounding))
    else:
        file = bench.stock(arm.kind, arm.rounding == "imatrix")
        start, grids = bench.model_dir, of_gguf(file, layout_of(bench.model_dir))
        before = bench.measure(arm.stock, lambda: file)
    shared = {"epochs": 1, "batch_size": BATCH, "schedule": "cosine", "checkpoints": 4}
    training = Training(max_steps=steps, learning_rate=arm.rate, **shared)  # type: ignore[arg-type]
    lora = None if arm.rank is None else Lora(rank=arm.rank, alpha=2 * arm.rank)  # type: ignore[call-arg]
    label = f"{''.join(letter if letter.isalnum() else '-' for letter in name)}-{steps}"
    rows = own_text(bench, BATCH * steps) if arm.own_text else None
    work = bench.train(label, start, grids, training, arm.loss, lora, rows)
    after = bench.measure(f"{name}, {steps} steps", lambda: bench.trained_gguf(work))
    seen = {"curve": curve(work), "tokens": tokens(work), "rate": arm.rate, "start": arm.stock}
    return {"before": before, "after": after, "kept": after["kl"] / before["kl"], **seen}


def main() -> None:
    """Every arm, then the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="where models, signals and files are kept")
    parser.add_argument("--steps", type=int, default=24, help="of 4 x 128 tokens, for every arm")
    parser.add_argument("--only", nargs="+", default=list(ARMS), metavar="ARM", help="arms that are run or kept")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    bench = Bench(chosen.work, for_stream(), "ingredients")
    found = {name: trained(bench, name, ARMS[name], chosen.steps) for name in chosen.only}
    whole = list(found) == list(ARMS)
    path = write_result(
        "quantization_aware_ingredients",
        f"python benchmarks/quantization_aware_ingredients.py --steps {chosen.steps}"
        + ("" if whole else " --only " + " ".join(f'"{name}"' for name in found)),
        description="SmolLM2-135M (noise of half a step on its packaged weights) trained on the grid of its own 4-bit "
        "files, one change at a time: KL on 3,072 held-out tokens of newspaper editorials; trained on film and product "
        "reviews. One seed; the base's settings were not searched for, those of the arms neither",
        bars=[],
        samples={name: [row["after"]["kl"]] for name, row in found.items()},
        metrics={"arms": found},
        seeds=[SEED],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
