"""`distill2edge pack`: a verified file of a run as a folder that runs alone, with the reference that proves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from distill2edge.data.model_inputs import FILE, read_form
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.pack.targets import TARGETS, Target, check_target
from distill2edge.pack.write import write_pack
from distill2edge.pipeline.artifact import sha256_of
from distill2edge.pipeline.store_at import store_at
from distill2edge.quantize.schemes import schemes_in
from distill2edge.running.directory import check_place
from distill2edge.running.finished import Exported, Run
from distill2edge.running.proofs import REFERENCES
from distill2edge.running.reading import choose_export, exported, find_run, load_report, refuse_seeds
from distill2edge.util.files import disk_full, disk_is_full, sync, write_text
from distill2edge.util.progress import Progress
from distill2edge.util.quantities import readable_bytes

ROOM = 64 << 20
"""Bytes beside the files themselves, for a target's runtime."""


@dataclass(frozen=True)
class Packed:
    """A pack that was made, and what its own self-test said of it here."""

    path: Path
    model: str
    target: str
    size_bytes: int
    reference_bytes: int
    proof: Mapping[str, Any]

    def __str__(self) -> str:
        fidelity = self.proof["checks"]["fidelity"]
        return "\n".join(
            [
                f"packed  {self.model} for {self.target}: {self.path} ({readable_bytes(self.size_bytes)})",
                f"proof   reference of {readable_bytes(self.reference_bytes)}; the self-test passes here in "
                f"{self.proof['seconds']:.1f} s ({fidelity['positions']} positions)",
                f"use     {self.path / 'USE.md'}",
            ]
        )


def pack_run(target: Path, place: str, scheme: str | None, out: Path | None, progress: Progress) -> Packed:
    """Make the pack, whole or not at all.

    Args:
        target: a run directory, or its recipe.
        place: one of `TARGETS`.
        scheme: which file; None: the smallest that passed.
        out: the folder to make; None: `RUN/packs/FILE-TARGET`.

    Raises:
        UserError: no run or file, one that did not pass its gates or was changed, a target that cannot serve it, a
            folder that is there.
        EnvironmentFault: no disk space, a runtime that is missing.
    """
    run = find_run(target)
    refuse_seeds(run, "distill2edge pack")
    chosen = _chosen(run, scheme)
    _check_gates(run, chosen)
    form = read_form(chosen.path)
    if form is None:
        raise UserError(f"no {FILE}, which says how it reads", where=str(chosen.path), fix="run its recipe again")
    wanted = TARGETS[place]
    kept = schemes_in(path.name for path in exported(run) if path.parent == run / "exports")
    check_target(wanted, _format(chosen), form.kind, chosen.model, sorted({name.partition(":")[0] for name in kept}))
    _check_unchanged(chosen)
    out = out or run / "packs" / f"{chosen.path.name}-{wanted.name}"
    with _making(out, sum((chosen.path / name).stat().st_size for name in chosen.sha256)) as work:
        progress.say(f"packing {chosen.model} for {wanted.name}")
        proof = write_pack(chosen.path, _facts(run, chosen, wanted), wanted, work, progress)
        reference = (work / "reference.json").read_bytes()
        write_text(run / REFERENCES / f"{proof['reference_sha256']}.json", reference.decode("utf-8"))
        size = sum(file.stat().st_size for file in work.rglob("*") if file.is_file())
    return Packed(out, chosen.model, wanted.name, size, len(reference), proof)


def _chosen(run: Path, scheme: str | None) -> Exported:
    path = choose_export(run, scheme)
    found = [each for each in Run(run, store_at()).exports if each.path == path]
    if not found:
        fix = "run its recipe again (what is finished is reused)"
        raise UserError("exports.json does not name this file", where=str(path), fix=fix)
    return found[0]


def _check_gates(run: Path, chosen: Exported) -> None:
    """Nothing goes out that did not pass.

    Raises:
        UserError: a gate of the file failed, or it was not measured.
    """
    gates = [gate for gate in load_report(run)["gates"] if gate["model"] == chosen.model]
    failed = [
        f"{gate['name']} {'has no value' if gate.get('value') is None else format(gate['value'], '.4g')}, required "
        f"{gate['op']} {gate['target']:.4g}"
        for gate in gates
        if not gate["passed"]
    ]
    if failed or chosen.verified is not True:
        why = "; ".join(failed) or "it was not measured"
        fix = "pack another file of the run (--file), or see the report and train again"
        raise UserError(f"this file did not pass its gates: {why}", where=chosen.model, fix=fix)


def _check_unchanged(chosen: Exported) -> None:
    """What is packed is what was verified.

    Raises:
        UserError: a file is missing or has another content, or the run is older than these records.
    """
    fix = "run its recipe again (what is finished is reused)"
    if not chosen.sha256:
        raise UserError("exports.json does not say what its files were", where=str(chosen.path), fix=fix)
    for name, sha256 in chosen.sha256.items():
        file = chosen.path / name
        if not file.is_file():
            raise UserError("it is missing", where=str(file), fix=fix)
        if sha256_of(file) != sha256:
            raise UserError("it is not the file that was verified: its content has changed", where=str(file), fix=fix)


def _format(chosen: Exported) -> str:
    return chosen.model.partition("/")[2].partition(":")[0]


def _facts(run: Path, chosen: Exported, target: Target) -> dict[str, Any]:
    """What the reference says of the file besides what it computes."""
    report = load_report(run)
    return {
        "schema_version": 1,
        "name": str(report["name"]),
        "model": chosen.model,
        "format": _format(chosen),
        "target": target.name,
    }


@contextmanager
def _making(out: Path, size: int) -> Iterator[Path]:
    """A folder beside `out` that becomes it when the block ends well, and is gone otherwise.

    Raises:
        UserError: something is there already.
        EnvironmentFault: no disk space, or the place cannot be written.
    """
    if out.exists() or out.is_symlink():
        fix = "remove it, or name another with --out"
        raise UserError("there is something already: a pack goes into a folder of its own", where=str(out), fix=fix)
    check_place(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out.parent).free
        if free < size + ROOM:
            what = f"{readable_bytes(size + ROOM)} are needed for the pack, {readable_bytes(free)} are free"
            raise EnvironmentFault(what, where=str(out.parent), fix="free disk space, or name another place with --out")
        work = Path(mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise EnvironmentFault(
            f"cannot be written: {error.strerror}", where=str(out), fix="name another folder with --out"
        ) from error
    try:
        yield work
        work.chmod(0o755)
        for file in work.rglob("*"):
            if file.is_file():
                sync(file)
        work.rename(out)
        sync(out.parent)
    except OSError as error:
        if disk_full(error):
            raise disk_is_full(out.parent) from error
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def as_json(packed: Packed) -> str:
    """For scripts: what `distill2edge pack --json` prints."""
    document = {
        "schema_version": 1,
        "pack": str(packed.path),
        "model": packed.model,
        "target": packed.target,
        "size_bytes": packed.size_bytes,
        "reference_bytes": packed.reference_bytes,
        "proof": {name: value for name, value in packed.proof.items() if name != "found"},
    }
    return json.dumps(document, indent=2)
