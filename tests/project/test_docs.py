"""The generated pages: nothing of Python's insides in them, and the same text each time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ("recipe-reference.md", "cli.md")
"""Those that follow from the code alone; the others follow from benchmarks."""
_CODE = f"""
import json, generate
texts = [f"BeforeValidator(func={{generate.internals}})", "a <class 'int'> b", "Annotated[float, Field(ge=0)]",
         "at 0 or more, a function of class and object <TEXT>"]
pages = {{name: [generate.PAGES[name](), generate.PAGES[name]()] for name in {PAGES}}}
print(json.dumps({{
    "pages": pages,
    "found": [bool(generate.internals(text)) for text in texts],
    "printed": {{name: generate.internals(both[0]) for name, both in pages.items()}},
}}))
"""


def python(code: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the names of the modules in docs/ are those of others too."""
    return subprocess.run([sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=False)


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
        "import sys, generate\n"
        "generate.PAGES = {'x.md': lambda: repr(generate.main)}\n"
        "sys.argv = ['generate.py', '--check']\n"
        "sys.exit(generate.main())\n"
    )
    assert done.returncode == 1
    assert "docs/x.md would print '<function'" in done.stderr
