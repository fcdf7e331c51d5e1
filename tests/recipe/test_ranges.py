"""Numbers of a recipe that are legal floats and make no sense: refused with the range and the reason."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pydantic import BaseModel

from distill2edge.errors import RecipeErrors
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.ranges import bounds
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.section import _is_number
from distill2edge.recipe.words import sections

RECIPE = "name: a\nteacher: {model: o/t}\ndata: {source: a.csv}\nstudent: {init: {from: teacher, layers: 1}}\n"


def read(*overrides: str) -> Recipe:
    return parse_recipe(RECIPE, "a.yaml", overrides)


@pytest.mark.parametrize(
    ("override", "fix"),
    [
        ("signal={kind: logits, temperature: 1e-300}", "give 0.01 to 100 (below 0.01 one token has all the mass"),
        ("signal={kind: logits, temperature: 1e12}", "give 0.01 to 100"),
        ("signal={kind: logits, temperature: 5e-324}", "give 0.01 to 100"),
        ("signal={kind: text, temperature: 1e-300}", "0 is greedy"),
        ("signal={kind: text, top_p: 0}", "give above 0 and at most 1"),
        ("distill.learning_rate=1e9", "give 1e-09 to 1 (below 1e-9 float32 weights do not change"),
        ("distill.learning_rate=1e-300", "give 1e-09 to 1"),
        ("distill.epochs=1e-9", "max_steps sets few steps"),
        ("distill.max_grad_norm=1e-300", "clipped gradients"),
        ("distill.weight_decay=1e3", "give 0 to 10"),
        ("distill.warmup=1", "give at least 0 and below 1"),
        ("distill.loss={ce: 1e300}", "give 0 to 10,000"),
        ("distill.loss={ce: 1e-300}", "a term that weighs less says nothing"),
        ("distill.loss={jsd: 1, jsd_beta: 1e-300}", "forward_kl or reverse_kl"),
        ("student.lora.alpha=1e-300", "alpha / rank"),
        ("student.lora.dropout=0.9999999", "give 0 to 0.95"),
        ("data.max_length=1", "give 8 to 1,048,576"),
        ("data.leakage.near_duplicate=1e-300", "nearly all rows"),
        ("verify.min_retained=1e-300", "give at least 0.01"),
        ("verify.min_top1=95", "write 0.95 for 95%"),
        ("cost.utilisation=95", "write 0.95 for 95%"),
        ("cost.utilisation=1e-300", "give 0.0001 to 1"),
        ("export=[{format: gguf, max_kl: 1e-300}]", ""),
        ("verify.max_kl=1e-300", ""),
        ("distill.on_policy={temperature: 1e-300}", "give 0.01 to 100"),
        ("student.pretrain={mask: 1e-300}", "give 0.01 to 0.9"),
    ],
)
def test_numbers_without_sense(override: str, fix: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        read(override)
    assert any(fix in error.fix for error in caught.value.errors), str(caught.value)


def test_numbers_that_people_use() -> None:
    for override in (
        *("signal={kind: logits, temperature: 0.5}", "signal={kind: logits, temperature: 20}"),
        *("distill.learning_rate=1e-7", "distill.learning_rate=0.3", "distill.epochs=0.01", "distill.epochs=1000"),
        *("distill.loss={ce: 0, forward_kl: 100}", "student.lora.alpha=0.5", "verify.max_kl=1e-6", "verify.max_kl=5"),
        *("distill.max_grad_norm=0.001", "distill.max_grad_norm=1e6", "verify.min_retained=0.3"),
    ):
        read(override)
    read("signal={kind: text, temperature: 0}", "distill.loss={ce: 1}")


def _floats(model: type[BaseModel], path: str = "", seen: frozenset[type] = frozenset()) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        inner = sections(field.annotation)
        for section in inner:
            if section not in seen:
                yield from _floats(section, f"{path}{name}.", seen | {model})
        if not inner and _is_number(field.annotation) and "float" in str(field.annotation):
            yield f"{path}{name}", bounds(field)


def test_every_float_of_a_recipe_has_a_range() -> None:
    """Both ends, but where none is senseless: money, and how near a number must be."""
    found = dict(_floats(Recipe))
    assert len(found) > 50
    open_ended = {key.rpartition(".")[2] for key, span in found.items() if "at least" in span or "at most" in span}
    may = {
        "max_usd",
        "requests_per_minute",
        "tokens_per_minute",
        "absolute",
        "min_share",
        "min_retained",
        "top_p",
        "warmup",
        "data_share",
    }
    assert open_ended <= may
    assert not [key for key, span in found.items() if not span]
