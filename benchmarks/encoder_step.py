"""A distillation step of an encoder through our Trainer against a plain PyTorch loop with the same losses.

Both train a BERT of three layers from one of six (384 wide) on class logits at a temperature and on hidden states, in
the same dtype, on the same texts of one length, with AdamW, a linear schedule and clipped gradients. Runs take turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from common import bar, interleave, ratio, summary, write_result

TEXTS, LENGTH, BATCH, CLASSES, ROUNDS = 512, 32, 32, 2, 9
TEMPERATURE, HIDDEN, RATE = 2.0, 1.0, 1e-4
LAYERS = (1, 3, 5)


def make_models(root: Path) -> None:
    """A random teacher, and the student of some of its layers."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from distill2edge.student.layers import keep_layers

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=8000, hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12,
        num_labels=CLASSES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    model.save_pretrained(root / "teacher")
    keep_layers(model, LAYERS)
    model.save_pretrained(root / "student")


def make_rows() -> list[Any]:
    """Texts of one length, with labels."""
    import numpy as np

    from distill2edge.data.examples import Encoded

    random = np.random.default_rng(0)
    return [
        Encoded(f"{n:032x}", random.integers(5, 8000, LENGTH).tolist(), [False] * LENGTH, n % CLASSES)
        for n in range(TEXTS)
    ]


def ours(root: Path, rows: list[Any]) -> tuple[float, float]:
    """Seconds a step of the training stage, and its last loss."""
    from distill2edge.distill.classifier_model import make_classifier
    from distill2edge.distill.encoder_training import Beside, train_encoder
    from distill2edge.recipe import schema
    from distill2edge.util.progress import SilentProgress

    with tempfile.TemporaryDirectory(dir=root) as work:
        facts = train_encoder(
            make_classifier, root / "student", rows, (), (root / "signal", TEMPERATURE),
            Beside(root / "teacher", LAYERS),
            schema.Distill(
                epochs=1, learning_rate=RATE, schedule="linear", warmup=0.0, batch_size=BATCH, checkpoints=0
            ),
            schema.Loss(ce=0.5, forward_kl=0.5, hidden=HIDDEN), None, 0, Path(work), SilentProgress(),
        )  # fmt: skip
    return facts["wall_s"] / facts["steps"], facts["loss"]


def plain(root: Path, rows: list[Any]) -> tuple[float, float]:
    """The same by hand: nothing but a model, an optimizer and a loop."""
    import torch
    from torch.nn import functional
    from transformers import AutoModelForSequenceClassification, get_linear_schedule_with_warmup

    from distill2edge.distill.label_cache import LabelReader
    from distill2edge.models.precision import compute_dtype, default_device

    low = compute_dtype("auto", default_device()) == torch.bfloat16
    student, teacher = (AutoModelForSequenceClassification.from_pretrained(root / n) for n in ("student", "teacher"))
    student.train()
    teacher.eval().requires_grad_(False)
    reader = LabelReader(root / "signal", TEMPERATURE)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0)
    steps = TEXTS // BATCH
    schedule = get_linear_schedule_with_warmup(optimizer, 0, steps)
    order = torch.randperm(TEXTS).tolist()
    begin = time.perf_counter()
    for at in range(0, TEXTS, BATCH):
        part = [rows[i] for i in order[at : at + BATCH]]
        ids = torch.tensor([row.ids for row in part])
        labels = torch.tensor([row.label for row in part])
        log_p = torch.stack([reader.get(row.id) for row in part])
        mask = torch.ones_like(ids)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            out = student(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            with torch.no_grad():
                theirs = teacher(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        logits = out.logits.float()
        soft = functional.kl_div(
            torch.log_softmax(logits / TEMPERATURE, -1), log_p, reduction="batchmean", log_target=True
        )
        distance = torch.stack(
            [
                1 - functional.cosine_similarity(
                    out.hidden_states[i + 1].float(), theirs.hidden_states[j + 1].float(), dim=-1
                ).mean()
                for i, j in enumerate(LAYERS)
            ]
        ).mean()  # fmt: skip
        loss = 0.5 * functional.cross_entropy(logits, labels) + 0.5 * TEMPERATURE**2 * soft + HIDDEN * distance
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        last = float(loss)
    return (time.perf_counter() - begin) / steps, last


def main() -> None:
    """Measure, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    from distill2edge.bench import contention
    from distill2edge.teacher.labels import cache_labels
    from distill2edge.util.progress import SilentProgress
    from distill2edge.util.threads import available_threads

    with tempfile.TemporaryDirectory() as directory:
        root, rows = Path(directory), make_rows()
        make_models(root)
        cache_labels(root / "teacher", rows, root / "signal", SilentProgress())
        threads, losses = available_threads(), {}

        def arm(name: str, run: Any) -> Any:
            def seconds() -> float:
                each, losses[name] = run(root, rows)
                return each

            return seconds

        probe = contention.Probe(threads)
        samples = interleave({"ours": arm("ours", ours), "plain": arm("plain", plain)}, rounds, log=print)
        busy = probe.stop()
    overhead = ratio(samples, "ours", "plain")
    write_result(
        "encoder_step",
        "python benchmarks/encoder_step.py",
        description=f"BERT of 6 layers to 3, 384 wide, {BATCH} texts of {LENGTH} tokens a step, {threads} threads",
        bars=[bar("encoder step: seconds over those of a plain PyTorch loop", overhead, "<=", 1.05, unit="x")],
        samples={f"seconds per step, {name}": values for name, values in samples.items()},
        metrics={
            "seconds per step": {name: summary(values) for name, values in samples.items()},
            "last loss": losses,
            "contention": {**busy, "reasons": contention.reasons(busy, threads)},
        },
    )


if __name__ == "__main__":
    main()
