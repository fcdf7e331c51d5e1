"""Writes a pack: the file with all that goes with it, what a target needs, the reference, and a first self-test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pack.targets import Target
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.util.files import clone, scratch, write_json, write_text
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.progress import Progress

HANDOVER = Path(__file__).resolve().parent.parent / "handover"
REFERENCE = "reference.json"
LIMIT = 100_000
"""Bytes of a reference."""
WEIGHTS = (".gguf", ".onnx", ".data")
PACKAGES = {"onnx": ("onnxruntime", "tokenizers", "numpy"), "gguf": ("llama-cpp-python", "numpy")}
"""What the python pack of a format needs, besides what those bring."""


def write_pack(
    source: Path, facts: Mapping[str, Any], target: Target, work: Path, progress: Progress
) -> dict[str, Any]:
    """Fill an empty folder; returns the proof that the pack gives of itself here.

    Args:
        source: an export that was verified.
        facts: what the reference says of it: schema_version, name, model, format, target.

    Raises:
        UserError: the pack does not pass its own self-test, or its file crashes its runtime.
        EnvironmentFault: a runtime is missing.
    """
    for file in sorted(source.rglob("*")):
        if file.is_file():
            clone(file, work / file.relative_to(source))
    write_text(work / "predict.py", (HANDOVER / f"predict_{facts['format']}.py").read_text(encoding="utf-8"))
    write_text(work / "selftest.py", (HANDOVER / "selftest.py").read_text(encoding="utf-8"))
    ADDITIONS[target.name](work, facts, progress)
    with scratch(work, "reference") as place:
        told = _worker(work, place, prove=False)
        names = sorted(
            file.relative_to(work) for file in work.rglob("*") if file.is_file() and place not in file.parents
        )
        files = {name.as_posix(): sha256_of(work / name) for name in names}
        opened = [name for name in files if name.endswith(WEIGHTS)]
        write_json(work / REFERENCE, {**facts, "files": files, "opened": opened, "runtime": _versions(facts), **told})
    if (size := (work / REFERENCE).stat().st_size) > LIMIT:
        raise UserError(f"its reference would have {size:,} bytes, more than {LIMIT:,}", where=str(facts["model"]),
                        fix="report this: a reference is made to be smaller")  # fmt: skip
    with scratch(work, "proof") as place:
        proof = _worker(work, place, prove=True)
    shutil.rmtree(work / "__pycache__", ignore_errors=True)
    if not proof["passed"]:
        what = f"the pack does not pass its own self-test: {'; '.join(proof['faults'])}"
        raise UserError(what, where=str(facts["model"]), fix="export the model again, and report it if it stays so")
    return proof


def _worker(work: Path, place: Path, *, prove: bool) -> dict[str, Any]:
    spec = {"pack": str(work.resolve()), "prove": prove}
    found = run_worker("distill2edge.pack.record", spec, place, "told", threads=1)
    if isinstance(found, Crash):
        fault = EnvironmentFault if found.environment else UserError
        raise fault(f"it cannot be run: {found.words}", where=str(work), fix="see `distill2edge doctor`")
    return found


def _versions(facts: Mapping[str, Any]) -> dict[str, str]:
    return {name: metadata.version(name) for name in PACKAGES[str(facts["format"])]}


def _python(work: Path, facts: Mapping[str, Any], progress: Progress) -> None:
    """What pip installs for it, and how to begin."""
    versions = _versions(facts)
    write_text(work / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in versions.items()))
    said = (work / "USE.md").read_text(encoding="utf-8")
    write_text(work / "USE.md", said + "\n" + (HANDOVER / "pack_python.md").read_text(encoding="utf-8"))


ADDITIONS: dict[str, Callable[[Path, Mapping[str, Any], Progress], None]] = {"python": _python}
"""What each target adds to the files."""
