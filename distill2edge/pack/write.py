"""Writes a pack: the file with all that goes with it, what a target needs, the reference, and a first self-test."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake.bundled import fetch, lookup
from distill2edge.pack.c_headers import form_header, reference_header
from distill2edge.pack.targets import Target
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.util.files import clone, read_json, scratch, write_json, write_text
from distill2edge.util.isolate import Crash, run_worker
from distill2edge.util.progress import Progress

HANDOVER = Path(__file__).resolve().parent.parent / "handover"
REFERENCE = "reference.json"
LIMIT = 100_000
"""Bytes of a reference."""
WEIGHTS = (".gguf", ".onnx", ".data")
PACKAGES = {"onnx": ("onnxruntime", "tokenizers", "numpy"), "gguf": ("llama-cpp-python", "numpy")}
"""What the python pack of a format needs, besides what those bring."""
IN_WEB = {"onnx": ("onnxruntime-web", "tokenizers-js"), "gguf": ("wllama",)}
"""What the web pack of a format brings, of `intake.bundled`."""


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
    added = ADDITIONS[target.name](work, facts, progress)
    with scratch(work, "reference") as place:
        told = _worker(work, place, prove=False)
        if target.name in AFTERWARDS:
            AFTERWARDS[target.name](work, told)
        names = sorted(
            file.relative_to(work) for file in work.rglob("*") if file.is_file() and place not in file.parents
        )
        files = {name.as_posix(): sha256_of(work / name) for name in names}
        opened = [name for name in files if name.endswith(WEIGHTS)]
        write_json(work / REFERENCE, {**facts, "files": files, "opened": opened, **added, **told})
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


def _web(work: Path, facts: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The page with its runtime; no address of another server is asked where it runs.

    Raises:
        UserError: a prompt that a page cannot write as the model was trained.
        EnvironmentFault: the runtime cannot be fetched.
    """
    form = facts["format"]
    browser = BROWSER[form](work, str(facts["model"]))
    for file in sorted((HANDOVER / "web").iterdir()):
        engine, _, serves = file.stem.partition("_")
        if serves in ("", form):
            clone(file, work / f"{engine}{file.suffix}")
    versions = {}
    for runtime in map(lookup, IN_WEB[form]):
        place = fetch(runtime.name, progress)
        for member in runtime.members:
            clone(place / member.name, work / member.name)
        versions[runtime.name] = runtime.requirement.rpartition("@")[2]
    _add_use(work, "web")
    return {"browser": browser, "runtime": versions}


def _decoder_in_browser(work: Path, where: str) -> dict[str, Any]:
    """What the page must know to write the tokens of training: the BOS that llama.cpp puts before a prompt itself."""
    form = read_json(work / "input.json")
    _written_parts(form, where)
    file = read_gguf(work / "model.gguf")
    puts = bool(file.get("tokenizer.ggml.add_bos_token"))
    number, tokens = file.get("tokenizer.ggml.bos_token_id"), file.get("tokenizer.ggml.tokens")
    bos = str(tokens[int(number)]) if puts and number is not None and tokens is not None else ""
    written = bool(bos) and "".join(form["frame"]["before"]).startswith(bos)
    if puts != (bool(form["head"]) or written):
        said = "puts" if puts else "puts no"
        raise UserError(f"llama.cpp {said} BOS before a prompt, other than in training", where=where,
                        fix="--target python, which gives it token ids")  # fmt: skip
    return {"bos": bos if written else "", "max_tokens": 256}


def _encoder_in_browser(work: Path, where: str) -> dict[str, Any]:
    _written_parts(read_json(work / "input.json"), where)
    return {}


def _written_parts(form: Mapping[str, Any], where: str) -> None:
    """See that what stands around a text is the same every day.

    Raises:
        UserError: it has a date in it.
    """
    if not all(isinstance(part, str) for part in (*form["frame"]["before"], *form["frame"]["after"])):
        what = "its chat template writes the date, which only the python pack does"
        raise UserError(what, where=where, fix="--target python")


def _add_use(work: Path, target: str) -> None:
    said = (work / "USE.md").read_text(encoding="utf-8")
    write_text(work / "USE.md", said + "\n" + (HANDOVER / f"pack_{target}.md").read_text(encoding="utf-8"))


def _python(work: Path, facts: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """What pip installs for it, and how to begin."""
    versions = _versions(facts)
    write_text(work / "requirements.txt", "".join(f"{name}=={version}\n" for name, version in versions.items()))
    _add_use(work, "python")
    return {"runtime": versions}


def _c(work: Path, facts: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """The program's source; its reference follows when it is known (`_c_reference`)."""
    form = read_json(work / "input.json")
    _written_parts(form, str(facts["model"]))
    for name in ("main.cpp", "CMakeLists.txt"):
        clone(HANDOVER / name, work / name)
    write_text(work / "form.h", form_header(form, str(facts["model"])))
    _add_use(work, "c")
    return {"runtime": _versions(facts)}


def _c_reference(work: Path, told: Mapping[str, Any]) -> None:
    write_text(work / "reference.h", reference_header(told))
    names = [path.name for path in sorted(work.iterdir()) if path.is_file()]
    write_text(work / "SHA256SUMS", "".join(f"{sha256_of(work / name)}  {name}\n" for name in names))


BROWSER: dict[str, Callable[[Path, str], dict[str, Any]]] = {"onnx": _encoder_in_browser, "gguf": _decoder_in_browser}
"""What the page of a format must know, checked."""
AFTERWARDS: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {"c": _c_reference}
"""What is written of the reference itself."""
ADDITIONS: dict[str, Callable[[Path, Mapping[str, Any], Progress], dict[str, Any]]] = {
    "python": _python,
    "web": _web,
    "c": _c,
}
"""What each target adds to the files, and to the reference."""
