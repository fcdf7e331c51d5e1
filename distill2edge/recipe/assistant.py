"""The recipe of a student's assistant: what its stages do their work by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.recipe.loss_terms import LAYERS

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Loss, Recipe


def of_assistant(recipe: Recipe) -> Recipe:
    """The same recipe for the assistant: its own layers, as wide and with as many tokens as the model has them.

    Intermediate layers are compared between it and its student, so its own training has no term of them.

    Args:
        recipe: one with `student.assistant`.
    """
    spec = recipe.student.assistant
    assert spec is not None
    sizes = {"layers": spec.layers, "width": None}
    if hasattr(recipe.student.init, "decoder_layers"):
        sizes["decoder_layers"] = None
    own = {"init": recipe.student.init.model_copy(update=sizes), "assistant": None, "vocabulary": "keep"}
    loss = without_layers(recipe.distill.loss)
    alone: dict[str, object] = {"loss": loss, "on_policy": None, "quantization_aware": None, "control": False}
    if spec.epochs is not None:
        alone["epochs"] = spec.epochs
    distill = recipe.distill.model_copy(update=alone)
    student = recipe.student.model_copy(update={**own, "thresholds": "half"})
    return recipe.model_copy(update={"student": student, "distill": distill})


def without_layers(loss: Loss) -> Loss:
    """A loss without its terms on intermediate layers."""
    return loss.model_copy(update={term.name: 0.0 for term, _ in loss.weighed(*LAYERS)})
