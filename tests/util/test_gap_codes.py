"""Sets of ids as gaps: what is read is what was written, for any vocabulary, and broken codes are found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.util import gap_codes

VOCABULARIES = st.sampled_from([1, 2, 400, 49_152, 65_536, 65_537, 1 << 17, 262_145, (1 << 31) - 1])


@st.composite
def sets(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    vocabulary = draw(VOCABULARIES)
    found = draw(
        st.lists(st.sets(st.integers(0, vocabulary - 1), max_size=min(40, vocabulary)).map(sorted), max_size=8)
    )
    return np.array([number for each in found for number in each], np.int64), np.array(
        [len(each) for each in found], int
    )


@settings(max_examples=150)
@given(sets())
def test_what_is_read_is_what_was_written(given: tuple[np.ndarray, np.ndarray]) -> None:
    numbers, counts = given
    parameters, code = gap_codes.encode(numbers, counts)
    assert gap_codes.decode(code, parameters, counts).tolist() == numbers.tolist()


@settings(max_examples=50)
@given(sets(), st.integers(1, 3))
def test_a_code_that_is_cut_or_too_long_is_found(given: tuple[np.ndarray, np.ndarray], count: int) -> None:
    numbers, counts = given
    parameters, code = gap_codes.encode(numbers, counts)
    wrong = [np.concatenate([code, np.zeros(count, np.uint8)])] + ([code[:-count]] if len(code) >= count else [])
    for each in wrong:
        with pytest.raises(ValueError, match="a code of gaps"):
            gap_codes.decode(each, parameters, counts)


def test_spread_ids_cost_about_their_entropy() -> None:
    random = np.random.default_rng(0)
    found = [np.sort(random.choice(49_152, 32, replace=False)) for _ in range(200)]
    _, code = gap_codes.encode(np.concatenate(found), np.full(200, 32))
    bits = 8 * len(code) / 200 / 32
    entropy = np.log2(49_152 / 32) + 1 / np.log(2)  # of a geometric gap
    assert entropy < bits < entropy + 0.6
