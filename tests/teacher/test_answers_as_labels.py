"""Answers of a language model as class logits: likelihoods, their correction, and what an endpoint says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.data.examples import Encoded, Row
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint.reply import Reply, read_reply
from distill2edge.generation.generate import Answer, Ask
from distill2edge.recipe.ask import Ask as Section
from distill2edge.teacher.answer_matching import choice_of, scores_of_counts, scores_of_first
from distill2edge.teacher.choice_correction import Correction, best, candidates, fitted, log_softmax
from distill2edge.teacher.choice_scores import choice_scores
from distill2edge.teacher.endpoint_labels import ask_endpoint
from distill2edge.util.progress import SilentProgress

VOCABULARY = 11


class Bigram:
    """A model whose next token depends on the last one alone; it counts the texts that it reads."""

    name, dtype, vocab_size = "bigram", "float32", VOCABULARY

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.table = torch.randn(VOCABULARY, VOCABULARY)
        self.read = 0

    def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
        self.read += len(examples)
        for number in reversed(range(len(examples))):
            ids, mask = examples[number].ids, examples[number].mask
            yield number, torch.stack([self.table[ids[at - 1]] for at, on in enumerate(mask) if on])

    def close(self) -> None:
        pass


def expected(model: Bigram, prompt: Sequence[int], choice: Sequence[int]) -> float:
    logp = model.table.log_softmax(-1)
    before = [prompt[-1], *choice[:-1]]
    return float(sum(logp[last, token] for last, token in zip(before, choice, strict=True)))


tokens = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=2, max_size=2)), min_size=1, max_size=5))
def test_a_score_is_the_sum_over_the_answer_s_tokens(rows: list[tuple[list[int], list[list[int]]]]) -> None:
    model = Bigram()
    found = choice_scores(model, [prompt for prompt, _ in rows], [choices for _, choices in rows])
    wanted = [[expected(model, prompt, choice) for choice in choices] for prompt, choices in rows]
    assert np.allclose(found, wanted, atol=1e-4)


def plain_scores(model: Bigram, prompts: Sequence[Any], choices: Sequence[Any]) -> Any:
    """Each answer read on its own, whole rows of the vocabulary."""
    found = []
    for prompt, own in zip(prompts, choices, strict=True):
        rows = {}
        for choice in own:
            example = Encoded("x", [*prompt, *choice], [False] * len(prompt) + [True] * len(choice))
            ((_, logits),) = model.supervised_logits([example])
            rows[tuple(choice)] = logits.float().log_softmax(-1)
        found.append([float(sum(rows[tuple(c)][k][token] for k, token in enumerate(c))) for c in own])
    return np.array(found, dtype=np.float32)


@given(st.lists(st.tuples(tokens, st.lists(tokens, min_size=3, max_size=3)), min_size=1, max_size=4))
def test_scores_are_those_of_each_answer_read_on_its_own(rows: list[tuple[list[int], list[list[int]]]]) -> None:
    model = Bigram()
    prompts, choices = [prompt for prompt, _ in rows], [choices for _, choices in rows]
    assert choice_scores(model, prompts, choices).tolist() == plain_scores(model, prompts, choices).tolist()


def test_no_distribution_over_the_vocabulary_is_kept() -> None:
    import gc

    vocabulary, most = 20_000, 0

    class Wide(Bigram):
        def supervised_logits(self, examples: Sequence[Encoded]) -> Iterator[tuple[int, torch.Tensor]]:
            nonlocal most
            for number, example in enumerate(examples):
                yield number, torch.randn(example.supervised, vocabulary)
                most = max(most, sum(type(one) is torch.Tensor and vocabulary in one.shape for one in gc.get_objects()))

    choices = [[number, number + 1, number + 2] for number in range(0, 90, 3)]  # as many beginnings
    choice_scores(Wide(), [[1, 2]], [choices])
    assert most <= 4  # of 30 readings: what is being read


def test_answers_that_differ_in_their_last_token_take_one_pass() -> None:
    model = Bigram()
    choice_scores(model, [[1, 2], [3]], [[[4, 5], [4, 6]], [[7], [8]]])
    assert model.read == 2


def test_numbers_that_are_none_are_refused() -> None:
    model = Bigram()
    model.table[:] = math.nan
    with pytest.raises(UserError, match="not numbers"):
        choice_scores(model, [[1]], [[[2], [3]]])


def test_a_bias_of_the_model_is_taken_off() -> None:
    truth = np.array([0, 1] * 50)
    scores = np.random.default_rng(0).normal(0, 0.3, (100, 2)).astype(np.float32)
    scores[np.arange(100), truth] += 1.0
    scores[:, 1] += 5.0  # what it says anyway
    empty = np.array([[0.0, 5.0]], dtype=np.float32)
    found = {each.label: each for each in candidates(scores, empty, [1, 1], ["none", "contextual", "batch"])}
    right = {name: float((each(scores).argmax(-1) == truth).mean()) for name, each in found.items()}
    assert right["none"] == 0.5
    assert right["contextual"] > 0.9
    assert right["batch"] > 0.9
    chosen, table = best(list(found.values()), scores, truth)
    assert chosen.name != "none"
    assert {each["correction"] for each in table} == {*found, "fitted"}
    assert float((fitted(scores, truth)(scores).argmax(-1) == truth).mean()) > 0.9


def test_a_fit_finds_the_scale_and_the_prior() -> None:
    draw = np.random.default_rng(1)
    logits = draw.normal(0, 1.5, (4000, 3))
    true = 2.0 * logits - np.array([0.0, 1.0, -1.0])
    chances = np.exp(true - np.log(np.exp(true).sum(-1, keepdims=True)))
    truth = np.array([draw.choice(3, p=each) for each in chances])
    found = fitted(logits.astype(np.float32), truth)
    assert found.scale == pytest.approx(2.0, rel=0.1)
    assert found.prior is not None
    assert found.scale * (found.prior[1] - found.prior[0]) == pytest.approx(1.0, abs=0.2)
    assert found.scale * (found.prior[2] - found.prior[0]) == pytest.approx(-1.0, abs=0.2)


def test_a_fit_to_few_texts_stays_near_what_it_was() -> None:
    found = fitted(np.array([[0.0, -3.0]], dtype=np.float32), np.array([0]))
    assert 0.8 < found.scale < 1.5
    assert found.prior is not None
    assert max(map(abs, found.prior)) < 0.2


def test_a_correction_survives_its_file() -> None:
    one = Correction("contextual", (1, 3), (-0.5, -1.0))
    assert Correction.of(one.as_dict()) == one
    assert Correction.of(Correction().as_dict()) == Correction()
    assert one(np.array([[-2.0, -3.0]], dtype=np.float32)).tolist() == [[-1.5, 0.0]]


@given(st.lists(st.lists(st.floats(-50, 0, width=32), min_size=3, max_size=3), min_size=1, max_size=6))
def test_log_softmax_sums_to_one(rows: list[list[float]]) -> None:
    assert np.allclose(np.exp(log_softmax(np.array(rows, dtype=np.float32))).sum(-1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("positive", 1), (" Positive.", 1), ("**positive**", 1), ("positive, since it is fun", 1),
        ("The sentiment is negative.", 0), ("very positive", 2), ("It is very positive!", 2),
        ("positive or negative", None), ("I'd say negative, not positive", None), ("", None), ("positively", None),
        ("\u597d", None),
    ],
)  # fmt: skip
def test_what_an_answer_is_read_as(text: str, answer: int | None) -> None:
    assert choice_of(text, ["negative", "positive", "very positive"]) == answer


LANGUAGES = [
    (
        ["good", "bad"],
        ["{}", "It is {}.", "The text is {}, I think"],
        [
            "not {}",
            "It isn't {}.",
            "I don't find it {}",
            "never {}",
            "It is far from {}",
            "{}? No.",
            "non-{}",
            "It isn\u2019t really very {}",
        ],
    ),
    (
        ["gut", "schlecht"],
        ["Der Text ist {}."],
        ["nicht {}", "Er ist gar nicht {}."],
    ),
    (
        ["\u6b63\u9762", "\u8d1f\u9762"],
        ["\u8fd9\u6761\u8bc4\u8bba\u662f{}\u7684\u3002", "\u975e\u5e38{}"],
        ["\u4e0d\u662f{}\u7684\u3002", "\u5e76\u975e{}"],
    ),
    (
        ["\u30b9\u30d1\u30e0", "\u901a\u5e38"],
        ["\u3053\u308c\u306f{}\u3067\u3059\u3002"],
        ["{}\u3067\u306f\u3042\u308a\u307e\u305b\u3093", "{}\u3058\u3083\u306a\u3044"],
    ),
    (
        ["\u0e14\u0e35", "\u0e41\u0e22\u0e48"],
        ["\u0e02\u0e49\u0e2d\u0e04\u0e27\u0e32\u0e21\u0e19\u0e35\u0e49{}\u0e21\u0e32\u0e01"],
        ["\u0e21\u0e31\u0e19\u0e44\u0e21\u0e48{}"],
    ),
    (
        ["\uae0d\uc815", "\ubd80\uc815"],
        ["{}\uc785\ub2c8\ub2e4"],
        ["{}\uc774 \uc544\ub2d9\ub2c8\ub2e4"],
    ),
]
"""Choices; sentences that name one; sentences that deny it."""


@given(st.sampled_from(LANGUAGES), st.data())
def test_a_choice_is_read_in_its_language_and_its_denial_is_not(language: Any, data: st.DataObject) -> None:
    choices, named, denied = language
    at = data.draw(st.integers(0, len(choices) - 1))
    assert choice_of(data.draw(st.sampled_from(named)).format(choices[at]), choices) == at
    assert choice_of(data.draw(st.sampled_from(denied)).format(choices[at]), choices) is None


@given(
    st.sampled_from(LANGUAGES), st.sampled_from(["{} {}", "{}, {}", "{} or {}", "{}\u548c{}", "{}/{}", "{}: not {}"])
)
def test_an_answer_that_names_two_choices_is_unreadable(language: Any, both: str) -> None:
    choices = language[0]
    assert choice_of(both.format(*choices), choices) is None
    assert choice_of(both.format(*reversed(choices)), choices) is None


words = st.text("abcd\u00e9\u0915\u093e", min_size=1, max_size=6)


@given(words, words, st.lists(st.sampled_from(["xx", "yy", "zz."]), max_size=3))
def test_a_choice_counts_as_a_whole_word_and_inside_none(one: str, other: str, around: list[str]) -> None:
    choices = [one, "zzz"]
    assert choice_of(" ".join([*around, one]), choices) == 0
    if other not in one:
        assert choice_of(f"{other}{one}", choices) is None
    assert choice_of(f"x{one}", choices) is None
    assert choice_of(f"not {one}", choices) is None
    assert choice_of(f"not {one}", [one, f"not {one}"]) == 1


@pytest.mark.parametrize(
    ("text", "choices", "answer"),
    [
        ("No, it is not.", ["yes", "no"], 1), ("no no", ["yes", "no"], 1), ("not spam", ["spam", "not spam"], 1),
        ("It is not boring, so good", ["good", "bad"], 0), ("There is no doubt that it is good", ["good", "bad"], 0),
        ("3.5", ["3", "5"], None), (":(", [":)", ":("], 1), ("goods", ["good", "bad"], None),
        ("\u0905\u091a\u094d\u091b\u093e", ["\u0905\u091a\u094d\u091b", "x"], None),
        ("\ubd88\uc548\uc815", ["\uc548\uc815", "\uc704\ud5d8"], None),  # Korean: unstable, stable
    ],
)  # fmt: skip
def test_choices_at_the_edge(text: str, choices: list[str], answer: int | None) -> None:
    assert choice_of(text, choices) == answer


@pytest.mark.parametrize(
    ("listed", "answers"),
    [
        ([("1", 0.97), ("2", 0.01)], [str(n) for n in range(1, 11)]),
        ([("not", 0.95), ("spam", 0.04)], ["spam", "not spam", "not sure"]),
        ([("n", 0.9), ("p", 0.05)], ["negative", "positive", "neutral"]),
    ],
)
def test_a_first_token_that_several_answers_share_decides_nothing(
    listed: list[tuple[str, float]], answers: list[str]
) -> None:
    assert scores_of_first([(token, math.log(mass)) for token, mass in listed], answers) is None


def test_raw_tokens_and_short_lists_are_read_as_what_they_say() -> None:
    found = scores_of_first([("\u0120good", math.log(0.9)), ("bad", math.log(0.05))], ["bad", "good"])
    assert found is not None
    assert found[1] > found[0]
    sure = scores_of_first([("good", -0.0001)], ["bad", "good"])
    assert sure is not None
    assert math.exp(sure[0]) < 0.001


def test_counts_are_smoothed() -> None:
    assert scores_of_counts([0, 0]) is None
    found = scores_of_counts([3, 1])
    assert found is not None
    assert [round(math.exp(each), 3) for each in found] == [0.7, 0.3]


def test_first_tokens_are_masses_of_answers() -> None:
    listed = [(" pos", math.log(0.6)), ("Pos", math.log(0.1)), (" neg", math.log(0.2)), (" the", math.log(0.02))]
    found = scores_of_first(listed, ["negative", "positive"])
    assert found is not None
    assert [round(math.exp(each), 3) for each in found] == [0.2, 0.7]
    assert scores_of_first([(" not", -0.1)], ["not good", "not bad"]) is None  # it tells nothing
    unlisted = scores_of_first([(" pos", math.log(0.9)), (" the", math.log(0.05))], ["negative", "positive"])
    assert unlisted is not None
    assert round(math.exp(unlisted[0]), 3) == 0.025


def completion(logprobs: Any) -> Reply:
    import json

    choice = {"message": {"content": "positive"}, "finish_reason": "stop", "logprobs": logprobs}
    found = read_reply(json.dumps({"choices": [choice]}).encode())
    assert isinstance(found, Reply)
    return found


def test_first_tokens_are_read_in_both_forms() -> None:
    one = {"token": " pos", "logprob": -0.1, "top_logprobs": [{"token": " pos", "logprob": -0.1}, {"token": 3}]}
    assert completion({"content": [one, {"token": "itive", "logprob": 0}]}).first == ((" pos", -0.1),)
    assert completion({"top_logprobs": [{" pos": -0.1, " neg": -2.0}]}).first == ((" pos", -0.1), (" neg", -2.0))
    for broken in (None, {}, {"content": []}, {"content": ["x"]}, {"content": [{"token": "x", "logprob": None}]}, 7):
        assert completion(broken).first == ()


class Server:
    """Answers by a function of the prompt; keeps what it was asked."""

    name, shard_rows = "server", 4
    facts: ClassVar[dict[str, Any]] = {}

    def __init__(self, say: Any, logprobs: bool) -> None:
        self.say, self.logprobs, self.asked = say, logprobs, list[Ask]()

    def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
        self.asked += asks
        found = []
        for ask in asks:
            text = self.say(ask.messages[-1][1], ask.tag)
            first = ((text, -0.1), ("other", -3.0)) if self.logprobs and ask.logprobs else ()
            found.append(Answer(text, "stop", 1, 1, first=first))
        return found

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        return [True] * len(asks)

    def close(self) -> None:
        pass


ROWS = [Row(str(n), ("bad film", "good film")[n % 2], "") for n in range(6)]


def heard(server: Server, **section: Any) -> Any:
    return ask_endpoint(server, ROWS, ["bad", "good"], Section(**section), 0, SilentProgress())


def test_a_server_with_log_probabilities_is_asked_once_for_each_row() -> None:
    server = Server(lambda prompt, tag: prompt.split()[0], logprobs=True)
    found = heard(server)
    assert found.facts["asked_by"] == "logprobs"
    assert len({(ask.messages, ask.tag) for ask in server.asked}) == 2  # an endpoint keeps answers: each is paid once
    assert all(each.logprobs for each in server.asked)
    assert [int(np.argmax(found.scores[row.id])) for row in ROWS] == [0, 1, 0, 1, 0, 1]


def test_a_server_without_is_told_apart_by_its_first_answers_and_counted() -> None:
    server = Server(lambda prompt, tag: "dunno" if tag == "1" else f"It is {prompt.split()[0]}.", logprobs=False)
    found = heard(server, samples=3)
    assert found.facts == {
        "asked_by": "samples", "answers": 18, "unreadable": 6, "unreadable_examples": ["'dunno'"],
    }  # fmt: skip
    assert len([ask for ask in server.asked if not ask.logprobs]) == 3 * len(ROWS)
    assert [int(np.argmax(found.scores[row.id])) for row in ROWS] == [0, 1, 0, 1, 0, 1]


def test_a_server_without_log_probabilities_is_refused_after_few_requests_where_they_are_required() -> None:
    server = Server(lambda prompt, tag: "good", logprobs=False)
    with pytest.raises(UserError, match="no log-probabilities") as error:
        heard(server, logprobs="require")
    assert error.value.where == "teacher.ask.logprobs"
    assert all(ask.logprobs for ask in server.asked)


def test_answers_that_are_no_choice_at_all_are_an_error_with_an_example() -> None:
    with pytest.raises(UserError, match=r"6 of the first 6 answers are none of the choices.*As an AI") as error:
        heard(Server(lambda prompt, tag: "As an AI, I cannot", logprobs=False), samples=1)
    assert "teacher.ask.answers" in error.value.fix


class Warned(SilentProgress):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_a_choice_that_the_teacher_never_says_is_told_with_its_count(tmp_path: Any) -> None:
    from distill2edge.recipe.schema import Recipe
    from distill2edge.tasks.classification.asked.work import _Heard, _write

    recipe = Recipe.model_validate({
        "name": "one-sided", "task": "classification", "teacher": {"model": "bundled:x", "ask": {}},
        "data": {"source": "x.csv", "template": "plain", "choices": ["bad", "good"]}, "signal": {"kind": "labels"},
        "student": {"init": {"model": "bundled:y"}}, "bench": {"workloads": ["task"]},
    })  # fmt: skip
    scores = {row.id: np.array([-1.0, -2.0], dtype=np.float32) for row in ROWS}
    progress, heard = Warned(), _Heard(scores, np.zeros((1, 2), np.float32), [1, 1], {})
    facts = _write(recipe, ROWS, heard, Correction(), [], tmp_path, progress)
    assert facts["said"] == {"bad": 6, "good": 0}
    assert "never says 'good' of 6 texts" in " ".join(progress.warnings)
    many = [f"class {n}" for n in range(77)]
    wide = recipe.model_copy(update={"data": recipe.data.model_copy(update={"choices": many})})
    progress = Warned()
    scores = {row.id: -np.arange(77, dtype=np.float32) for row in ROWS}
    _write(wide, ROWS, replace(heard, scores=scores), Correction(), [], tmp_path, progress)
    (said,) = progress.warnings
    assert "never says 'class 1', 'class 2', 'class 3', 'class 4', 'class 5' and 71 more of 6 texts" in said


def test_shots_are_of_classes_that_the_seed_chooses_in_like_numbers() -> None:
    from distill2edge.tasks.classification.asked.work import choose_shots

    rows = [Row(str(n), f"text {n}", "", n % 10) for n in range(100)]
    chosen = [[row.label for row in choose_shots(rows, 3, seed)] for seed in range(30)]
    assert all(len(set(each)) == 3 for each in chosen)
    assert {label for each in chosen for label in each} == set(range(10))
    labels = [row.label for row in choose_shots(rows, 25, 7)]
    assert {labels.count(label) for label in range(10)} == {2, 3}
    assert choose_shots(rows, 25, 7) == choose_shots(rows, 25, 7)


def test_answers_of_which_one_begins_another_are_told_apart_by_their_end(tmp_path: Any) -> None:
    from tiny import tiny_llama

    from distill2edge.data.model_inputs import InputForm
    from distill2edge.models.checkpoint import load_tokenizer
    from distill2edge.verify.scores import trim_stop

    tiny_llama(tmp_path / "model")
    tokenizer = load_tokenizer(tmp_path / "model")
    form, stop = InputForm("decoder", "plain"), (tokenizer.eos_token_id,)
    (apart,) = form.reading.choices(["a film"], [" good", " bad"], tokenizer, form)
    assert all(choice[-1] not in stop for choice in trim_stop(apart, stop))
    (within,) = form.reading.choices(["a film"], [" good", " good dog"], tokenizer, form)
    assert all(choice[-1] in stop for choice in trim_stop(within, stop))


def test_a_server_whose_answers_cannot_be_read_is_asked_for_few_rows_only() -> None:
    server = Server(lambda prompt, tag: "dunno", logprobs=False)
    rows = [Row(str(n), f"film {n}", "") for n in range(2000)]
    with pytest.raises(UserError, match="64 of the first 64 answers are none"):
        ask_endpoint(server, rows, ["bad", "good"], Section(samples=2), 0, SilentProgress())
    assert len([ask for ask in server.asked if not ask.logprobs]) == 2 * 32
    assert len({ask.messages for ask in server.asked}) == 32


def test_answers_that_mostly_cannot_be_read_are_an_error_with_three_examples_before_the_rest_is_paid() -> None:
    said = ["As an AI", "Well", "It depends", "good"]
    server = Server(lambda prompt, tag: said[int(prompt.split()[1]) % 4], logprobs=False)
    rows = [Row(str(n), f"film {n}", "") for n in range(400)]
    with pytest.raises(UserError, match=r"24 of the first 32.*'As an AI', 'Well', 'It depends'") as error:
        ask_endpoint(server, rows, ["bad", "good"], Section(samples=1, logprobs="never"), 0, SilentProgress())
    assert "one of the choices alone" in error.value.fix
    assert len(server.asked) == 32


def test_half_of_the_answers_may_be_unreadable_and_the_share_is_kept() -> None:
    server = Server(lambda prompt, tag: ("dunno", "good")[int(prompt.split()[1]) % 2], logprobs=False)
    rows = [Row(str(n), f"film {n}", "") for n in range(80)]
    found = ask_endpoint(server, rows, ["bad", "good"], Section(samples=1, logprobs="never"), 0, SilentProgress())
    assert (found.facts["unreadable"], found.facts["answers"]) == (40, 80)
    assert set(found.scores) == {row.id for row in rows[1::2]}


class NowAndThen(Server):
    """Gives log-probabilities with the answers to some rows."""

    def __init__(self, gives: Any) -> None:
        super().__init__(lambda prompt, tag: "good", logprobs=True)
        self.gives = gives

    def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
        found = super().generate(asks, sampling, seed, done)
        given = [self.gives(int(ask.messages[-1][1].split()[1])) for ask in asks]
        return [answer if on else replace(answer, first=()) for answer, on in zip(found, given, strict=True)]


@pytest.mark.parametrize(
    ("gives", "how", "labelled"),
    [
        (lambda n: n % 7 != 3, "samples", 60),  # not with the first 32: every row is counted
        (lambda n: n != 0, "samples", 60),
        (lambda n: n != 50, "logprobs", 59),  # later: that row has no label, rather than one of another kind
    ],
)
def test_labels_of_a_run_are_of_one_kind(gives: Any, how: str, labelled: int) -> None:
    rows = [Row(str(n), f"film {n}", "") for n in range(60)]
    found = ask_endpoint(NowAndThen(gives), rows, ["bad", "good"], Section(samples=3), 0, SilentProgress())
    assert found.facts["asked_by"] == how
    assert len(found.scores) == labelled
    assert len({tuple(each) for each in found.scores.values()}) == 1
    assert found.facts["unreadable"] == 60 - labelled


def test_a_server_that_refuses_log_probabilities_is_counted() -> None:
    class Refusing(Server):
        def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
            found = super().generate(asks, sampling, seed, done)
            return [Answer("", "refused: unknown field logprobs", 0, 0) if ask.logprobs else answer
                    for ask, answer in zip(asks, found, strict=True)]  # fmt: skip

    server = Refusing(lambda prompt, tag: prompt.split()[0], logprobs=False)
    assert heard(server, samples=2).facts["asked_by"] == "samples"
    assert sum(ask.logprobs for ask in server.asked) == 1  # a handful of refusals would end the run


def test_a_server_that_is_down_is_not_said_to_lack_log_probabilities() -> None:
    class Down(Server):
        def generate(self, asks: Sequence[Ask], sampling: Any, seed: int, done: Any = None) -> list[Answer]:
            raise EnvironmentFault("unreachable", where="teacher.endpoint", fix="start it")

    with pytest.raises(EnvironmentFault, match="unreachable"):
        heard(Down(lambda prompt, tag: "good", logprobs=True), logprobs="require")


def test_the_report_says_which_share_of_the_answers_could_not_be_read() -> None:
    from distill2edge.report.sections.labels_section import blocks

    labels = {
        "asked_by": "samples", "texts": 90, "said": {"bad": 40, "good": 38}, "correction": Correction().as_dict(),
        "corrections": [], "left_out": 12, "answers": 90, "unreadable": 12,
    }  # fmt: skip
    assert "12 of 90 (13.3" in str(blocks({"labels": labels}))
