"""The generated pages: nothing of Python's insides in them, and the same text each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GENERATORS = Path(__file__).parents[2] / "benchmarks" / "pages"
PAGES = ("recipe-reference.md", "cli.md")
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


def test_a_fault_ends_the_command() -> None:
    done = python(
        "import sys, reference\n"
        "reference.PAGES = {'x.md': lambda: repr(reference.main)}\n"
        "sys.argv = ['reference.py', '--check']\n"
        "sys.exit(reference.main())\n"
    )
    assert done.returncode == 1
    assert "docs/x.md would print '<function'" in done.stderr
