"""Classification heads: a new one on a pretrained body, and checks of one that is there."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.kinds import CLASSIFIER, MULTI_LABEL, Kind, kind_of, kind_of_directory
from distill2edge.models.loading import copy_tokenizer, read_config
from distill2edge.util.files import write_json


def with_head(
    source: Path,
    labels: Sequence[str],
    target: Path,
    seed: int,
    where: str,
    spread: tuple[float, float] | None = None,
    kind: Kind = CLASSIFIER,
) -> bool:
    """Write `target`: the model of `source` with a head over `labels`; its own, where it has one that fits.

    Args:
        labels: names of the classes, in the order of the logits.
        seed: of the new head's weights.
        where: the recipe's key of the model, for errors.
        spread: of a regressor: mean and standard deviation of the numbers, at which a new head begins.
        kind: of the head, in whose class the model is loaded; the `problem_type` of a head that a model has already is
            changed where it makes another kind of it.

    Returns:
        whether the head is new.

    Raises:
        UserError: a head of another size or over other labels, or a model that no classifier can be made of.
    """
    shutil.rmtree(target, ignore_errors=True)
    if labels_of(source, kind) is not None:
        check_head(source, labels, where, kind)
        _keep_head(source, target, kind)
        return False
    import torch
    from optimum.exporters.tasks import TasksManager
    from transformers import set_seed

    set_seed(seed)
    try:
        model = load_checkpoint(
            TasksManager.get_model_class_for_task(kind.hub_task),
            source,
            new_head=True,
            num_labels=len(labels),
            id2label=dict(enumerate(labels)),
            label2id={label: index for index, label in enumerate(labels)},
            dtype=torch.float32,
        )
    except ValueError as error:
        raise UserError(
            f"this model does not load for {kind.hub_task}: {str(error).splitlines()[0]}",
            where=where,
            fix="take an encoder: BERT, MiniLM, DistilBERT, RoBERTa, ELECTRA, ...",
        ) from error
    if kind.problem:
        model.config.problem_type = kind.problem
    if spread is not None:
        _begin_at(model, *spread)
    if model.config.pad_token_id is None:
        raise UserError("the model has no padding token", where=where, fix="use an encoder with one")
    model.save_pretrained(target)
    copy_tokenizer(source, target)
    return True


def _keep_head(source: Path, target: Path, kind: Kind) -> None:
    """Copy a model with its head, said to be of the kind."""
    shutil.copytree(source, target)
    config = read_config(target)
    if kind.problem and kind_of(config) is not kind_of(changed := {**config, "problem_type": kind.problem}):
        write_json(target / "config.json", changed)


def _begin_at(model: Any, mean: float, deviation: float) -> None:
    """Let the last layer give numbers around `mean`, of this spread: training need not go there by small steps."""
    import torch

    last = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == 1][-1]
    with torch.no_grad():
        last.weight *= deviation
        if last.bias is not None:
            last.bias.fill_(mean)


def labels_of(model_dir: Path, kind: Kind = CLASSIFIER) -> list[str] | None:
    """Names of a head's classes, in the order of the logits; None without a head that says such things as `kind`'s."""
    own = kind_of_directory(model_dir)
    return own.labels(read_config(model_dir)) if own.hub_task == kind.hub_task else None


def check_apart(model_dir: Path, where: str, kind: Kind) -> None:
    """Refuse a teacher whose labels exclude each other where the data's do not, and the other way round.

    Args:
        kind: of the student.

    Raises:
        UserError: it is of the other kind.
    """
    if (kind_of_directory(model_dir) is MULTI_LABEL) == (kind is MULTI_LABEL):
        return
    said = read_config(model_dir).get("problem_type") or "not stated"
    if kind is MULTI_LABEL:
        what = f"the teacher's head chooses one label of each text (problem_type: {said}), and data.multi is true"
        fix = "set teacher.fit to train it on the data's own sets, or name a teacher of problem_type "
        raise UserError(what, where=where, fix=f"{fix}multi_label_classification")
    what = f"the teacher's head tells each label apart by itself (problem_type: {said}), and data.multi is false"
    raise UserError(what, where=where, fix="set data.multi: true, or teacher.fit to train it to choose one label")


def check_head(model_dir: Path, labels: Sequence[str], where: str, kind: Kind = CLASSIFIER) -> None:
    """Refuse a head that answers another question than the data asks.

    Names that transformers makes up (`LABEL_0`) say nothing and are taken to be the data's, in their order.

    Raises:
        UserError: no head, another number of labels, other labels, or the same ones in another order.
    """
    own = labels_of(model_dir, kind)
    if own is None:
        raise UserError(
            f"the model has no head for {kind.hub_task}",
            where=where,
            fix="set teacher.fit to train one on the data's own responses, or name a model that has one",
        )
    if len(own) != len(labels) and len(labels) == 1:
        raise UserError(
            f"the head has {len(own)} labels ({', '.join(own[:6])}), and a regressor gives one number",
            where=where,
            fix="start from the model without a head, or set task: classification",
        )
    if len(own) != len(labels):
        raise UserError(
            f"the head has {len(own)} labels ({', '.join(own[:6])}), data.choices has {len(labels)}",
            where=where,
            fix="name the same labels in data.choices, or start from the model without a head",
        )
    if len(own) == 1 or all(name.startswith("LABEL_") for name in own) or own == list(labels):
        return
    if sorted(own) == sorted(labels):
        raise UserError(
            f"the head's labels are in another order: {', '.join(own)}",
            where="data.choices",
            fix=f"write data.choices: [{', '.join(own)}]",
        )
    missing = sorted(set(labels) - set(own))
    raise UserError(
        f"the head's labels are {', '.join(own)}; the data has {', '.join(missing)}",
        where=where,
        fix=f"map the data onto the head's labels in data.response and data.choices: [{', '.join(own)}]",
    )
