"""Verify for token classifiers: every file in its own runtime and process, on the same texts; figures and gates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.data.examples import Encoded
from distill2edge.errors import UserError
from distill2edge.models.model_file import Encodings, ModelFile, encoding_of
from distill2edge.models.tags import Entity, TagSet
from distill2edge.recipe.schema import Verify
from distill2edge.util.files import write_json
from distill2edge.util.isolate import Crash
from distill2edge.util.progress import Progress
from distill2edge.util.proportions import proportion_interval
from distill2edge.verify import entity_f1, fidelity
from distill2edge.verify.gates import apply_gates, verdict
from distill2edge.verify.metrics import METRICS, Score
from distill2edge.verify.model_figures import INTERVAL, Outcome, entry, facts_of, kept, row_scores
from distill2edge.verify.scores import Floats, log_softmax
from distill2edge.verify.text_models import run_models
from distill2edge.verify.trivial_baselines import TrivialBaseline
from distill2edge.verify.warnings import warnings_of

DEFINITIONS = {
    "entity_f1": METRICS["entity_f1"].definition,
    "entity_agreement": METRICS["entity_agreement"].definition,
    "precision": "share of the entities found that are right: type, first and last word",
    "recall": "share of the data's entities that are found",
    "word_accuracy": "share of words with the data's tag",
    "types": "the same for each type of entity; wanted: how many there are",
    "baseline": "needs no model: each word has the tag that it has most often in the other held-out rows",
    "above_baseline": "the 95% interval of the paired difference to the baseline is above 0",
    "retained": "score / teacher's score on the same texts",
    "kept": "score / score of each of the teacher's own files on the same rows",
    "kl_teacher": "mean KL(teacher || model) of the distributions over tags, nats per word",
    "kl_student": "mean KL(merged student || file) of the distributions over tags, nats per word",
    "top1_student": "share of words that file and merged student give the same tag",
    "top1_teacher": "share of words that model and teacher give the same tag",
    "interval": INTERVAL + "; F1: of the mean of the rows' influence on it",
    "gates": "apply to the value itself, not to an end of its interval",
}


def verify_taggers(
    models: Sequence[ModelFile],
    encodings: Mapping[str, Encodings],
    spec: Verify,
    tagset: TagSet,
    *,
    seed: int,
    work: Path,
    progress: Progress,
    threads: int | None = None,
) -> dict[str, Any]:
    """Measure the models and write `verify.json` into `work`. Arguments, errors and result as `verify_classifiers`."""
    models, rows = list(models), {role: side.head(spec.rows) for role, side in encodings.items()}
    outcomes = run_models(
        "distill2edge.verify.tagger_worker", models, rows, {"labels": list(tagset.names)}, work, progress, threads
    )
    said = {
        model.id: _Said(outcome, encoding_of(model.role, rows).rows, tagset)
        for model in models
        if not isinstance(outcome := outcomes[model.id], Crash)
    }
    document = _document(models, outcomes, said, rows["teacher"].rows, spec, tagset, seed)
    write_json(work / "verify.json", document)
    return facts_of(document)


class _Said:
    """What one model says of the texts.

    Attributes:
        entities: of each text.
        logprob: of each text, by word, [C]; of words that have a token of their own.
    """

    def __init__(self, outcome: Mapping[str, Any], rows: Sequence[Encoded], tagset: TagSet) -> None:
        self.entities: list[list[Entity]] = []
        self.logprob: list[dict[int, Floats]] = []
        for row, logits in zip(rows, outcome["logits"], strict=True):
            words = [word for word, place in enumerate(row.places) if place >= 0]
            found = np.asarray(logits, dtype=np.float32).reshape(len(words), len(tagset.names))
            tags = [int(tag) for tag in found.argmax(axis=1)]
            self.entities.append(tagset.read(tags, row.places, row.words))
            self.logprob.append(dict(zip(words, log_softmax(found), strict=True)) if words else {})


def _document(
    models: Sequence[ModelFile],
    outcomes: Mapping[str, Outcome],
    said: Mapping[str, _Said],
    rows: Sequence[Encoded],
    spec: Verify,
    tagset: TagSet,
    seed: int,
) -> dict[str, Any]:
    wanted, metric = _wanted(rows, said, tagset)
    dense: dict[str, _Said] = {
        model.role: said[model.id] for model in models if model.is_reference and model.id in said
    }
    figures: dict[str, Outcome] = {}
    for model in models:
        outcome = outcomes[model.id]
        crashed = isinstance(outcome, Crash)
        figures[model.id] = outcome if crashed else _figures(model, said[model.id], wanted, dense)
    ones, baseline = [1.0] * len(rows), _by_word(rows, wanted, tagset)
    entries = []
    for model in models:
        found = entry(model, figures[model.id], figures["teacher"], metric, seed, baseline)
        if model.id in said:
            found |= _details(said[model.id], rows, wanted, tagset, seed)
        entries.append(found)
    shares = kept(models, figures, figures["teacher"], metric, seed)
    for found in entries:
        found["kept"] = shares.get(found["id"], {})
    gates = apply_gates(entries, spec)
    return {
        "schema_version": 1,
        "metric": metric.name,
        "rows": len(rows),
        "tokens": sum(row.words for row in rows),
        "unit": "word",
        "definitions": DEFINITIONS,
        "models": entries,
        "baseline": metric.baseline_entry(baseline, ones, seed),
        "classes": {},
        "gates": [gate.as_dict() for gate in gates],
        "verdict": verdict(gates),
        "warnings": warnings_of(entries, spec, baseline, len(rows), "word"),
        "row_scores": row_scores(figures, ones),
    }


def _wanted(rows: Sequence[Encoded], said: Mapping[str, _Said], tagset: TagSet) -> tuple[list[list[Entity]], Score]:
    """The entities of each text, and what a score is: the teacher's own are what there is where no row has tags.

    Raises:
        UserError: neither rows with tags nor a teacher that ran.
    """
    if all(row.tags is not None for row in rows):
        return [tagset.entities(row.tags or ()) for row in rows], METRICS["entity_f1"]
    if "teacher" not in said:
        raise UserError("no row has tags, and the teacher does not run here: there is nothing to score by",
                        where="data.entities", fix="give some rows tags")  # fmt: skip
    return said["teacher"].entities, METRICS["entity_agreement"]


def _figures(
    model: ModelFile, own: _Said, wanted: Sequence[Sequence[Entity]], dense: Mapping[str, _Said]
) -> dict[str, Any]:
    """What `entry` reads: scores over texts, distances over the words of those that have some."""
    counts = [entity_f1.counts_of(found, true) for found, true in zip(own.entities, wanted, strict=True)]
    found: dict[str, Any] = {
        "score": entity_f1.row_values(counts),
        "tokens": [1.0] * len(wanted),
        "length": None,
        "nll": None,
    }
    of = {"teacher": dense.get("teacher") if model.id != "teacher" else None,
          "student": dense.get("student") if model.role == "student" and not model.is_reference else None}  # fmt: skip
    read = [[word for word in one if all(word in side.logprob[text] for side in of.values() if side is not None)]
            for text, one in enumerate(own.logprob)]  # fmt: skip
    found["counts"] = [len(words) for words in read if words]
    for role, other in of.items():
        if other is None:
            found |= {f"kl_{role}": None, f"top1_{role}": None}
            continue
        pairs = [
            (other.logprob[text][word], own.logprob[text][word]) for text, words in enumerate(read) for word in words
        ]
        theirs, ours = (np.stack([pair[side] for pair in pairs]) for side in (0, 1))
        found[f"kl_{role}"] = fidelity.kl_divergence(theirs, ours).tolist()
        found[f"top1_{role}"] = fidelity.agreement(theirs, ours).tolist()
    return found


def _details(
    own: _Said, rows: Sequence[Encoded], wanted: Sequence[Sequence[Entity]], tagset: TagSet, seed: int
) -> dict[str, Any]:
    """Precision, recall and accuracy of the words, and the figures of each type."""
    every = _shares(own, wanted, None, seed)
    found: dict[str, Any] = {name: every[name] for name in ("precision", "recall")}
    right, known = [], []
    for text, row in enumerate(rows):
        if row.tags:
            pairs = zip(tagset.tags(own.entities[text], row.words), row.tags, strict=True)
            right.append(sum(mine == tag for mine, tag in pairs) / row.words)
            known.append(float(row.words))
    found["word_accuracy"] = proportion_interval(right, known).as_dict() if right else None
    found["types"] = {label: _shares(own, wanted, label, seed) for label in tagset.types}
    return found


def _shares(own: _Said, wanted: Sequence[Sequence[Entity]], label: str | None, seed: int) -> dict[str, Any]:
    counts = [entity_f1.counts_of(found, true, label) for found, true in zip(own.entities, wanted, strict=True)]
    hits, found, true = ([getattr(row, name) for row in counts] for name in entity_f1.Counts._fields)
    figures = {
        "f1": entity_f1.f1(counts, seed),
        "precision": entity_f1.share(hits, found, seed),
        "recall": entity_f1.share(hits, true, seed),
    }
    shown = {name: None if figure is None else figure.as_dict() for name, figure in figures.items()}
    return {**shown, "wanted": sum(true)}


def _by_word(rows: Sequence[Encoded], wanted: Sequence[Sequence[Entity]], tagset: TagSet) -> TrivialBaseline:
    """Each word's commonest tag in the other held-out rows; a word that is in no other is outside."""
    texts = [_words(row) for row in rows]
    tags = [
        tagset.tags(entities, row.words)[: len(words)] for entities, row, words in zip(wanted, rows, texts, strict=True)
    ]
    outside = tagset.tags((), 1)[0]
    counts: dict[tuple[int, ...], Counter[int]] = {}
    for words, own in zip(texts, tags, strict=True):
        for word, tag in zip(words, own, strict=True):
            counts.setdefault(word, Counter())[tag] += 1
    found = []
    for words, own, true in zip(texts, tags, wanted, strict=True):
        mine: dict[tuple[int, ...], Counter[int]] = {}
        for word, tag in zip(words, own, strict=True):
            mine.setdefault(word, Counter())[tag] += 1
        guessed = []
        for word in words:
            rest = counts[word] - mine[word]
            guessed.append(max(sorted(rest), key=lambda tag: rest[tag]) if rest else outside)
        found.append(entity_f1.counts_of(tagset.entities(guessed), true))
    return TrivialBaseline("each word by its commonest tag", entity_f1.row_values(found))


def _words(row: Encoded) -> list[tuple[int, ...]]:
    """The tokens of each word that is read; a word without one of its own has none."""
    found: list[tuple[int, ...]] = []
    places = [place for place in row.places if place >= 0]
    ends = dict(zip(places, [*places[1:], len(row.ids)], strict=True))
    for place in row.places:
        found.append(tuple(row.ids[place : ends[place]]) if place >= 0 else ())
    return found
