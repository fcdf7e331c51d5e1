"""The logit cache: bytes a position, and how near the gradient and the student come to those of the dense teacher.

python benchmarks/logit_cache.py

SmolLM2-135M-Instruct teaches a student of two of its layers on film reviews, 64 tokens a row; the signal alone is the
loss (forward KL). Caches are made as the signal stage makes them, and read from their shards. Figures:

- bytes a position of the shards on disk, ids of the rows and all else included;
- the cosine of the gradient of a batch of 4 rows to that of the dense teacher: with respect to the student's logits
  (position by position nothing averages) and to its parameters, at the start and once it has learned; and that of the
  mean gradient of many samples, which is what is left of a bias;
- KL(teacher || student) over the whole vocabulary on rows that were not trained on, after the same steps, three seeds;
- the share of a step that reading and collating takes.

The curve also has forms that are not in the product: draws with replacement from p^t with importance weights (random
sampling distillation, arXiv 2503.16870), and the top 12 with draws of the others. Their bytes are those of the same
code of the ids, a bit for each draw (or 8 bits a weight where t is not 1), and six bytes a position.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import bar, paired, write_result
from torch import Tensor

from distill2edge.bench import contention
from distill2edge.data.examples import Encoded, example_id
from distill2edge.distill.batches import collate
from distill2edge.distill.decoder_model import DistillModel
from distill2edge.distill.logit_cache import SignalReader
from distill2edge.distill.losses import Sampled, Teacher, distillation_loss
from distill2edge.distill.objective import objective_of
from distill2edge.generation.backends import TransformersBackend
from distill2edge.intake import bundled
from distill2edge.intake.obtain import fetch_model
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.loading import load_model
from distill2edge.recipe.schema import LogitsSignal, Loss
from distill2edge.student.layers import keep_layers
from distill2edge.teacher.logit_shards import Shard, open_shard, settings_of
from distill2edge.teacher.token_views import OwnTokens
from distill2edge.util import gap_codes
from distill2edge.util.progress import SilentProgress

MODEL, SOURCE = "bundled:smollm2-135m-instruct", "movie-sentiment"
LAYERS = (0, 29)
TOKENS, BATCH, EPOCHS, RATE = 64, 2, 2, 1e-3
TRAINED, VALIDATION, GRADIENT_ROWS, GRADIENT_BATCH = 40, 16, 8, 4
SEEDS = (0, 1, 2)
DRAWS = 16
KL = objective_of(Loss(ce=0, forward_kl=1))
PRESENT, SAMPLE = {"top_k": 64}, {1.0: {"sample": 64}, 2.0: {"sample": 35}}
"""By the temperature: the present form, and the sample that has to fit into 66 bytes."""
CURVE: tuple[dict[str, Any], ...] = (
    PRESENT, {"top_k": 64, "mass": 0.95}, {"top_k": 64, "mass": 0.98},
    *({"sample": count} for count in (25, 35, 50, 64, 100)),
)  # fmt: skip
REPLACED = ((25, 1.0, 0), (50, 0.8, 0), (50, 1.0, 0), (50, 1.2, 0), (100, 1.0, 0), (24, 1.0, 12))
"""Draws with replacement, the power of the proposal, and the tokens that are kept beside them."""


@dataclass
class Texts:
    """Rows to train on, to take gradients of, and to validate on; the teacher's dense logits of the latter two."""

    trained: list[Encoded]
    gradient: list[Encoded]
    validation: list[Encoded]
    dense: dict[str, Tensor]


def rows_of(model_dir: Path, count: int) -> list[Encoded]:
    """Pieces of running text."""
    text = " ".join(str(row["text"]).strip() for row in bundled.rows(SOURCE, SilentProgress()))
    ids = load_tokenizer(model_dir)(text, add_special_tokens=False, verbose=False).input_ids
    pieces = [ids[at : at + TOKENS] for at in range(0, len(ids) - TOKENS, TOKENS)]
    mask = [False] + [True] * (TOKENS - 1)
    chosen = np.random.default_rng(0).permutation(len(pieces))[:count]
    return [Encoded(example_id(pieces[at], mask), pieces[at], mask) for at in chosen]


def name_of(form: dict[str, Any], temperature: float, seed: int = 0) -> str:
    """What a cache is called."""
    words = " ".join(f"{key} {value}" for key, value in form.items())
    return f"{words}, T {temperature:g}" + (f", seed {seed}" if seed else "")


