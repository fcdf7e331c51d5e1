"""What an endpoint says as a set of labels: names, `none`, denials; and shares of its answers as logits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pytest

from distill2edge.data.examples import Row
from distill2edge.errors import UserError
from distill2edge.generation.generate import Answer, Ask
from distill2edge.recipe.ask import Ask as Section
from distill2edge.teacher.answer_matching import choices_of, logits_of_sets
from distill2edge.teacher.endpoint_sets import ask_sets
from distill2edge.util.progress import SilentProgress

ANSWERS = ("war", "love", "true love", "no plot")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("war, love", (0, 1)),
        ("Love and war.", (0, 1)),
        ('["true love"]', (2,)),  # a longer name is not also the shorter one in it
        ("The labels are: War; Love", (0, 1)),
        ("no plot", (3,)),  # a name may look like a denial
        ("war, but not love", (0,)),
        ("war war", (0,)),
        ("none", ()),
        ("None of the above.", ()),
        ("[]", ()),
        ("none apply", ()),
        ("No labels", ()),
        ("neither war nor love", None),
        ("war; there is no war", None),
        ("warm", None),
        ("I cannot say", None),
        ("", None),
    ],
)
def test_an_answer_names_any_of_the_choices(text: str, said: tuple[int, ...] | None) -> None:
    assert choices_of(text, ANSWERS) == said


def test_none_may_be_a_choice_of_its_own() -> None:
    assert choices_of("none", ("a", "none")) == (1,)


def test_a_share_of_answers_is_a_smoothed_probability() -> None:
    logits = logits_of_sets([0, 3, 4], 4)
    assert [1 / (1 + math.exp(-logit)) for logit in logits] == pytest.approx([0.5 / 5, 3.5 / 5, 4.5 / 5])


class Server:
    """Answers by a function of the prompt and the number of the answer."""

    name, shard_rows = "server", 40
    facts: ClassVar[dict[str, Any]] = {}

    def __init__(self, say: Any) -> None:
        self.say, self.asked = say, list[Ask]()

    def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
        self.asked += asks
        return [Answer(self.say(ask.messages[-1][1], ask.tag), "stop", 1, 1) for ask in asks]


ROWS = [Row(str(n), ("a war film", "a quiet film")[n % 2], "") for n in range(6)]


def heard(server: Any, rows: Sequence[Row] = ROWS, **section: Any) -> Any:
    return ask_sets(server, rows, ("war", "love"), Section(**section), 0, SilentProgress())


def test_several_answers_are_counted_label_by_label() -> None:
    def say(prompt: str, tag: str) -> str:
        if "quiet" in prompt:
            return "none"
        return ("war", "war, love", "dunno")[int(tag)]

    server = Server(say)
    found = heard(server, samples=3)
    assert found.facts == {
        "asked_by": "samples", "answers": 18, "empty": 9, "unreadable": 3, "unreadable_examples": ["'dunno'"],
    }  # fmt: skip
    war, love = found.scores["0"]  # of the two answers that can be read, both name war and one love
    assert war == pytest.approx(math.log(2.5 / 0.5))
    assert love == 0.0
    assert all(logit < -1 for logit in found.scores["1"])  # the empty set is an answer
    assert len({(ask.messages, ask.tag) for ask in server.asked}) == 6
    assert not any(ask.logprobs for ask in server.asked)


def test_a_row_of_which_nothing_can_be_read_has_no_labels() -> None:
    found = heard(Server(lambda prompt, tag: "dunno" if "quiet" in prompt and tag == "0" else "love"), ROWS, samples=1)
    assert len(found.scores) == 6
    rows = [Row("a", "a war film", ""), Row("b", "another", ""), Row("c", "a third", "")]
    found = heard(Server(lambda prompt, tag: "dunno" if prompt == "another" else "love"), rows, samples=1)
    assert set(found.scores) == {"a", "c"}


def test_answers_that_cannot_be_read_stop_before_the_rest_is_paid_for() -> None:
    server = Server(lambda prompt, tag: "As an AI, I cannot")
    rows = [Row(str(n), f"film {n}", "") for n in range(100)]
    with pytest.raises(UserError, match=r"32 of the first 32 answers"):
        heard(server, rows, samples=1)
    assert len(server.asked) == 32
