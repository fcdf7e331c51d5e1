"""The generated pages: nothing of Python's insides in them, and the same text each time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))


def test_no_address_and_no_type_of_python_is_printed() -> None:
    import generate

    for name in ("recipe-reference.md", "cli.md"):
        text = generate.PAGES[name]()
        assert generate.internals(text) == [], name
        assert text == generate.PAGES[name]()


def test_what_is_looked_for_is_found() -> None:
    import generate

    field = f"BeforeValidator(func={generate.internals})"
    assert generate.internals(field)
    assert generate.internals("a <class 'int'> b")
    assert generate.internals("Annotated[float, Field(ge=0)]")
    assert not generate.internals("at 0 or more, a function of class and object <TEXT>")


def test_the_pages_are_those_of_the_code() -> None:
    """The two that follow from the code alone; the others follow from benchmarks."""
    import generate

    for name in ("recipe-reference.md", "cli.md"):
        assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name](), "run `make docs`"


def test_a_fault_ends_the_command(tmp_path: Path) -> None:
    code = (
        "import sys, generate\n"
        "generate.PAGES = {'x.md': lambda: repr(generate.main)}\n"
        "sys.argv = ['generate.py', '--check']\n"
        "sys.exit(generate.main())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=DOCS, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "docs/x.md would print '<function'" in done.stderr