def write_caches(model_dir: Path, work: Path) -> Texts:
    """One pass of the teacher: every form of the curve, and the samples of every seed."""
    rows = rows_of(model_dir, TRAINED + VALIDATION + GRADIENT_ROWS)
    texts = Texts(rows[:TRAINED], rows[TRAINED : TRAINED + GRADIENT_ROWS], rows[TRAINED + GRADIENT_ROWS :], {})
    tokens = OwnTokens(model_dir)
    teacher = TransformersBackend(model_dir, "float32")
    torch.set_num_threads(1)
    shards: dict[str, tuple[Shard, dict[str, str], list[Encoded]]] = {}
    for temperature in SAMPLE:
        wanted = [("curve", form, 0, texts.gradient) for form in CURVE]
        wanted += [("train", SAMPLE[temperature], seed, texts.trained) for seed in SEEDS]
        for use, form, seed, kept in [*wanted, ("train", PRESENT, 0, texts.trained)]:
            signal = LogitsSignal(**form, temperature=temperature)
            shard = open_shard(kept, signal, tokens, teacher.vocab_size, seed)
            shards[f"{use} {name_of(form, temperature, seed)}"] = shard, settings_of(signal, tokens, seed), kept
    for number, logits in teacher.supervised_logits(rows):
        row = rows[number]
        for shard, _, kept in shards.values():
            if row in kept:
                shard.keep(kept.index(row), logits)
        if row not in texts.trained:
            texts.dense[row.id] = logits.clone()
    teacher.close()
    for name, (shard, settings, kept) in shards.items():
        _save(work / name, shard, {**settings, "ids": json.dumps([row.id for row in kept])})
    return texts


def _save(directory: Path, shard: Shard, metadata: dict[str, str]) -> None:
    from safetensors.numpy import save_file

    directory.mkdir()
    save_file(shard.arrays(), directory / "shard-00000.safetensors", metadata=metadata)


def bytes_of(directory: Path, rows: Sequence[Encoded]) -> float:
    """Bytes a position of the files of a cache of these rows."""
    return sum(path.stat().st_size for path in directory.iterdir()) / sum(row.supervised for row in rows)


# --- students -------------------------------------------------------------------------


def student_of(model: Any, temperature: float) -> DistillModel:
    """Some layers of the teacher, whose table of tokens is not trained."""
    student = copy.deepcopy(model)
    keep_layers(student, list(LAYERS))
    student.config.use_cache = False
    student.get_input_embeddings().weight.requires_grad_(False)
    return DistillModel(student, KL, temperature, 256, torch.float32).train()


