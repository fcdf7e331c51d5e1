"""Every addition that CONTRIBUTING.md describes is made in a copy of the package, and works there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import walk
from structure import MOST

ADDITIONS = walk.additions()


def test_the_page_shows_every_addition_that_is_counted() -> None:
    assert {each.title for each in ADDITIONS} == set(MOST)


@pytest.mark.parametrize("addition", ADDITIONS, ids=lambda each: each.title)
def test_an_addition_works_in_few_files(addition: walk.Addition, tmp_path: Path) -> None:
    assert len(addition.changes) <= MOST[addition.title]
    assert addition.trial, "it shows no way to try it"
    root = walk.copy(tmp_path)
    addition.apply(root)
    tried = addition.tried(root)
    assert tried.returncode == 0, tried.stderr
