"""The metrics, one entry each: how a row is scored, what needs no model to score it, and the statistics over rows.

A score is made so that more is better, and is a share of rows or a probability.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from distill2edge.util.bootstrap import Figure, difference_interval, mean_interval, ratio_interval
from distill2edge.util.proportions import proportion_difference, proportion_interval, proportion_ratio
from distill2edge.verify.scores import Floats, choice_likelihoods, generate, trim_stop, without_stop
from distill2edge.verify.trivial_baselines import TrivialBaseline, commonest_answer, largest_class, unigram

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.models.model_file import Encodings
    from distill2edge.runtimes.protocol import Runtime

SHORT = 32
"""Responses of at most this many tokens are generated and compared; longer ones are scored by likelihood."""


class Score(ABC):
    """What a score is, and its statistics over rows.

    Attributes:
        name: in verify.json and the report.
        definition: in verify.json.
    """

    name: str
    definition: str

    @abstractmethod
    def figure(self, score: Sequence[float], units: Sequence[float], seed: int, runs: int = 1) -> Figure:
        """The score over rows, with its interval.

        Args:
            score: of each row.
            units: supervised tokens of each row, in the teacher's: another vocabulary cuts the same text into more or
                fewer pieces.
            seed: of the resampling.
            runs: a row's score is the mean over that many.
        """

    @abstractmethod
    def ratio(
        self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int, runs: int = 1
    ) -> Figure | None:
        """The score over another on the same rows, paired; None where there is none."""

    @abstractmethod
    def is_above(self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int) -> bool:
        """Whether a score beats another by more than noise: the 95% interval of the paired difference is above 0."""

    def baseline_entry(self, baseline: TrivialBaseline, units: Sequence[float], seed: int) -> dict[str, Any]:
        """For verify.json: name, chance, and the score as that of a model."""
        figure = self.figure(baseline.score, units, seed)
        return {"name": baseline.name, "score": figure.as_dict(), "chance": baseline.chance}


class Metric(Score):
    """A score of models that predict tokens: each row is scored in the process that runs a file.

    Attributes:
        measures_length: whether answers are generated, so that their lengths can be compared.
        has_classes: whether a row is of one of the classes that all rows share.
    """

    measures_length = False
    has_classes = False

    def positions(self, row: Encoded) -> list[int]:
        """Positions whose log-probabilities the score needs."""
        return []

    def context(self, encodings: Encodings) -> int:
        """Tokens that the longest row needs, apart from its own."""
        return 0

    @abstractmethod
    def score(self, runtime: Runtime, encodings: Encodings, index: int, at: Mapping[int, Floats]) -> tuple[float, int]:
        """Score of a row, and the length of the answer where one is generated.

        Args:
            at: log-probabilities [V] by position, of those known.
        """

    @abstractmethod
    def baseline(self, encodings: Encodings, labels: Sequence[str]) -> TrivialBaseline:
        """The rule without a model that scores best.

        Args:
            labels: names of the closed choices.
        """


class _Share(Metric):
    """The share of rows that are right."""

    def figure(self, score: Sequence[float], units: Sequence[float], seed: int, runs: int = 1) -> Figure:
        return proportion_interval(score, [runs] * len(score))

    def ratio(
        self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int, runs: int = 1
    ) -> Figure | None:
        return proportion_ratio(score, other, runs)

    def is_above(self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int) -> bool:
        return proportion_difference(score, other).low > 0


class Accuracy(_Share):
    """Closed choices: the likeliest one."""

    name = "accuracy"
    definition = "share of rows whose correct choice has the greatest likelihood, sum of log p over its tokens"
    has_classes = True

    def context(self, encodings: Encodings) -> int:
        assert encodings.choices is not None
        return max(
            row.prompt_length + max(len(choice) for choice in choices)
            for row, choices in zip(encodings.rows, encodings.choices, strict=True)
        )

    def score(self, runtime: Runtime, encodings: Encodings, index: int, at: Mapping[int, Floats]) -> tuple[float, int]:
        row = encodings.rows[index]
        assert encodings.choices is not None
        begin = row.prompt_length
        prompt, response = row.ids[:begin], row.ids[begin:]
        choices = trim_stop(encodings.choices[index], encodings.stop)
        known = {
            tuple(response[:length]): at[begin + length - 1]
            for length in range(len(response))
            if begin + length - 1 in at
        }
        likelihoods = choice_likelihoods(runtime, prompt, choices, known)
        return float(int(np.argmax(likelihoods)) == row.label), 0

    def baseline(self, encodings: Encodings, labels: Sequence[str]) -> TrivialBaseline:
        count = len(encodings.choices[0]) if encodings.choices else 0
        names = labels or [f"choice {index + 1}" for index in range(count)]
        return largest_class([row.label for row in encodings.rows], names)


class Agreement(Accuracy):
    """No response to compare with: what the teacher says is taken as right."""

    name = "agreement"
    definition = "share of texts that model and teacher give the same label; no row has a response"


class ExactMatch(_Share):
    """Short responses: the greedy answer, token by token."""

    name = "exact_match"
    definition = "share of rows whose greedy answer equals the response, token by token"
    measures_length = True

    def context(self, encodings: Encodings) -> int:
        return max(row.prompt_length for row in encodings.rows) + answer_limit(encodings)

    def score(self, runtime: Runtime, encodings: Encodings, index: int, at: Mapping[int, Floats]) -> tuple[float, int]:
        row = encodings.rows[index]
        prompt, response = row.ids[: row.prompt_length], row.ids[row.prompt_length :]
        answer = generate(runtime, prompt, answer_limit(encodings), encodings.stop)
        return float(answer == without_stop(response, encodings.stop)), len(answer)

    def baseline(self, encodings: Encodings, labels: Sequence[str]) -> TrivialBaseline:
        return commonest_answer([without_stop(row.ids[row.prompt_length :], encodings.stop) for row in encodings.rows])


class Likelihood(Metric):
    """Long responses, and texts without a prompt: the probability of what is written."""

    name = "neg_log_likelihood"
    definition = "exp(-NLL): geometric mean of the probability of a response token, per teacher's token"

    def figure(self, score: Sequence[float], units: Sequence[float], seed: int, runs: int = 1) -> Figure:
        return mean_interval(_per_unit(score, units), units, seed=seed).map(exp)

    def ratio(
        self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int, runs: int = 1
    ) -> Figure | None:
        return self._gap(score, other, units, seed).map(exp)  # exp(a) / exp(b)

    def is_above(self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int) -> bool:
        return self._gap(score, other, units, seed).low > 0

    def _gap(self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int) -> Figure:
        return difference_interval(_per_unit(score, units), _per_unit(other, units), units, units, seed=seed)

    def positions(self, row: Encoded) -> list[int]:
        return [token - 1 for token in _supervised(row)]

    def score(self, runtime: Runtime, encodings: Encodings, index: int, at: Mapping[int, Floats]) -> tuple[float, int]:
        row = encodings.rows[index]
        return float(sum(at[token - 1][row.ids[token]] for token in _supervised(row))), 0

    def baseline(self, encodings: Encodings, labels: Sequence[str]) -> TrivialBaseline:
        return unigram(encodings.rows)


class Recall(Score):
    """Vectors of texts: how many of a text's nearest neighbours are those of the teacher."""

    name = "recall_at_10"
    definition = "mean over texts of the share of the teacher's 10 nearest neighbours that are among the model's"

    def figure(self, score: Sequence[float], units: Sequence[float], seed: int, runs: int = 1) -> Figure:
        return mean_interval(score, units, seed=seed)

    def ratio(
        self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int, runs: int = 1
    ) -> Figure | None:
        return ratio_interval(score, other, seed=seed) if any(other) else None

    def is_above(self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int) -> bool:
        return difference_interval(score, other, units, units, seed=seed).low > 0