def train(model: Any, texts: Texts, cache: Path, temperature: float, seed: int) -> dict[str, Any]:
    """A student of a cache, its KL to the dense teacher on each validation row, and what reading took of each step."""
    distilled, reader = student_of(model, temperature), SignalReader(cache)
    weights = [each for each in distilled.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    order, shares = random.Random(seed), []
    for _ in range(EPOCHS):
        rows = order.sample(texts.trained, len(texts.trained))
        for at in range(0, len(rows), BATCH):
            begin = time.process_time()
            items = [{"ids": row.ids, "mask": row.mask, "signal": reader.get(row.id)} for row in rows[at : at + BATCH]]
            batch = collate(items, 0)
            read = time.process_time()
            distilled(**batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            shares.append((read - begin) / (time.process_time() - begin))
    return {**divergences(distilled, texts), "share": shares[1:], "student": distilled}


@torch.no_grad()
def divergences(distilled: DistillModel, texts: Texts) -> dict[str, list[float]]:
    """KL(teacher || student) in nats per token of each validation row, at each temperature."""
    distilled.eval()
    found: dict[str, list[float]] = {f"kl, T {temperature:g}": [] for temperature in SAMPLE}
    for row in texts.validation:
        own = distilled.own_logits(torch.tensor([row.ids]))[:-1]
        for temperature in SAMPLE:
            log_p, log_q = (torch.log_softmax(each / temperature, -1) for each in (texts.dense[row.id], own))
            kl = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
            found[f"kl, T {temperature:g}"].append(float(kl))
    return found


# --- gradients ------------------------------------------------------------------------


@dataclass
class Slope:
    """The gradient of the dense teacher on a batch, and how near another's is."""

    logits: Tensor
    weights: Sequence[Tensor]
    targets: Tensor
    temperature: float

    def of(self, teacher: Teacher, *, parameters: bool = True) -> tuple[Tensor, Tensor | None]:
        """With respect to the logits, and to the parameters."""
        losses = distillation_loss(self.logits, self.targets, teacher, KL, self.temperature)
        (slope,) = torch.autograd.grad(losses.sum(), self.logits, retain_graph=True)
        if not parameters:
            return slope, None
        parts = torch.autograd.grad(self.logits, self.weights, slope, retain_graph=True)
        return slope, torch.cat([part.flatten() for part in parts])


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two tensors as vectors, in float64."""
    one, other = one.double().flatten(), other.double().flatten()
    return float(one @ other / (one.norm() * other.norm()))


def slopes(distilled: DistillModel, texts: Texts, temperature: float) -> Iterator[tuple[list[Encoded], Slope, Tensor]]:
    """Batches, their gradient, and the teacher's dense logits [P, V]."""
    distilled.train()
    weights = [each for each in distilled.parameters() if each.requires_grad]
    for at in range(0, GRADIENT_ROWS, GRADIENT_BATCH):
        rows = texts.gradient[at : at + GRADIENT_BATCH]
        ids = torch.tensor([row.ids for row in rows])
        logits = distilled._parts[0](input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1)
        dense = torch.cat([texts.dense[row.id] for row in rows])
        yield rows, Slope(logits, weights, ids[:, 1:].flatten(), temperature), dense


def curve(distilled: DistillModel, texts: Texts, work: Path, temperature: float) -> dict[str, dict[str, float]]:
    """Name of a form -> cosines, means over the batches; bytes."""
    found: dict[str, dict[str, list[float]]] = {}
    for rows, slope, dense in slopes(distilled, texts, temperature):
        log_p = torch.log_softmax(dense / temperature, -1)
        exact = slope.of(log_p)
        forms: dict[str, tuple[Teacher, float]] = {}
        for form in CURVE:
            name = name_of(form, temperature)
            cache = work / f"curve {name}"
            forms[name] = read(cache, rows), bytes_of(cache, texts.gradient)
        for draws, power, kept in REPLACED:
            name = (
                f"{draws} draws of p^{power:g}" + (f" beside the top {kept}" if kept else "") + f", T {temperature:g}"
            )
            forms[name] = replaced(log_p, draws, power, kept)
        for name, (teacher, size) in forms.items():
            of_logits, of_weights = slope.of(teacher)
            one = found.setdefault(name, {"bytes": [], "logits": [], "parameters": []})
            one["bytes"].append(size)
            one["logits"].append(cosine(of_logits, exact[0]))
            one["parameters"].append(cosine(of_weights, exact[1]))
    return {name: {key: statistics.fmean(values) for key, values in each.items()} for name, each in found.items()}


def read(directory: Path, rows: Sequence[Encoded]) -> Teacher:
    """What the shards of a cache have of some rows."""
    reader = SignalReader(directory)
    found = [reader.get(row.id) for row in rows]
    kind: Any = type(found[0])
    return kind(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def replaced(log_p: Tensor, draws: int, power: float, kept: int) -> tuple[Sampled, float]:
    """Draws with replacement from p^t, beside the likeliest with their own; and about their bytes a position."""
    generator = torch.Generator().manual_seed(0)
    p = log_p.double().exp()
    top, index = p.topk(kept, -1) if kept else (p[:, :0], torch.zeros(len(p), 0, dtype=torch.int64))
    others = p.scatter(-1, index, 0.0)
    proposal = others.pow(power)
    proposal /= proposal.sum(-1, keepdim=True)
    drawn = torch.multinomial(proposal.float(), draws, replacement=True, generator=generator)
    weight = (others / proposal.clamp_min(1e-300)).gather(-1, drawn) / draws
    distinct = [row.unique().numpy() for row in torch.cat([index, drawn], -1)]
    counts = np.array([len(row) for row in distinct])
    _, code = gap_codes.encode(np.concatenate(distinct), counts)
    own = kept + (kept + counts.mean() / 8 if kept else 0) if power == 1 else counts.mean()
    size = len(code) / len(p) + own + (draws / 8 if power == 1 else 0) + 6
    entropy = -(p * log_p).sum(-1).float()
    return Sampled(torch.cat([index, drawn], -1), torch.cat([top, weight], -1).float(), entropy), float(size)


def bias(distilled: DistillModel, texts: Texts, temperature: float) -> list[float]:
    """Cosine to the dense gradient of the parameters, of the mean of 1, 2, 4, ... samples' on one batch."""
    from distill2edge.distill.compact_signal import pack, unpack
    from distill2edge.teacher.kept_tokens import sampled, uniforms

    (_, slope, dense), *_ = slopes(distilled, texts, temperature)
    exact, found = slope.of(torch.log_softmax(dense / temperature, -1))[1], []
    count, parts = SAMPLE[temperature]["sample"], []
    for number in range(DRAWS):
        kept = unpack(pack(sampled(dense, count, temperature, uniforms(number, "b", len(dense))), count), count)
        table = torch.zeros(len(dense), count, dtype=torch.int64), torch.zeros(len(dense), count)
        within = torch.arange(count) < torch.from_numpy(kept.counts)[:, None]
        table[0][within], table[1][within] = torch.from_numpy(kept.tokens), torch.from_numpy(kept.stands_for)
        parts.append(table)
        if number + 1 in (1, 2, 4, 8, 16):
            joined = [torch.cat([part[which] for part in parts], -1) for which in (0, 1)]
            mean = Sampled(joined[0], joined[1] / len(parts), torch.from_numpy(kept.extra))
            found.append(cosine(slope.of(mean)[1], exact))
    return found


# --- all of it ------------------------------------------------------------------------


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    probe = contention.Probe(1)
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        fetch_model(MODEL, None, work / "teacher", SilentProgress(), where="teacher.model")
        texts = write_caches(work / "teacher" / "model", work)
        print("caches", flush=True)
        model = load_model(work / "teacher" / "model", dtype=torch.float32)
        samples = trainings(model, texts, work)
        curves, biases = {}, {}
        for temperature in SAMPLE:
            learned = samples[name_of(PRESENT, temperature)][0]["student"]
            for state, distilled in (("start", student_of(model, temperature)), ("learned", learned)):
                curves[state, temperature] = curve(distilled, texts, work, temperature)
                biases[state, temperature] = bias(distilled, texts, temperature)
                print(
                    state, temperature, json.dumps(curves[state, temperature]), biases[state, temperature], flush=True
                )
        measured = probe.stop()
    write(samples, curves, biases, {**measured, "reasons": contention.reasons(measured, 1)})


def trainings(model: Any, texts: Texts, work: Path) -> dict[str, list[dict[str, Any]]]:
    """Name of a cache -> the training of each seed."""
    samples: dict[str, list[dict[str, Any]]] = {}
    for seed in SEEDS:
        for temperature in SAMPLE:
            for form in (PRESENT, SAMPLE[temperature]):
                cache = work / f"train {name_of(form, temperature, seed if 'sample' in form else 0)}"
                trained = train(model, texts, cache, temperature, seed)
                samples.setdefault(name_of(form, temperature), []).append(trained)
                figures = {key: statistics.fmean(value) for key, value in trained.items() if key != "student"}
                print(cache.name, seed, figures, flush=True)
    return samples


def write(samples: Any, curves: Any, biases: Any, busy: dict[str, Any]) -> None:
    """The bars and the file."""
    bars = []
    for temperature, form in SAMPLE.items():
        present, name = name_of(PRESENT, temperature), name_of(form, temperature)
        start = curves["start", temperature]
        bars.append(bar(f"{name}: bytes a position on disk", start[name]["bytes"], "<=", 66, unit="B"))
        for state in ("start", "learned"):
            both = curves[state, temperature]
            for what in ("parameters", "logits"):
                text = f"{name}, student at {state}: cosine of the gradient of the {what}, dense and ours"
                bars.append(
                    bar(text, both[name][what], ">=", both[present][what], note="the target is the present form's")
                )
            text = f"{name}, student at {state}: cosine of the mean gradient of {DRAWS} samples"
            bars.append(bar(text, biases[state, temperature][-1], ">=", 0.999))
        key = f"kl, T {temperature:g}"
        ours, theirs = ([run[key] for run in samples[each]] for each in (name, present))
        text = f"{name}: validation KL to the dense teacher at equal steps, less the present form's"
        bars.append(bar(text, paired(ours, theirs), "<=", 0.0, unit="nats/token", note=f"{len(SEEDS)} seeds"))
        share = statistics.median(value for run in samples[name] for value in run["share"])
        bars.append(bar(f"{name}: share of a step that reading takes", 100 * share, "<=", 3, unit="%"))
    means = {
        name: {key: [statistics.fmean(run[key]) for run in runs] for key in runs[0] if key != "student"}
        for name, runs in samples.items()
    }
    raw = {
        name: [{key: value for key, value in run.items() if key.startswith("kl")} for run in runs]
        for name, runs in samples.items()
    }
    path = write_result(
        "logit_cache",
        "python benchmarks/logit_cache.py",
        description=(
            f"SmolLM2-135M-Instruct teaches {len(LAYERS)} of its layers on {TRAINED} rows of {TOKENS} tokens of film "
            f"reviews, {EPOCHS} epochs, {BATCH} rows a step, forward KL alone; {VALIDATION} rows validate. Cosines are "
            f"means over {GRADIENT_ROWS // GRADIENT_BATCH} batches of {GRADIENT_BATCH} rows"
        ),
        bars=bars,
        samples=raw,
        metrics={
            "by seed": means,
            "curve": {f"{state}, T {temperature:g}": found for (state, temperature), found in curves.items()},
            "cosine of the mean of 1, 2, 4, 8, 16 samples": {
                f"{state}, T {temperature:g}": found for (state, temperature), found in biases.items()
            },
            "contention": busy,
        },
        seeds=SEEDS,
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
