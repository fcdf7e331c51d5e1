"""What `fit` expects a student to lose against what it loses: Spearman's rho of predicted and measured KL.

Students of SmolLM2-135M of 2 to 15 layers, several widths, both vocabularies, several types: pruned as the product
prunes, all weights trained for a few steps on the teacher's distributions of short newspaper sentences, rounded, and
compared with the teacher on held-out ones. All in one process, since the product's own stages (files, checks) take
longer than such a training. To `CALIBRATION` weights are fitted (least squares, none below zero), for comparison with
those of the package; the others are judged.

python benchmarks/fit.py --loss --store PLACE                # some 10 minutes of one core
python benchmarks/fit.py --loss --store PLACE --calibrate    # trains `CALIBRATION` alone, and prints the weights
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, bar, write_result

from distill2edge.data.model_inputs import encode_for
from distill2edge.data.split_files import read_rows
from distill2edge.fit.decoder import Decoder, decoder_of
from distill2edge.fit.loss import WEIGHTS, Estimate
from distill2edge.fit.sizes import kinds_of
from distill2edge.fit.stages import influence_stages
from distill2edge.fit.trial import Compared, of_row, said
from distill2edge.gguf.ggml_types import GGML_TYPES
from distill2edge.gguf.hf_layout import names_to_gguf
from distill2edge.intake.glance import glance
from distill2edge.models.id_map import IdMap
from distill2edge.models.loading import load_model
from distill2edge.models.widths import NAMES, Widths, widths_of
from distill2edge.pipeline.run_stages import run_stages
from distill2edge.quantize import ggml
from distill2edge.quantize.calibration_texts import texts_of
from distill2edge.quantize.divergence import Row
from distill2edge.recipe.load import load_recipe
from distill2edge.running.housekeeping import open_store
from distill2edge.stages import build_stages
from distill2edge.student.chosen import evenly
from distill2edge.student.importance import measure
from distill2edge.student.influence import read_influence
from distill2edge.student.layers import keep_layers
from distill2edge.student.pruning import choose, prune
from distill2edge.student.tensor_roles import roles_of
from distill2edge.tasks import task_of
from distill2edge.util.progress import SilentProgress
from distill2edge.verify.correlation import spearman

RECIPE = ROOT / "recipes" / "width" / "sentences.yaml"
SHORT = {
    "data.splits": {"train": 640, "validation": 16, "calibration": 48, "test": 32},
    "data.max_length": 32,
    "verify.rows": 32,
}
STEPS, BATCH, RATE, WARM, TEST = 24, 3, 1e-3, 3, 20
"""Steps, rows of each, the rate and the steps that it rises for; rows that are held out."""


@dataclass(frozen=True)
class Student:
    """A shape and a type."""

    layers: int
    groups: int
    channels: int
    hidden: int
    vocabulary: str
    scheme: str

    def of(self, whole: Decoder) -> Decoder:
        """Its shape."""
        return whole.sized(self.layers, self.narrow(whole.widths), whole.vocabulary)

    def narrow(self, whole: Widths) -> Widths:
        """Its widths."""
        return whole._replace(kv_groups=self.groups, feed_forward=self.channels, hidden=self.hidden)

    @property
    def trained(self) -> tuple[Any, ...]:
        """What students of one training have in common."""
        return (self.layers, self.groups, self.channels, self.hidden, self.vocabulary)


CALIBRATION = (
    Student(15, 3, 1536, 576, "trim", "Q8_0"),
    Student(15, 3, 1536, 576, "trim", "Q4_0"),
    Student(15, 3, 1536, 576, "trim", "Q2_K"),
    Student(4, 3, 1536, 576, "trim", "Q8_0"),
    Student(4, 3, 1536, 576, "trim", "Q2_K"),
    Student(9, 2, 1536, 576, "trim", "Q8_0"),
    Student(9, 3, 768, 576, "trim", "Q8_0"),
    Student(9, 3, 1536, 288, "trim", "Q8_0"),
    Student(6, 1, 768, 576, "trim", "Q8_0"),
)
JUDGED = (
    Student(2, 3, 1536, 576, "trim", "Q8_0"),
    Student(12, 1, 768, 384, "trim", "Q8_0"),
    Student(10, 2, 1536, 384, "trim", "Q8_0"),
    Student(5, 3, 768, 576, "trim", "Q8_0"),
    Student(5, 1, 1536, 384, "trim", "Q5_0"),
    Student(13, 2, 1152, 576, "trim", "Q4_K_M"),
    Student(6, 2, 1536, 576, "trim", "IQ4_NL"),
    Student(12, 3, 1536, 576, "trim", "Q2_K"),
    Student(8, 2, 768, 576, "trim", "Q8_0"),
    Student(3, 2, 1152, 576, "keep", "Q4_0"),
)


class Bench:
    """The teacher, its rows, and what it says of them, once for all students."""

    def __init__(self, store: Path | None) -> None:
        recipe = load_recipe(RECIPE, SHORT)
        stages = influence_stages(build_stages(recipe, SilentProgress()))
        data, teacher, influence = (item.artifact for item in run_stages(stages, open_store(store), SilentProgress()))
        looked = glance(recipe.teacher.model)
        assert looked is not None
        self.place = teacher.path / "model"
        self.whole = decoder_of(looked)
        self.estimate = Estimate(self.whole, read_influence(influence.path))
        self.model: Any = load_model(self.place, dtype=torch.float32).eval()
        work = task_of(recipe).work
        self.train = work.compared(recipe, data.path, self.place, "train")[: STEPS * BATCH]
        self.test = work.compared(recipe, data.path, self.place, "test")[:TEST]
        seen = encode_for(recipe.data, read_rows(data.path, "train"), self.place, kind=work.reads_as)
        # Of the held-out rows too, so that every student is compared on the same positions.
        tokens = sorted({0, 1, 2, *(token for row in (*seen, *self.test) for token in row.ids)})
        self.ids = IdMap(np.asarray(tokens, dtype=np.int64), self.whole.vocabulary)
        self.roles, widths = roles_of(self.model), widths_of(self.model.config.to_dict())
        assert widths is not None
        self.widths = widths
        rows = texts_of(work.calibration(recipe, data.path, self.place))
        with torch.no_grad():
            self.said = {id(row): said(self.model, row.ids) for row in (*self.train, *self.test)}
        self.importance = measure(self.model, self.roles, widths, list(rows.values()), SilentProgress())

    def begun(self, student: Student) -> Any:
        """The untrained student."""
        model, narrow = copy.deepcopy(self.model), student.narrow(self.widths)
        if narrow != self.widths:
            model = prune(model, self.roles, self.widths, narrow, choose(self.importance, self.widths, narrow))
        keep_layers(model, evenly(self.whole.layers, student.layers))
        if student.vocabulary == "trim":
            table = torch.nn.Embedding.from_pretrained(
                model.get_input_embeddings().weight.detach()[torch.from_numpy(self.ids.new_to_old)], freeze=False
            )
            model.set_input_embeddings(table)
            model.config.vocab_size = len(table.weight)
            model.lm_head = torch.nn.Linear(table.weight.shape[1], len(table.weight), bias=False)
            model.lm_head.weight = table.weight
        return model

    def trained(self, student: Student) -> Any:
        """After `STEPS` steps of KL(teacher || student), with a rate that falls to nothing."""
        torch.manual_seed(0)
        model, ids = self.begun(student), self.ids if student.vocabulary == "trim" else None
        model.requires_grad_(True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / WARM, (STEPS - step) / (STEPS - WARM))
        )
        for step in range(STEPS):
            total = torch.zeros(())
            rows = self.train[step * BATCH : (step + 1) * BATCH]
            for row in rows:
                kl = of_row(self.said[id(row)], model, self.read(row, ids), ids)
                total = total + kl / len(row.positions) / len(rows)
            total.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        return model.eval().requires_grad_(False)

    def lost(self, model: Any, student: Student) -> tuple[float, int]:
        """KL of the student in its type, and positions."""
        rounded(model, kinds_of(student.of(self.whole), student.scheme), names_to_gguf(self.place))
        ids = self.ids if student.vocabulary == "trim" else None
        with torch.no_grad():
            found = [float(of_row(self.said[id(row)], model, self.read(row, ids), ids)) for row in self.test]
        positions = sum(len(row.positions) for row in self.test)
        return sum(found) / positions, positions

    def read(self, row: Row, ids: IdMap | None) -> Compared:
        """A row as a student reads it, which has all its tokens."""
        own = row.ids if ids is None else [int(new) for new in ids.old_to_new[list(row.ids)]]
        return Compared(row.ids, row.positions, own, row.positions)

    def rows_of(self, students: Sequence[Student]) -> list[dict[str, Any]]:
        """Of each student what is expected, from what, and what it lost."""
        found, made = [], {}
        for student in students:
            if student.trained not in made:
                made = {student.trained: self.trained(student)}
            kl, positions = self.lost(copy.deepcopy(made[student.trained]), student)
            shape = student.of(self.whole)
            kinds = kinds_of(shape, student.scheme)
            found.append({
                "layers": student.layers, **{name: getattr(shape.widths, name) for name in NAMES},
                "vocabulary": student.vocabulary, "scheme": student.scheme,
                "shares": self.estimate.shares(shape), "types": self.estimate.rounded(shape, kinds),
                "expected": self.estimate.pruned(shape) + self.estimate.stored(shape, kinds),
                "kl": kl, "positions": positions,
            })  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
        return found


def rounded(model: Any, kinds: Any, names: dict[str, str]) -> None:
    """Put every matrix's weights in place as its type gives them back, without an importance matrix."""
    state = model.state_dict()
    for name, weight in state.items():
        part = names.get(name, "").removesuffix(".weight").split(".")
        role, layer = (part[2], int(part[1])) if len(part) > 2 else (part[0], 0)
        if role not in kinds or name == "lm_head.weight":
            continue
        kind = kinds[role][layer]
        if GGML_TYPES[kind].precision != "lossless":
            back = ggml.dequantize(ggml.quantize(weight.numpy(), kind), kind, weight.shape[1])
            weight.copy_(torch.from_numpy(back))


