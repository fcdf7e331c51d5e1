"""Nothing that ships names a folder of the machine that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_bert, tiny_recipe, tiny_t5

from distill2edge.cli.main import main
from distill2edge.export.gguf import export_gguf
from distill2edge.export.onnx import export_onnx
from distill2edge.quantize.schemes import parse_scheme
from distill2edge.util.files import without_folders
from distill2edge.util.progress import SilentProgress


def told(root: Path, folder: Path) -> list[str]:
    """Files under `folder` that hold the path of `root`, in UTF-8 or UTF-16."""
    needles = [str(root).encode(), str(root).encode("utf-16-le"), str(root.resolve()).encode()]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    return sorted(path.name for path in files if any(needle in path.read_bytes() for needle in needles))


@pytest.mark.parametrize(("source", "name"), [
    ("/home/me/models/teacher", "teacher"), ("/home/me/models/teacher/", "teacher"), ("~/t.gguf", "t.gguf"),
    ("../models/teacher", "teacher"), ("C:\\Users\\me\\teacher", "teacher"), ("C:/Users/me/t.gguf", "t.gguf"),
    ("HuggingFaceTB/SmolLM2-135M", "HuggingFaceTB/SmolLM2-135M"), ("bundled:minilm", "bundled:minilm"),
    ("https://host/v1", "https://host/v1"),
])  # fmt: skip
def test_a_source_loses_its_folders(source: str, name: str) -> None:
    assert without_folders(source) == name


def test_a_run_ships_no_path(tmp_path: Path) -> None:
    """Its recipe names teacher and rows by absolute paths."""
    from click.testing import CliRunner

    recipe = tiny_recipe(tmp_path)
    store, out = tmp_path / "store", tmp_path / "out"
    done = CliRunner().invoke(main, ["export", str(recipe), "--store", str(store), "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert told(tmp_path, out / "exports") == []
    made = [path for path in (store / "export").rglob("*") if path.name != "manifest.json" and path.is_file()]
    assert len(made) > 5
    assert [path.name for path in made if str(tmp_path).encode() in path.read_bytes()] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bert", "t5"])
@pytest.mark.parametrize("scheme", ["onnx:int8", "onnx:fp32", "gguf:Q8_0"])
def test_other_kinds_ship_no_path(kind: str, scheme: str, tmp_path: Path) -> None:
    make: Any = {"bert": tiny_bert, "t5": tiny_t5}[kind]
    make(tmp_path / "model")
    parsed = parse_scheme(scheme)
    write: Any = export_onnx if parsed.format == "onnx" else export_gguf
    write(tmp_path / "model", parsed, {"name": "tiny"}, tmp_path / "out", SilentProgress())
    assert told(tmp_path, tmp_path / "out") == []