class Spearman(Recall):
    """Numbers: whether texts are in the order of the data's. A row's score is its share in that (`correlation`)."""

    name = "spearman"
    definition = "Spearman's rank correlation with the data's numbers; ties have their mean rank"

    def ratio(
        self, score: Sequence[float], other: Sequence[float], units: Sequence[float], seed: int, runs: int = 1
    ) -> Figure | None:
        return ratio_interval(score, other, seed=seed) if sum(other) > 0 else None


class EntityF1(Spearman):
    """Entities: how many are found, and how much of what is found is one. A row's score is its share (`entity_f1`)."""

    name = "entity_f1"
    definition = "F1 of entities over all texts: 2 hits / (found + wanted); a hit has the type, first and last word"


class EntityAgreement(EntityF1):
    """No tags to compare with: what the teacher finds is taken as right."""

    name = "entity_agreement"
    definition = "F1 of entities against those that the teacher finds; no row has tags"


class MicroF1(Spearman):
    """Sets of labels: how many of the labels are right. A row's score is its share in that (`label_sets.micro_f1`)."""

    name = "micro_f1"
    definition = "2 TP / (2 TP + FP + FN) over all labels of all texts (micro F1)"


class SetAgreement(MicroF1):
    """No response to compare with: the sets that the teacher says are taken as right."""

    name = "set_agreement"
    definition = "micro F1 of the model's labels against the teacher's; no row has a response"


TOKEN_METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (Accuracy(), Agreement(), ExactMatch(), Likelihood())
}
METRICS: dict[str, Score] = TOKEN_METRICS | {
    metric.name: metric for metric in (Recall(), Spearman(), EntityF1(), EntityAgreement(), MicroF1(), SetAgreement())
}


def metric_of(encodings: Encodings, template: str) -> Metric:
    """Closed choices: accuracy. Short responses: exact match of greedy generation. Otherwise, and for template
    `text`, which has no prompt: the likelihood of the response."""
    if encodings.choices is not None:
        return TOKEN_METRICS["accuracy"]
    short = _longest_response(encodings) <= SHORT
    return TOKEN_METRICS["exact_match" if template != "text" and short else "neg_log_likelihood"]


def answer_limit(encodings: Encodings) -> int:
    """Tokens a greedy answer may have: somewhat more than the longest response, so that rambling shows."""
    return _longest_response(encodings) + 8


def _longest_response(encodings: Encodings) -> int:
    return max(len(row.ids) - row.prompt_length for row in encodings.rows)


def exp(value: float) -> float:
    """exp, short of overflow: a perplexity past 1e300 says no more."""
    return math.exp(min(value, 690.0))


def _per_unit(totals: Sequence[float], units: Sequence[float]) -> list[float]:
    """[rows] log-probability per token of the teacher."""
    return [total / unit for total, unit in zip(totals, units, strict=True)]


def _supervised(row: Encoded) -> list[int]:
    return [token for token, on in enumerate(row.mask) if on]
