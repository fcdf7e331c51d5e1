"""Leakage: exact after normalisation, near by Jaccard over word shingles; nothing that is there is missed."""

from __future__ import annotations

import random
import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from distill2edge.data.leakage import check, normal_form, words

SENTENCE = "a long and winding film about a family that leaves its farm for the city and never comes back home"


def test_exact_after_normalisation() -> None:
    report = check(["  The FILM, is good!! ", "other words entirely here"], ["the film is good"], 0.8)
    assert (report.exact, report.near) == (1, 0)
    assert report.fraction == 1.0
    assert report.leaks[0].train == 0
    assert report.leaks[0].similarity == 1.0


def test_a_changed_word_is_near_and_another_sentence_is_not() -> None:
    changed = SENTENCE.replace("home", "again")
    assert check([changed], [SENTENCE], 0.8).near == 1
    assert check([SENTENCE[::-1]], [SENTENCE], 0.8).fraction == 0
    # 16 shingles each, 15 shared: 15 / 17.
    assert check([changed], [SENTENCE], 0.89).near == 0
    assert check([changed], [SENTENCE], 15 / 17).near == 1


def test_short_texts_match_only_as_a_whole() -> None:
    assert check(["good film"], ["bad film"], 0.5).fraction == 0
    assert check(["Good film."], ["good film"], 0.5).exact == 1
    assert check([""], ["", "x"], 0.5).fraction == 0
    assert check(["🙂"], ["🙂"], 0.5).exact == 1


def test_scripts_without_spaces_are_compared_by_character() -> None:
    text = "这部电影讲述了一个家庭离开农场前往城市的故事"
    assert check([text[:-1] + "人"], [text], 0.8).near == 1
    assert normal_form("电影") == "电 影"


def test_twins_in_the_held_out_rows_both_count() -> None:
    report = check(["same words here"], ["same words here", "Same words, here", "other"], 0.8)
    assert report.exact == 2
    assert report.test_rows == 3


def test_a_shared_frame_is_not_content() -> None:
    frame = "Read the review below and answer with one word whether it is positive or negative. Review:"
    train = [f"{frame} alpha{n} beta{n} gamma{n} delta{n} epsilon{n} zeta{n}" for n in range(50)]
    test = [f"{frame} eta{n} theta{n} iota{n} kappa{n} lambda{n} mu{n}" for n in range(50)]
    assert check(train, test, 0.5).fraction == 0
    assert check([*train, test[3]], test, 0.5).exact == 1


def test_planted_duplicates_are_found_by_number() -> None:
    rng = random.Random(0)
    words = [f"w{n}" for n in range(400)]
    rows = [" ".join(rng.choices(words, k=20)) for _ in range(600)]
    test, train = rows[:100], rows[100:]
    train[7] = test[3].upper()
    train[11] = " ".join(test[4].split()[:-1])
    report = check(train, test, 0.8)
    assert (report.exact, report.near) == (1, 1)
    assert {(leak.train, leak.test) for leak in report.leaks} == {(7, 3), (11, 4)}


_TEXT = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=0, max_size=12).map(" ".join)


def shingles(text: str) -> set[tuple[str, ...]]:
    found = words(text)
    return {tuple(found[i : i + 5]) for i in range(max(len(found) - 4, 1))}


@settings(max_examples=200)
@given(
    train=st.lists(_TEXT, max_size=8), test=st.lists(_TEXT, max_size=8), threshold=st.sampled_from([0.3, 0.5, 0.8, 1.0])
)
def test_same_as_comparing_every_pair(train: list[str], test: list[str], threshold: float) -> None:
    def leaks(a: str, b: str) -> bool:
        if not a or not b:
            return False
        left, right = shingles(a), shingles(b)
        return a == b or len(left & right) / len(left | right) >= threshold

    report = check(train, test, threshold)
    expected = {row for row, text in enumerate(test) if any(leaks(other, text) for other in train)}
    assert report.exact + report.near == len(expected)
    assert {leak.train for leak in report.leaks} == {
        number for number, other in enumerate(train) if any(leaks(other, text) for text in test)
    }


def test_what_is_looked_up_is_not_held() -> None:
    """Memory grows with the held-out rows alone."""

    def peak(count: int) -> int:
        train = (f"{n} and {n + 1} then {n + 2} and more words of row {n}" for n in range(count))
        tracemalloc.start()
        assert check(train, ["nothing of all this", *(f"{n} is held out" for n in range(50))], 0.8).fraction == 0
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(8_000) < 1.2 * peak(2_000)
