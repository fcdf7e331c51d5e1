"""A verifier of the user's own: registered by a file, named in a recipe, part of the signal's key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_recipe

from distill2edge.errors import RecipeErrors, UserError
from distill2edge.recipe import verifiers as specs
from distill2edge.recipe.load import dump_recipe, parse_recipe, recipe_schema
from distill2edge.running.run_recipe import run
from distill2edge.util.plugins import load_plugin

CHECK = """\
from distill2edge.recipe.verifiers import register_verifier

def short(prompt, response, reference):
    if "boom" in response:
        raise KeyError("boom")
    return len(response) < {limit}, f"{{len(response)}} characters"

register_verifier("short", check=short, help="few characters")
"""
TEXT = "signal={kind: text, max_new_tokens: 64, temperature: 1, samples: 2, verify: [{kind: short}]}"
MINIMAL = "name: x\nteacher: {model: a/b}\ndata: {source: r.jsonl}\nstudent: {init: {from: teacher, layers: 1}}\n"
VERIFY = MINIMAL + "signal: {kind: text, verify: [{kind: %s}]}\ndistill: {loss: {ce: 1}}\n"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    specs._registered.clear()


def plugin(folder: Path, text: str, name: str = "my_checks.py") -> None:
    (folder / name).write_text(text)
    load_plugin(folder / name)


def test_what_it_refuses_is_dropped_and_another_limit_is_another_signal(tmp_path: Path) -> None:
    tiny_recipe(tmp_path)

    def outcomes() -> dict[str, int]:
        more = [TEXT, "distill.loss={ce: 1}"]
        done = run(tmp_path / "tiny.yaml", more, upto="signal", store=tmp_path / "store", quiet=True)
        said: dict[str, int] = done.artifacts["signal"].facts["verify"]["outcomes"]["short"]
        return said

    plugin(tmp_path, CHECK.format(limit=1000))
    every = outcomes()
    plugin(tmp_path, CHECK.format(limit=30))
    some = outcomes()
    assert every.keys() == {"accepted"}
    assert 0 < some["rejected"] < every["accepted"]


def test_a_recipe_names_it_only_where_its_file_was_given(tmp_path: Path) -> None:
    with pytest.raises(RecipeErrors, match=r"(?s)'kind' is 'short'.*one of exact, .*--plugin"):
        parse_recipe(VERIFY % "short", "r")
    plugin(tmp_path, CHECK.format(limit=9))
    recipe = parse_recipe(VERIFY % "short", "r")
    assert parse_recipe(dump_recipe(recipe), "shown") == recipe
    with pytest.raises(RecipeErrors, match="unknown key 'limit'"):
        parse_recipe(VERIFY % "short, limit: 3", "r")


def test_mistakes_in_built_in_kinds_are_told_as_ever() -> None:
    with pytest.raises(RecipeErrors, match="did you mean regex"):
        parse_recipe(VERIFY % "regx", "r")
    with pytest.raises(RecipeErrors, match=r"verify\[0\]\.pattern: this key is required"):
        parse_recipe(VERIFY % "regex", "r")
    with pytest.raises(RecipeErrors, match="which kind is missing"):
        parse_recipe(MINIMAL + "signal: {kind: text, verify: [{pattern: a}]}\ndistill: {loss: {ce: 1}}\n", "r")
    assert "OwnVerifier" not in recipe_schema()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (CHECK.replace('"short", check', '"regex", check'), "is a kind of verifier already"),
        (CHECK.replace('"short", check', '"a b", check'), "letters, digits"),
        (CHECK.replace("prompt, response, reference):", "prompt, response):"), "too many positional arguments"),
        (CHECK.replace("check=short", "check=7"), "cannot be called"),
    ],
)
def test_a_wrong_file_is_refused_with_the_fix(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        plugin(tmp_path, text.format(limit=5))


def test_a_check_that_fails_or_gives_no_bool_costs_the_row_alone(tmp_path: Path) -> None:
    from distill2edge.util.progress import SilentProgress
    from distill2edge.verifiers.registry import Tools, opened
    from distill2edge.verifiers.verifier import Group

    plugin(tmp_path, CHECK.format(limit=9).replace("len(response) < 9, f", "(None if 'odd' in response else True), f"))
    tools = Tools(tmp_path, "plain", None, tmp_path, SilentProgress())
    with opened([specs.OwnVerifier(kind="short")], tools) as (verifier,):
        ((fine, boom, odd),) = verifier.verify([Group("p", ("fine", "boom", "odd"))])
    assert (fine.outcome, fine.reason) == ("accepted", "4 characters")
    assert (boom.outcome, boom.reason) == ("crashed", "KeyError: 'boom'")
    assert odd.outcome == "crashed"
    assert "a bool" in odd.reason
