"""`exact` and `numeric`: the final answer against that of the data's own response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distill2edge.verifiers.answers import final_answer, normal, read_number
from distill2edge.verifiers.verifier import Each, Verdict, accepted, rejected

if TYPE_CHECKING:
    from distill2edge.recipe.verifiers import ExactVerifier, NumericVerifier


def exact(spec: ExactVerifier) -> Each:
    """The answer is the reference's, but for white space, a final full stop and, with `ignore_case`, case."""

    def check(prompt: str, response: str, reference: str) -> Verdict:
        wanted, answer = final_answer(reference, spec.extract), final_answer(response, spec.extract)
        if wanted is None:
            return rejected("the reference has no answer to compare with")
        if answer is None:
            return rejected("the response has no answer")
        if normal(answer, spec.ignore_case) == normal(wanted, spec.ignore_case):
            return accepted(answer=answer)
        return rejected(f"{answer!r} is not {wanted!r}", answer)

    return Each(spec.kind, check)


def numeric(spec: NumericVerifier) -> Each:
    """The number is the reference's, within |a - b| <= max(absolute, relative |b|); exact rational arithmetic."""

    def check(prompt: str, response: str, reference: str) -> Verdict:
        wanted = read_number(final_answer(reference, spec.extract) or "")
        written = final_answer(response, spec.extract) or ""
        answer = read_number(written)
        if wanted is None:
            return rejected("the reference has no number to compare with")
        if answer is None:
            return rejected("the response has no number")
        allowed = max(spec.absolute, spec.relative * abs(float(wanted))) if spec.absolute or spec.relative else 0
        if abs(answer - wanted) <= allowed:
            return accepted(answer=written)
        return rejected(f"{_short(answer)} is not {_short(wanted)}", written)

    return Each(spec.kind, check)


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
