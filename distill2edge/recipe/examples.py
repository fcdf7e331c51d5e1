"""The recipes that come with the package: those of the checkout, or of the installed wheel."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

from distill2edge.errors import UserError
from distill2edge.nearest import meant

_ROOT = Path(__file__).parents[2]
_INSTALLED = "share/distill2edge/recipes/"  # where pyproject.toml lets a wheel put them


def example_recipes() -> dict[str, Path]:
    """Name (`quickstart`, `alpaca/api`) -> file of every recipe that comes with the package, by name."""
    folder = _ROOT / "recipes"
    if (_ROOT / "pyproject.toml").is_file() and folder.is_dir():
        found = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.yaml")}
    else:
        files = importlib.metadata.files("distill2edge") or []
        found = {
            entry.as_posix().rpartition(_INSTALLED)[2].removesuffix(".yaml"): Path(str(entry.locate())).resolve()
            for entry in files
            if _INSTALLED in entry.as_posix() and entry.suffix == ".yaml"
        }
    return dict(sorted(found.items()))


def list_examples() -> str:
    """A line for each recipe: its name and the first line of its header."""
    found = example_recipes()
    width = max(map(len, found), default=0)
    return "\n".join(f"{name:<{width}}  {_purpose(path)}" for name, path in found.items())


def read_example(name: str) -> str:
    """The text of one recipe.

    Raises:
        UserError: there is none of that name.
    """
    found = example_recipes()
    if name not in found:
        hint = meant(name, list(found)) or "`distill2edge recipe examples` lists them"
        raise UserError(f"no recipe {name!r} comes with this package", fix=hint.strip())
    return found[name].read_text(encoding="utf-8")


def _purpose(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        line = file.readline().lstrip("# ").strip()
    return line.partition(": ")[2] or line
