"""`distill2edge report --add`: what devices measured, checked against the references of the run's packs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from distill2edge.errors import UserError
from distill2edge.handover import selftest
from distill2edge.report.card import render_card
from distill2edge.report.device_rows import device_row
from distill2edge.report.html import render_html
from distill2edge.report.markdown import render_markdown
from distill2edge.running.reading import find_run, load_report, read_document, refuse_seeds
from distill2edge.util.files import read_json, read_object, read_regular, write_json, write_text

Document = dict[str, Any]
REFERENCES, PROOFS = "references", "proofs"
"""Folders of a run: the references of its packs by their SHA-256, and the proofs that were added."""
_LIMIT = 4 << 20
_AGAIN = "run selftest.py of the pack again, and add what it writes unchanged"


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Fidelity(_Part):
    mean: float | None
    passed: bool


class _Files(_Part):
    count: int
    different: list[str]


class _Checks(_Part):
    files: _Files
    tokens: Document | None
    cache: Document | None
    fidelity: _Fidelity | None
    opened: str


class _Device(_Part):
    name: str = Field(min_length=1, max_length=200)
    cpu: str
    versions: dict[str, str]


class _Speed(_Part):
    prefill_tps: float | None = Field(None, ge=0)
    decode_tps: float | None = Field(None, ge=0)
    texts_per_s: float | None = Field(None, ge=0)


class _Proof(_Part):
    schema_version: int
    reference_sha256: str = Field(pattern="[0-9a-f]{64}")
    model: str
    created: str
    passed: bool
    faults: list[str]
    checks: _Checks
    speed: _Speed
    peak_rss_bytes: int | None = Field(ge=0)
    threads: int
    device: _Device
    rows: list[int]
    found: str
    digest: str


def add_proofs(target: Path, files: Sequence[Path]) -> list[Document]:
    """Put proofs beside the run's own figures: all of them, or none where one is refused. Returns their rows.

    Raises:
        UserError: no run, no proof, one that was altered, or one of a file that this run does not have.
    """
    run = find_run(target)
    refuse_seeds(run, "distill2edge report")
    load_report(run)
    proofs = [_read(file) for file in files]
    for file, proof in zip(files, proofs, strict=True):
        _check(run, proof, str(file))
    for proof in proofs:
        write_json(run / PROOFS / f"{proof['digest'][:16]}.json", proof)
    rows = show_proofs(run)
    added = {proof["digest"] for proof in proofs}
    return [row for row in rows if row["digest"] in added]


def show_proofs(run: Path) -> list[Document]:
    """Write the run's report anew with the rows of all its proofs; returns them. Of a device and file the last counts.

    A proof of a file that the run no longer has stays in its folder and is not shown.
    """
    found: dict[tuple[str, str], Document] = {}
    for file in sorted((run / PROOFS).glob("*.json")):
        try:
            proof = _read(file)
            _check(run, proof, str(file))
        except UserError:
            continue
        key = proof["device"]["name"], proof["model"]
        if key not in found or found[key]["created"] <= proof["created"]:
            found[key] = proof
    if not found:
        return []
    report = read_json(run / "report.json")
    rows = [device_row(proof, report) for _, proof in sorted(found.items())]
    report["devices"] = rows
    write_json(run / "report.json", report)
    write_text(run / "report.html", render_html(report))
    write_text(run / "report.md", render_markdown(report))
    write_text(run / "model_card.md", render_card(report))
    return rows


def _read(file: Path) -> Document:
    """A proof that is whole: its digest is that of its content.

    Raises:
        UserError: it is missing, no proof, or was altered.
    """
    if not file.is_file():
        raise UserError("no such file", where=str(file), fix="name the proof.json that selftest.py wrote")
    proof = read_object(file, _LIMIT)
    try:
        _Proof.model_validate(proof)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"not a proof of a pack: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise UserError(what, where=str(file), fix="name the proof.json that selftest.py wrote") from error
    if proof["schema_version"] != 1:
        what = f"a proof of schema version {proof['schema_version']}, this program reads 1"
        raise UserError(what, where=str(file), fix="make the pack with this version, and run its selftest.py")
    if proof["digest"] != selftest.digest_of(proof):
        raise UserError("this proof was altered: its digest is not that of its content", where=str(file), fix=_AGAIN)
    return proof


def _check(run: Path, proof: Document, where: str) -> None:
    """See that a proof is of a file of this run, and says what its own numbers say.

    Raises:
        UserError: it is not, or does not.
    """
    reference = _reference(run, proof, where)
    entries = read_document(run / "exports.json").get("files") or []
    known = next((entry.get("sha256") or {} for entry in entries if entry.get("model") == proof["model"]), None)
    packed = {name: reference["files"][name] for name in reference["opened"]}
    if reference["model"] != proof["model"] or known is None or any(known.get(n) != sha for n, sha in packed.items()):
        raise UserError(
            f"a proof of another file than this run's {proof['model']}: its figures say nothing of that one",
            where=where,
            fix="pack the run's file again (distill2edge pack), and run the selftest.py of that pack",
        )
    if said := _contradiction(reference, proof):
        raise UserError(f"this proof contradicts itself: {said}", where=where, fix=_AGAIN)


def _reference(run: Path, proof: Document, where: str) -> Document:
    path = run / REFERENCES / f"{proof['reference_sha256']}.json"
    try:
        text = read_regular(path, _LIMIT)
    except OSError as error:
        raise UserError(
            "no pack of this run has the reference that this proof was made with: it is of another run's file, or its "
            "reference.json was altered", where=where,
            fix="name the run that the pack was made of, or pack the file again and run the selftest.py of that pack",
        ) from error  # fmt: skip
    if hashlib.sha256(text).hexdigest() != proof["reference_sha256"]:
        fix = "pack the file again (distill2edge pack)"
        raise UserError("the run's copy of the reference was altered", where=str(path), fix=fix)
    return dict(json.loads(text))


def _contradiction(reference: Document, proof: Document) -> str:
    """Where the verdict is not that of the numbers it rests on; empty where it is."""
    checks: Mapping[str, Any] = proof["checks"]
    if proof["faults"] != selftest.faults_of(dict(checks)) or proof["passed"] == bool(proof["faults"]):
        return "its verdict is not that of its checks"
    if checks["fidelity"] is None:
        return "" if proof["faults"] else "it passed without a comparison"
    try:
        found = selftest.unpacked(proof["found"], "<f4", reference["outcomes"])
        again = selftest.compared(reference, reference["kind"], found, proof["rows"])
    except (ValueError, IndexError):
        return "its probabilities are not readable"
    if proof["rows"] != sorted(set(proof["rows"])) or min(proof["rows"], default=0) < 0:
        return "its positions are not those of the reference"
    mean, said = again["mean"], checks["fidelity"]["mean"]
    same = mean == said or (
        mean is not None and said is not None and math.isclose(mean, said, rel_tol=1e-4, abs_tol=1e-9)
    )
    if not same or again["passed"] != checks["fidelity"]["passed"]:
        return "its divergence is not that of its probabilities"
    if checks["cache"] and checks["cache"]["wanted"] != reference["cache_bytes"]:
        return "its key-value cache is compared with another"
    return ""
