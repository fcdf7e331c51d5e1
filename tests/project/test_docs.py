"""The generated pages: nothing of Python's insides in them, and the same text each time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from distill2edge import errors
from distill2edge.recipe.schema import Recipe
from distill2edge.recipe.verifiers import OwnVerifier
from distill2edge.stages import KINDS

DOCS = Path(__file__).parents[2] / "docs"
GENERATORS = Path(__file__).parents[2] / "benchmarks" / "pages"
PAGES = ("recipe-reference.md", "cli.md", "models.md")
"""Those that follow from the code alone; the others follow from benchmarks."""
_CODE = f"""
import json, reference
texts = [f"BeforeValidator(func={{reference.internals}})", "a <class 'int'> b", "Annotated[float, Field(ge=0)]",
         "at 0 or more, a function of class and object <TEXT>"]
pages = {{name: [reference.PAGES[name](), reference.PAGES[name]()] for name in {PAGES}}}
print(json.dumps({{
    "pages": pages,
    "found": [bool(reference.internals(text)) for text in texts],
    "printed": {{name: reference.internals(both[0]) for name, both in pages.items()}},
}}))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the names of the modules there are those of others too."""
    return subprocess.run([sys.executable, "-c", code], cwd=GENERATORS, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def made() -> dict[str, Any]:
    done = python(_CODE)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def test_no_address_and_no_type_of_python_is_printed(made: dict[str, Any]) -> None:
    assert made["printed"] == {name: [] for name in PAGES}
    assert made["found"] == [True, True, True, False]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_that_of_the_code_each_time(made: dict[str, Any], name: str) -> None:
    first, again = made["pages"][name]
    assert first == again
    assert (DOCS / name).read_text(encoding="utf-8") == first, "run `make docs`"


def fields(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        key = f"{path}.{field.alias or name}".lstrip(".")
        yield key, field
        for found in sections(field.annotation):
            yield from fields(found, key)


def sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in sections(part)]


def made_of(value: Any) -> Iterator[type]:
    """The sections that were chosen for a value, or for its entries."""
    for each in value if isinstance(value, tuple) else (value,):
        yield type(each)


def test_a_key_with_several_forms_shows_each_of_them_and_they_are_valid() -> None:
    several = set()
    for key, field in fields(Recipe):
        among = sections(field.annotation)
        scalars = [part for part in get_args(field.annotation) if part is not type(None) and not sections(part)]
        if len(among) > 1 or (among and scalars and get_origin(field.annotation) is not tuple):
            several.add(key)
        if key in several or field.examples:
            assert field.examples, f"{key} can be written in several ways: give the field examples"
            one = create_model("One", value=(field.annotation, copy(field)))
            shown = {
                kind for example in field.examples for kind in made_of(one.model_validate({"value": example}).value)
            }
            assert set(among) <= shown | {OwnVerifier}, (
                key
            )  # whose kind a user's file registers: none is valid everywhere
    assert {"teacher.model", "signal", "signal.verify", "student.init", "synthesis.methods"} <= several


def test_how_it_works_names_every_stage_and_every_exit_code() -> None:
    page, picture = ((DOCS / name).read_text(encoding="utf-8") for name in ("how-it-works.md", "path.svg"))
    assert re.findall(r"^\| `([a-z-]+)` \|", page, re.M) == list(KINDS)
    assert [kind for kind in KINDS if kind not in picture] == []
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", page, re.M)] == sorted(codes)


def test_every_entry_of_the_log_is_dated_and_under_a_topic() -> None:
    log = (DOCS / "log.md").read_text(encoding="utf-8")
    topics = re.findall(r"^## (.*)", log, re.M)
    listed = re.findall(r"^- \[(.*?)\]\(#(.*?)\)$", log, re.M)
    assert listed == [(topic, topic.lower().replace(",", "").replace(" ", "-")) for topic in topics]
    assert not re.findall(r"^### (?!\d{4}-\d\d-\d\d: )", log, re.M)


def test_a_fault_ends_the_command() -> None:
    done = python(
        "import sys, reference\n"
        "reference.PAGES = {'x.md': lambda: repr(reference.main)}\n"
        "sys.argv = ['reference.py', '--check']\n"
        "sys.exit(reference.main())\n"
    )
    assert done.returncode == 1
    assert "docs/x.md would print '<function'" in done.stderr
