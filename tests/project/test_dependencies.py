"""A dependency that nothing imports goes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The name of the module where it is not the package's.
MODULES = {
    "llama-cpp-python": "llama_cpp",
    "nvidia-ml-py": "pynvml",
    "onnxruntime-genai": "onnxruntime_genai",
    "pyyaml": "yaml",
}
# Imported by a library of ours where it is there, and needed by us.
BACKENDS = {
    "onnxscript": "torch.onnx",
    "sentencepiece": "tokenizers without a tokenizer.json",
}


def declared() -> list[str]:
    """Those of the package, and of its extra for a GPU."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    entries = [*project["dependencies"], *project["optional-dependencies"]["gpu"]]
    return [str(re.split(r"[<>=!~ \[]", entry)[0]) for entry in entries]


@pytest.mark.parametrize("name", [name for name in declared() if name not in BACKENDS])
def test_the_package_imports_what_it_depends_on(name: str) -> None:
    module = MODULES.get(name, name)
    found = re.compile(rf"^\s*(?:from|import) {module}\b", re.MULTILINE)
    assert any(found.search(path.read_text(encoding="utf-8")) for path in (ROOT / "distill2edge").rglob("*.py"))


def test_backends_are_declared() -> None:
    assert BACKENDS.keys() <= set(declared())
