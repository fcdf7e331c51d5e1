"""The import direction, derived from the folders: nothing points backwards, and leaves know no other folder."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "distill2edge"
ROOT = {"", "__main__", "errors"}
"""What may lie in the package's own folder."""

LEAVES = ("cost.formulas", "distill.losses", "recipe.yaml12", "util.bootstrap", "util.quantities")
"""Plain values in, plain values out: they import nothing of ours but `errors` and each other's folder."""


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(path: Path) -> set[str]:
    """Modules of ours that a file imports, TYPE_CHECKING blocks left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "distill2edge":
            base = node.module.removeprefix("distill2edge").lstrip(".")
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names} | ({base} if base else set())
        elif isinstance(node, ast.Import):
            found |= {alias.name[13:] for alias in node.names if alias.name.startswith("distill2edge.")}
    known = modules()
    return {name for name in found if name in known}


def test_there_is_something_to_check() -> None:
    assert len(modules()) > 40


def test_nothing_is_loose_in_the_package() -> None:
    assert {name for name in modules() if "." not in name and modules()[name].name != "__init__.py"} | {""} == ROOT


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_import_only_their_own_folder(leaf: str) -> None:
    folder = leaf.partition(".")[0]
    for imported in imports_of(modules()[leaf]):
        assert imported.partition(".")[0] in {"errors", folder}, f"{leaf} imports {imported}"


def room_of(module: str) -> str:
    """The folder of a module. What a task does (`tasks.work`, `tasks.*.work`) is above what a recipe asks of it."""
    folder, *rest = module.split(".")
    return "tasks.work" if folder == "tasks" and rest[-1:] == ["work"] else folder


def module_of(module: str) -> str:
    return module


@pytest.mark.parametrize("unit", [room_of, module_of], ids=["folders", "modules"])
def test_nothing_points_backwards(unit: Callable[[str], str]) -> None:
    """The folders have an order, and so have the modules: what is imported never imports back, by whatever way."""
    edges: dict[str, set[str]] = {}
    for name, path in modules().items():
        edges.setdefault(unit(name), set()).update({unit(each) for each in imports_of(path)} - {unit(name)})
    order = TopologicalSorter(edges)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


@pytest.mark.parametrize(
    "module",
    [
        "cli.main",
        "cost.cost_document",
        "intake.facts",
        "pipeline.store",
        "recipe.load",
        "report.compare",
        "report.document",
        "report.html",
    ],
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, distill2edge.{module}; heavy = {{'torch', 'transformers', 'onnxruntime', 'llama_cpp'}}; "
    code += "found = heavy & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
