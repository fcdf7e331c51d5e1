"""The recipe of a student's assistant: what its stages do their work by."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distill2edge.recipe.schema import Recipe


def of_assistant(recipe: Recipe) -> Recipe:
    """The same recipe for the assistant: its own layers, as wide and with as many tokens as the model has them.

    Args:
        recipe: one with `student.assistant`.
    """
    spec = recipe.student.assistant
    assert spec is not None
    sizes = {"layers": spec.layers, "width": None}
    if hasattr(recipe.student.init, "decoder_layers"):
        sizes["decoder_layers"] = None
    own = {"init": recipe.student.init.model_copy(update=sizes), "assistant": None, "vocabulary": "keep"}
    distill = recipe.distill.model_copy(update={"on_policy": None, "quantization_aware": None, "control": False})
    student = recipe.student.model_copy(update={**own, "thresholds": "half"})
    return recipe.model_copy(update={"student": student, "distill": distill})
