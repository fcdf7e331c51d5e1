"""The recipes that come with the package: those of the checkout, or of the installed wheel."""

from __future__ import annotations

import importlib.metadata
import os
from pathlib import Path

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import clone
from distill2edge.util.nearest import meant

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
    return _path_of(name).read_text(encoding="utf-8")


def files_of(name: str) -> dict[str, Path]:
    """What one recipe needs to run elsewhere: path below the folder of all recipes -> file, the recipe itself first.

    That is what lies beside it, and beside the data that it names in another's folder: rows, and what makes them.

    Raises:
        UserError: there is none of that name.
    """
    from distill2edge.recipe.load import load_recipe
    from distill2edge.recipe.paths import located

    path = _path_of(name)
    root = Path(os.path.normpath(path.parents[name.count("/")]))
    places = [path.parent, *((path.parent / written).parent for written in located(load_recipe(path)))]
    folders = dict.fromkeys(Path(os.path.normpath(place)) for place in places)
    files = [path]
    for folder in folders:
        if root in folder.parents:  # beside a recipe of the root there are only others
            files += sorted(file for file in folder.iterdir() if file.is_file() and file.suffix != ".yaml")
    return {file.relative_to(root).as_posix(): file for file in files}


def copy_example(name: str, folder: Path) -> list[Path]:
    """Copy one recipe and what it needs into a folder, laid out as they are in the package; returns the copies.

    Raises:
        UserError: there is none of that name, or another file stands there.
        EnvironmentFault: the folder cannot be written.
    """
    copies = {folder / target: file for target, file in files_of(name).items()}
    for target, file in copies.items():
        if target.exists() and (not target.is_file() or target.read_bytes() != file.read_bytes()):
            raise UserError("another file stands there", where=str(target), fix="name another folder with --into")
    for target, file in copies.items():
        try:
            clone(file, target)
        except OSError as error:
            raise EnvironmentFault(
                f"cannot be written: {error.strerror}", where=str(target), fix="name another folder with --into"
            ) from error
    return list(copies)


def _path_of(name: str) -> Path:
    found = example_recipes()
    if name not in found:
        hint = meant(name, list(found)) or "`distill2edge recipe examples` lists them"
        raise UserError(f"no recipe {name!r} comes with this package", fix=hint.strip())
    return found[name]


def _purpose(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        line = file.readline().lstrip("# ").strip()
    return line.partition(": ")[2] or line
