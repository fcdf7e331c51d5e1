"""What a teacher wrote when it was asked for an instruction -> instructions, and why each is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distill2edge.data.examples import row_id
from distill2edge.data.filters import blank, blocked, refusal
from distill2edge.data.leakage import words
from distill2edge.generation.generate import Answer, drop_reason

if TYPE_CHECKING:
    from distill2edge.recipe.synthesis import Synthesis
    from distill2edge.synthesis.similarity import Pool

# "3. ", "3) ", "- ", "Task 3:", "New task:", "**Task:**"
_LABEL = re.compile(
    r"^\W*(?:(?:(?:the |a |my |your )?(?:new |rewritten |next )?(?:task|instruction|prompt)\s*(?:\d+)?\s*[:.)]\W*)"
    r"|(?:\d{1,3}\s*[.):]\s+))",
    re.IGNORECASE,
)
_OPENING = re.compile(r"^(?:sure|certainly|of course|here(?:'s| is| are))\b[^:\n]*[:!.]\s*", re.IGNORECASE)
_SOLUTION = re.compile(r"\n\s*\W*(?:solution|answer|output|response|example)\b\W*:.*", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Candidate:
    """An instruction on its way.

    Attributes:
        text: the instruction.
        method: `self-instruct`, `evolve` or `reverse`.
        parent: id of the row it was made of, where there is one.
        response: given for `reverse` (the human text); else None: the teacher is yet to answer.
        dropped: why it is out; empty while it is in.
        prompt_tokens, tokens, cost_usd: of the request that wrote it.
    """

    text: str
    method: str
    parent: str = ""
    response: str | None = None
    dropped: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    cost_usd: float = 0.0

    @property
    def id(self) -> str:
        """Content hash, as a data row's."""
        return row_id(self.text, self.response or "")


def instruction_of(text: str) -> str:
    """The instruction in an answer: its first paragraph, without a number, a label, quotes or what follows."""
    said = _SOLUTION.sub("", _OPENING.sub("", text.strip(), count=1))
    paragraph = said.strip().split("\n\n", 1)[0]
    # A list of several: the first of them.
    lines = [line.strip() for line in paragraph.splitlines() if line.strip()]
    numbered = [line for line in lines if _LABEL.match(line)]
    chosen = numbered[0] if len(numbered) > 1 else " ".join(lines)
    chosen = _LABEL.sub("", chosen, count=1).strip()
    if len(chosen) > 1 and chosen[0] in "\"'\u201c" and chosen[-1] in "\"'\u201d":
        chosen = chosen[1:-1].strip()
    return chosen.strip("*_ ")


def candidate(
    answer: Answer, method: str, pool: Pool, rules: Synthesis, parent: str = "", response: str | None = None
) -> Candidate:
    """An answer as a candidate; it joins the pool unless it is refused."""
    text = instruction_of(answer.text)
    dropped = drop_reason(answer.finish) or _fault(text, rules) or _near(text, pool)
    found = Candidate(
        text, method, parent, response, dropped, answer.prompt_tokens, answer.tokens, answer.cost_usd
    )  # fmt: skip
    if not dropped:
        pool.add(text, found.id)
    return found


def response_fault(answer: Answer, rules: Synthesis) -> str:
    """Why a response is of no use; empty where it is fine."""
    if ended := drop_reason(answer.finish):
        return ended
    if blank(answer.text):
        return "empty"
    if refusal(answer.text):
        return "refusal"
    word = blocked(answer.text, rules.blocklist)
    return f"blocklisted: {word}" if word else ""


def _fault(text: str, rules: Synthesis) -> str:
    if blank(text):
        return "empty"
    if refusal(text):
        return "refusal"
    if word := blocked(text, rules.blocklist):
        return f"blocklisted: {word}"
    count = len(words(text))
    if count < rules.min_words:
        return f"too short: {count} words"
    return f"too long: {count} words" if count > rules.max_words else ""


def _near(text: str, pool: Pool) -> str:
    near = pool.nearest(text)
    return f"near-duplicate of {near[0][:12]} (ROUGE-L {near[1]:.2f})" if near else ""
