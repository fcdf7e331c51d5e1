"""The import direction: leaves import nothing of ours but the errors' level, nothing points backwards."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "distill2edge"
FLOOR = {
    "architectures",
    "checkpoint",
    "errors",
    "file_kinds",
    "files",
    "gguf_format",
    "model_config",
    "model_directory",
    "nearest",
    "precision",
    "progress",
    "quantities",
    "rivals",
    "schemes",
    "signals",
    "templating",
    "terminal",
}
# A leaf may import the floor and its own package; the verb packages may not import each other's callers.
LEAVES = {
    "distill.losses": set(),
    "bench.statistics": set(),
    "cost.model": set(),
    "runtimes": {"runtimes"},
    "report": {"report"},
}
# Each layer may import those before it, never those after it.
TOP = {
    "__main__",
    "cli",
    "cli_common",
    "cli_data",
    "browse",
    "run",
    "rundir",
    "seeds",
    "runlog",
    "plan",
    "planning",
    "preflight",
    "starter",
    "push",
    "stages",
    "pipeline",
    "chat",
    "doctor",
    "housekeeping",
}


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


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_leaves_import_only_the_floor(leaf: str) -> None:
    found = [name for name in modules() if name == leaf or name.startswith(leaf + ".")]
    assert found
    for name in found:
        for imported in imports_of(modules()[name]):
            root = imported.split(".")[0]
            assert root in FLOOR | LEAVES[leaf], f"{name} imports {imported}"


def test_nothing_points_backwards() -> None:
    for name, path in modules().items():
        if name.split(".")[0] in TOP:
            continue
        for imported in imports_of(path):
            assert imported.split(".")[0] not in TOP, f"{name} imports {imported}"


def test_there_is_no_import_cycle_between_packages() -> None:
    edges: dict[str, set[str]] = {}
    for name, path in modules().items():
        here = name.split(".")[0]
        edges.setdefault(here, set()).update(
            imported.split(".")[0] for imported in imports_of(path) if imported.split(".")[0] != here
        )
    done: set[str] = set()

    def visit(node: str, trail: tuple[str, ...]) -> None:
        assert node not in trail, " -> ".join((*trail[trail.index(node) :], node))
        if node not in done:
            for after in edges.get(node, ()):
                visit(after, (*trail, node))
            done.add(node)

    for node in list(edges):
        visit(node, ())


@pytest.mark.parametrize(
    "module",
    ["cli", "report.build", "report.html", "report.compare", "cost.build", "recipe.load", "store", "teacher.facts"],
)
def test_light_modules_import_no_torch(module: str) -> None:
    code = f"import sys, distill2edge.{module}; heavy = {{'torch', 'transformers', 'onnxruntime', 'llama_cpp'}}; "
    code += "found = heavy & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
