"""What a reader must know beside a verdict that holds: gates that are off, scores that mean little. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill2edge.recipe.schema import Verify
from distill2edge.verify.gates import precision_of, shipped
from distill2edge.verify.trivial_baselines import TrivialBaseline

HIGH_KL = 0.5
"""Nats from which on a file that no gate holds is warned of."""
FEW = 5
"""Held-out rows of a class below which its figures are anecdotes."""
UNEVEN = 0.2
"""Share of an even share below which a class is small: 1 in 10 of two classes, 1 in 50 of ten."""
_NAMED = 5
"""Classes that a warning names."""
_PRECISIONS = {"lossless": "lossless files", "eight_bits": "8-bit files", "lower": "files below 8 bits"}


def warnings_of(
    models: Sequence[Mapping[str, Any]], verify: Verify, baseline: TrivialBaseline, rows: int, unit: str
) -> list[dict[str, Any]]:
    """The warnings of verify.json, those that forbid a headline first.

    Args:
        models: its entries, with `above_baseline`.
        baseline: which classes there are.
        rows: held out.
        unit: what the KL is a mean over.

    Returns:
        `kind` (`class`, `baseline`, `gate`, `kl`), `text`, and `headline`: whether a headline may stand beside it.
    """
    found = [*_classes(baseline, rows), *_scores(models, baseline), *_limits(models, verify, unit)]
    return sorted(found, key=lambda warning: bool(warning["headline"]))


def _warning(kind: str, text: str, headline: bool = True) -> dict[str, Any]:
    return {"kind": kind, "text": text, "headline": headline}


def _classes(baseline: TrivialBaseline, rows: int) -> list[dict[str, Any]]:
    """One warning for the classes that never occur, one for those that hardly do."""
    few = max(FEW, UNEVEN * rows / max(len(baseline.classes), 1))
    absent = [repr(label) for label, count in baseline.classes if count == 0]
    small = [f"{label!r} has {count}" for label, count in baseline.classes if 0 < count < few]
    found = []
    if absent:
        who = f"class {absent[0]} never occurs" if len(absent) == 1 else f"{_some(absent)} never occur"
        text = f"{who} in the {rows} held-out rows: no figure here says anything about it"
        found.append(_warning("class", text, headline=False))
    if small:
        who = f"class {small[0]}" if len(small) == 1 else f"{len(small)} classes are small: {_listed(small)}"
        found.append(_warning("class", f"{who} of the {rows} held-out rows: look at the {baseline.fair} too"))
    return found


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} classes ({_listed(names)})"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _scores(models: Sequence[Mapping[str, Any]], baseline: TrivialBaseline) -> list[dict[str, Any]]:
    """The teacher, and the files that ship, that are no better than what needs no model."""
    teacher = [model for model in models if model["id"] == "teacher"]
    poor = [model["id"] for model in [*teacher, *shipped(models)] if model.get("above_baseline") is False]
    if "teacher" in poor:
        text = (
            f"the teacher is within noise of a baseline without a model ({baseline.name}): keeping its "
            "quality proves nothing"
        )
        return [_warning("baseline", text, headline=False)]
    texts = [f"{name} is within noise of a baseline without a model ({baseline.name})" for name in poor]
    return [_warning("baseline", text) for text in texts]


def _limits(models: Sequence[Mapping[str, Any]], verify: Verify, unit: str) -> list[dict[str, Any]]:
    """Gates that the recipe switched off, and files far from their student that no gate holds."""
    found, seen = [], dict.fromkeys(precision_of(model) for model in shipped(models))
    for precision in seen:
        if precision in ("lossless", "eight_bits") and verify.max_kl.of(precision) is None:
            text = (
                f"the recipe sets verify.max_kl to null for {_PRECISIONS[precision]}: their KL is reported, not limited"
            )
            found.append(_warning("gate", text))
    for model in shipped(models):
        precision, kl = precision_of(model), model.get("kl_student")
        if precision is None or kl is None or verify.max_kl.of(precision) is not None:
            continue
        if kl["value"] > HIGH_KL:
            text = f"{model['id']} is {kl['value']:.3g} nats per {unit} from its student, and no gate limits it"
            found.append(_warning("kl", text))
    return found
