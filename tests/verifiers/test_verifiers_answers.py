"""Final answers and numbers out of text; exact, numeric and majority; the recipe's errors."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.errors import RecipeErrors
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.verifiers import ExactVerifier, MajorityVerifier, NumericVerifier
from distill2edge.verifiers.answers import final_answer, numbers, read_number
from distill2edge.verifiers.final_answer import exact, numeric
from distill2edge.verifiers.majority import Majority
from distill2edge.verifiers.verifier import Group


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{1} and then \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        ("He has 3.\n#### 42", "42"),
        ("The answer is 7 apples.\nThank you.", "7 apples"),
        ("Final answer: 12", "12"),
        ("line one\nline two\n\n", "line two"),
        ("  \n ", None),
    ],
)
def test_final_answer(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234.5", Fraction(2469, 2)),
        ("-3", Fraction(-3)),
        ("\u22123", Fraction(-3)),
        ("3 + 4 = 7", Fraction(7)),
        ("5%", Fraction(1, 20)),
        ("3/4", Fraction(3, 4)),
        ("2e3", Fraction(2000)),
        (".5", Fraction(1, 2)),
        ("5-3", Fraction(3)),
        ("123,4567", Fraction(4567)),
        ("none", None),
        ("1/0", None),
        ("x2", None),
    ],
)
def test_numbers_are_read_as_a_person_reads_them(text: str, value: Fraction | None) -> None:
    assert read_number(text) == value


@given(st.integers(-(10**30), 10**30))
def test_every_whole_number_is_read_back(value: int) -> None:
    assert read_number(f"so it is {value}") == value
    assert read_number(f"so it is {value:,}") == value


@given(st.text(max_size=300))
def test_no_text_is_too_strange(text: str) -> None:
    final_answer(text)
    read_number(text)
    assert all(part in text for part in numbers(text))


def outcomes(verifier: object, *responses: str, reference: str = "") -> list[str]:
    return [verdict.outcome for verdict in verifier.verify([Group("p", responses, reference)])[0]]  # type: ignore[attr-defined]


def test_exact_ignores_case_spaces_and_a_full_stop() -> None:
    said = outcomes(exact(ExactVerifier()), "The answer is Paris.", " paris ", "Lyon", reference="Paris")
    assert said == ["accepted", "accepted", "rejected"]
    assert outcomes(exact(ExactVerifier(ignore_case=False)), "paris", reference="Paris") == ["rejected"]


def test_numeric_compares_numbers_within_the_tolerance_and_says_why() -> None:
    said = outcomes(numeric(NumericVerifier()), "#### 1,000", "= 1000.0", "999", "no idea", reference="#### 1000")
    assert said == ["accepted", "accepted", "rejected", "rejected"]
    near = numeric(NumericVerifier(relative=0.01))
    assert outcomes(near, "991", "989", reference="1000") == ["accepted", "rejected"]
    verdict = near.verify([Group("p", ("12",), "1000")])[0][0]
    assert verdict.reason == "12 is not 1000"
    assert verdict.answer == "12"


def test_majority_takes_the_answer_that_most_samples_give_and_no_tie() -> None:
    majority = Majority(MajorityVerifier())
    assert outcomes(majority, "7", "it is 7.0", "8") == ["accepted", "accepted", "rejected"]
    assert outcomes(majority, "7", "8", "7", "8") == ["rejected"] * 4
    assert outcomes(majority, "1", "1", "2", "3", "4") == ["rejected"] * 5  # two of five are no half
    assert outcomes(majority, "yes", "Yes.", "no") == ["accepted", "accepted", "rejected"]


RECIPE = """\
name: x
teacher: {model: bundled:smollm2-135m-instruct}
data: {source: rows.jsonl}
signal: {kind: text, %s}
student: {init: {from: teacher, layers: 1}}
distill: {loss: {ce: 1}}
"""


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        ("samples: 4", "temperature"),
        ("temperature: 1, samples: 2, verify: [{kind: majority}]", "three samples"),
        ("verify: [{kind: regex, pattern: '('}]", "not a regular expression"),
        ("verify: [{kind: regex, patern: a}]", "did you mean pattern"),
        ("verify: [{kind: python}]", "exactly one of code and file"),
        ("verify: [{kind: python, code: a, file: b}]", "exactly one of code and file"),
        ("verify: [{kind: numerical}]", "numeric"),
        ("verify: [{pattern: a}]", "which kind is missing"),
    ],
)
def test_mistakes_in_a_recipe_are_told_with_their_line(signal: str, message: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(RECIPE % signal, "r.yaml")
    assert message in str(caught.value)
    assert "r.yaml:4" in str(caught.value)
