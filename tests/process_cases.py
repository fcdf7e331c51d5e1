"""Trainings of every kind on tiny models, for one process or several: what they log, and the weights they write."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.data.examples import Encoded, example_id
from distill2edge.processes.group import together
from distill2edge.recipe import schema
from distill2edge.util.progress import SilentProgress
from tests import tiny

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout_rate": 0.0}
ROWS, HELD_OUT = 21, 6  # with batches of 5: the last has one row, and one of two processes none


def make(place: Path) -> None:
    """Models, rows and signals of all cases."""
    tiny.tiny_llama(place / "teacher", seed=1)
    tiny.tiny_llama(place / "student", seed=2)
    tiny.tiny_t5(place / "t5")
    tiny.tiny_bert(place / "bert", seed=3)
    tiny.tiny_bert(place / "bert-teacher", seed=4)
    tiny.tiny_bert(place / "masked", masked=True)
    tiny.tiny_embedder(place / "embedder")
    tiny.tiny_embedder(place / "other", layers=1)
    for config in place.glob("*/config.json"):  # dropout is drawn in each process, so it is no part of a comparison
        config.write_text(json.dumps({**json.loads(config.read_text()), **NO_DROPOUT}))
    _signals(place)


def _signals(place: Path) -> None:
    from distill2edge.teacher.labels import cache_labels
    from distill2edge.teacher.logits import cache_logits
    from distill2edge.teacher.vectors import cache_vectors

    quiet, told = SilentProgress(), schema.LogitsSignal(top_k=20, temperature=2.0)
    cache_logits(place / "teacher", rows(), told, place / "logits", quiet, dtype="float32")
    cache_labels(place / "bert-teacher", texts(), place / "labels", quiet)
    cache_vectors(place / "embedder", texts(), place / "vectors", quiet)


def rows(prompts: bool = True) -> list[Encoded]:
    """Of a decoder: prompts of 2 to 8 and responses of 1 to 9 tokens, so that supervised tokens are ragged."""
    draw, made = random.Random(0), []
    for _ in range(ROWS + HELD_OUT):
        prompt, response = draw.randint(2, 8), draw.randint(1, 9)
        ids = [draw.randrange(3, 250) for _ in range(prompt + response)] + [2 if prompts else 1]
        mask = [False] * prompt + [True] * (response + 1)
        made.append(Encoded(example_id(ids, mask), ids, mask))
    return made


def texts() -> list[Encoded]:
    """Of an encoder, of 4 to 20 tokens, with a label of three or none, and tags of some of their tokens."""
    draw, made = random.Random(1), []
    for number in range(ROWS + HELD_OUT):
        ids = [draw.randrange(5, 250) for _ in range(draw.randint(4, 20))]
        made.append(Encoded(example_id(ids, [False] * len(ids)), ids, [False] * len(ids), label=number % 4 - 1))
    return made


def settings(**changes: Any) -> schema.Training:
    """Three epochs in float32, in batches that two processes do not divide."""
    fields = {"epochs": 3, "batch_size": 5, "learning_rate": 2e-3, "dtype": "float32", "checkpoints": 2}
    return schema.Training(**(fields | changes))  # type: ignore[arg-type]


LORA = schema.Lora(rank=4, alpha=8)
KD = schema.Loss(ce=0.5, forward_kl=0.5)  # type: ignore[call-arg]


def _decoder(
    place: Path, work: Path, progress: Any, training: schema.Training, lora: Any, student: str = "student",
    loss: schema.Loss = KD, grids: Any = None,
) -> None:  # fmt: skip
    from distill2edge.distill.train import train

    all_rows, signal = rows(student != "t5"), place / "logits" if loss.needs_logits else None
    train(
        place / student, all_rows[:ROWS], all_rows[ROWS:], signal, training, loss, lora, 16, 0, work, progress, grids
    )  # fmt: skip


def on_grid(place: Path, work: Path, progress: Any) -> None:
    """A decoder's adapter on the grid of Q4_0."""
    from tests.distill.test_fake_quantization import grids_of

    _decoder(place, work, progress, settings(), LORA, grids=grids_of(place / "student", "Q4_0"))


def classifier(place: Path, work: Path, progress: Any) -> None:
    """A classifier on labels, the teacher's logits and its hidden states, with an adapter."""
    from distill2edge.distill.classifier_model import make_classifier
    from distill2edge.distill.encoder_training import Beside, train_encoder

    loss = schema.Loss(ce=0.4, forward_kl=0.4, hidden=0.2)  # type: ignore[call-arg]
    all_texts, beside = texts(), Beside(place / "bert-teacher", [0, 1])
    train_encoder(
        make_classifier, place / "bert", all_texts[:ROWS], all_texts[ROWS:], (place / "labels", 1.0), beside,
        settings(), loss, LORA, 0, work, progress,
    )  # fmt: skip


def embedder(place: Path, work: Path, progress: Any) -> None:
    """An embedder, in full, on how alike the texts of a batch are: a loss of rows that other processes have."""
    from distill2edge.distill.embedder_model import make_embedder
    from distill2edge.distill.encoder_training import train_encoder

    loss = schema.Loss(ce=0, embedding=0.5, similarity=0.5)  # type: ignore[call-arg]
    all_texts = texts()
    train_encoder(
        make_embedder, place / "other", all_texts[:ROWS], all_texts[ROWS:], (place / "vectors", 1.0), None, settings(),
        loss, None, 0, work, progress,
    )  # fmt: skip


def masked(place: Path, work: Path, progress: Any) -> None:
    """Masked tokens, with the teacher's distribution and its hidden states."""
    from functools import partial

    from distill2edge.distill.masked import MaskedTexts
    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.recipe.pretrain import Pretrain
    from distill2edge.student.masked_pretraining import _taught, train_masked

    training = settings()
    spec = Pretrain(soft=0.5, masked=0.3, cosine=0.2)  # type: ignore[call-arg]
    given = [(row.ids, None) for row in texts()]
    read = partial(MaskedTexts, tokenizer=load_tokenizer(place / "masked"), share=0.3, seed=0)
    train_masked(
        partial(_taught, place / "masked", [0], spec), training, work, texts=given[:ROWS], validation=given[ROWS:],
        masked=read, seed=0, progress=progress,
    )  # fmt: skip


def _of(**given: Any) -> Callable[..., None]:
    return lambda place, work, progress: _decoder(place, work, progress, **given)


CASES: dict[str, Callable[[Path, Path, Any], None]] = {
    "adapter": _of(training=settings(gradient_accumulation=2), lora=LORA),
    "in full, packed": _of(training=settings(packing=True), lora=None),
    "encoder-decoder": _of(training=settings(), lora=LORA, student="t5", loss=schema.Loss(ce=1)),  # type: ignore[call-arg]
    "on a grid": on_grid,
    "classifier beside its teacher": classifier,
    "embedder": embedder,
    "masked tokens": masked,
}


@together
def train_all(place: Path, out: Path, progress: Any) -> list[str]:
    """Every case, into `out/NAME`."""
    for name, case in CASES.items():
        case(place, out / name, progress)
    return list(CASES)


def curves(work: Path) -> dict[str, list[float]]:
    """The losses of `train.json`, and what it counts."""
    record = json.loads((work / "train.json").read_text())
    return {
        "loss": [entry["loss"] for entry in record["log"]],
        "validation": [entry["loss"] for entry in record["eval"]],
        "counts": [record["steps"], record["kept_step"], record["supervised_tokens"], record["tokens"]],
    }