def fitted(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Least squares of KL on what is taken away, no weight below zero."""
    from scipy.optimize import nnls

    names = ["depth", *NAMES, "types"]
    table = np.array([[*(row["shares"][name] for name in names[:-1]), row["types"]] for row in rows])
    weights, _ = nnls(table, np.array([row["kl"] for row in rows]))
    return dict(zip(names, map(float, weights), strict=True))


def main(store: Path | None, *, calibrate: bool) -> None:
    """Train, compare, write the result."""
    bench = Bench(store)
    calibration = bench.rows_of(CALIBRATION)
    weights = fitted(calibration)
    print(json.dumps({name: round(value, 3) for name, value in weights.items()}), flush=True)
    if not calibrate:
        write(calibration, bench.rows_of(JUDGED), weights)


def write(calibration: list[dict[str, Any]], rows: list[dict[str, Any]], weights: dict[str, float]) -> None:
    """The result file: the weights of the package judge, and those that this run finds are beside them."""
    kl = [row["kl"] for row in rows]
    write_result(
        "fit_loss",
        "python benchmarks/fit.py --loss --store $(mktemp -d)",
        description=f"Expected against measured KL of {len(rows)} short-trained students of SmolLM2-135M that no "
        "weights were fitted to",
        bars=[
            bar("fit: students of the rank correlation", len(rows), ">=", 10),
            bar("fit: Spearman's rho of expected and measured held-out KL", rank(rows), ">=", 0.8,
                note=f"after {STEPS} steps of {BATCH} rows all lie between {min(kl):.2f} and {max(kl):.2f} nats: too "
                "short a training to tell them apart"),
        ],
        samples={"judged": rows, "calibration": calibration},
        metrics={"weights": dict(WEIGHTS), "weights found anew": weights,
                 "rho by weights found anew": rank(rows, lambda row: again(row, weights)),
                 "rho of the calibration's students": rank(calibration),
                 "rho of the layers alone": rank(rows, lambda row: -row["layers"]),
                 "steps": STEPS, "rows of a step": BATCH},
        seeds=[0],
    )  # fmt: skip


def rank(rows: Sequence[dict[str, Any]], by: Callable[[dict[str, Any]], float] = lambda row: row["expected"]) -> float:
    """Spearman's rho of what was expected, or of another figure, and the measured KL."""
    return statistics.fmean(spearman(np.array([by(row) for row in rows]), np.array([row["kl"] for row in rows])))


def again(row: dict[str, Any], weights: dict[str, float]) -> float:
    """What is expected of a student by other weights."""
    return sum(weights[name] * value for name, value in row["shares"].items()) + weights["types"] * row["types"]
