"""Narrower layers for a student: what is asked of a model, measured on calibration rows, and pruned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill2edge.quantize.calibration_texts import Text
from distill2edge.student.importance import measure
from distill2edge.student.pruning import choose, prune
from distill2edge.student.tensor_roles import check, roles_of
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded


def narrow(
    model: Any, wanted: Mapping[str, int | float], rows: Sequence[Encoded], owner: str, progress: Progress
) -> tuple[Any, dict[str, Any]]:
    """A model as narrow as asked, and what student.json says of it.

    Args:
        model: in evaluation mode; it is used up.
        wanted: name of a width -> how many to keep, or which share.
        rows: calibration rows in its tokens.
        owner: `the teacher`, for errors.

    Raises:
        UserError: widths that it does not have, or a family that cannot be pruned.
    """
    whole, target = check(model.config.to_dict(), model.state_dict(), wanted, owner)
    facts: dict[str, Any] = {name: {"kept": getattr(target, name), "of": getattr(whole, name)} for name in wanted}
    if target == whole:
        return model, facts
    roles = roles_of(model)
    found = measure(model, roles, whole, [Text(row.ids, row.prompt_length, row.types) for row in rows], progress)
    small = prune(model, roles, whole, target, choose(found, whole, target))
    said = (f"{name} {each['kept']:,} of {each['of']:,}" for name, each in facts.items())
    progress.say(f"  width: {', '.join(said)}")
    return small, {**facts, "tokens": found.tokens}
