"""The licence gate: may a model be trained on this teacher's outputs? Terms with sources; not legal advice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from distill2edge.errors import UserError
from distill2edge.util.progress import Progress

WHERE = "teacher.licence"
Verdict = Literal["permit", "conditional", "deny", "unknown"]
_STRICTNESS = ("permit", "conditional", "unknown", "deny")
_CARD_BYTES = 1 << 18
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Terms:
    """One entry of the table.

    Attributes:
        id: name in the table, as the hub writes it where it has one.
        verdict: whether outputs may train another model; `conditional` where they may, under `conditions`.
        derivative: the verdict where the student is made of the teacher's own weights, when that is another one.
        clause: what the terms say of it, in our words.
        conditions: what the one who ships the student must do.
        name_prefix: how the student's name must begin.
        notice: words that must be shown with the student.
        source: where the terms are.
        version: version or date of the terms that the entry describes.
        read: when they were read; None where the entry states what is publicly well known, or nothing.
        basis: `text` of the terms, `quoted` in public documents, `known`, or `none`.
    """

    id: str
    title: str
    verdict: Verdict
    clause: str
    source: str | None
    version: str | None
    read: str | None
    basis: str
    names: tuple[str, ...] = ()
    derivative: Verdict | None = None
    conditions: tuple[str, ...] = ()
    name_prefix: str | None = None
    notice: str | None = None


@dataclass(frozen=True)
class Declared:
    """What a model says of its licence, and where."""

    text: str
    where: str


@dataclass(frozen=True)
class LicenceRecord:
    """The gate's decision: goes into the manifest, the model card and the GGUF metadata.

    Attributes:
        declared, found_in: the licence as it was found, and where.
        accepted: the written reason to go on against the verdict; None where none was needed.
        others: further declarations, `where: text`.
    """

    licence: str
    title: str
    verdict: Verdict
    clause: str
    conditions: tuple[str, ...]
    name_prefix: str | None
    notice: str | None
    source: str | None
    version: str | None
    read: str | None
    basis: str
    declared: str | None
    found_in: str
    accepted: str | None
    derivative: bool
    others: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """For `teacher.json`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def check(
    model: str,
    declared: Sequence[Declared] = (),
    *,
    recipe: str | None = None,
    accept: str | None = None,
    derivative: bool = False,
) -> LicenceRecord:
    """Look a teacher's licence up, and decide.

    The recipe's word comes first, then the model's own in the order given. Where the recipe and the model name
    different terms, the stricter ones count: a recipe fills a gap, it doesn't overrule a licence.

    Args:
        declared: what model card, GGUF metadata and bundled table say.
        recipe: `intake.licence`.
        accept: `teacher.accept_licence`, the written reason to go on where the verdict is deny or unknown.
        derivative: the student is made of the teacher's own weights.

    Raises:
        UserError: the verdict is deny or unknown, and no reason is given.
    """
    found = [Declared(recipe, "recipe")] if recipe else []
    found += [entry for entry in declared if entry.text.strip()]
    if not found:
        terms, chosen = lookup(None), Declared("", "nowhere")
    else:
        chosen, terms = found[0], lookup(found[0].text)
        for entry in found[1:2] if recipe else ():
            other = lookup(entry.text)
            if _STRICTNESS.index(_verdict(other, derivative)) > _STRICTNESS.index(_verdict(terms, derivative)):
                chosen, terms = entry, other
    verdict = _verdict(terms, derivative)
    refused = verdict in ("deny", "unknown")
    if refused and not accept:
        raise _refusal(model, terms, verdict, chosen)
    return LicenceRecord(
        licence=terms.id,
        title=terms.title,
        verdict=verdict,
        clause=terms.clause,
        conditions=terms.conditions,
        name_prefix=terms.name_prefix,
        notice=terms.notice,
        source=terms.source,
        version=terms.version,
        read=terms.read,
        basis=terms.basis,
        declared=chosen.text or None,
        found_in=chosen.where,
        accepted=accept if refused else None,
        derivative=derivative,
        others=tuple(f"{entry.where}: {entry.text}" for entry in found if entry != chosen),
    )


def announce(record: LicenceRecord, progress: Progress) -> None:
    """Say what was decided; warn of conditions and of an override."""
    progress.say(f"teacher licence: {record.title} ({record.found_in}): {record.verdict}")
    if record.accepted:
        progress.warn(f"continuing although the licence gate says {record.verdict}: {record.accepted}")
    for condition in record.conditions:
        progress.warn(f"{record.title}: {condition}")


def lookup(text: str | None) -> Terms:
    """The entry for a licence as a model names it; the entry `unknown` where the table has none."""
    table, names = _table()
    if text is None:
        return table["undeclared"]
    return table.get(names.get(_normal(text), "unknown"), table["unknown"])


def from_front_matter(data: Mapping[str, Any]) -> list[Declared]:
    """The licences of a model card's front matter: `license`, and `license_name` where that is `other`."""
    value = data.get("license")
    values: Iterable[Any] = value if isinstance(value, list) else [value]
    found = [str(entry) for entry in values if isinstance(entry, str) and entry.strip()]
    name = data.get("license_name")
    if isinstance(name, str) and name.strip() and (not found or _normal(found[0]) == "other"):
        found = [name, *(entry for entry in found if _normal(entry) != "other")]
    return [Declared(entry, "model card") for entry in found]


def from_card(text: str) -> list[Declared]:
    """As `from_front_matter`, from the text of a README.md. A card without (valid) front matter declares nothing."""
    match = _FRONT_MATTER.match(text)
    if not match:
        return []
    try:
        # Every scalar as text: a date that is not a date is not an error, and no merge key can grow the document.
        data = yaml.load(match[1], Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
        return []
    if not isinstance(data, dict):
        return []
    return from_front_matter({key: None if value in ("", "~", "null") else value for key, value in data.items()})


def from_card_file(path: Path) -> list[Declared]:
    """As `from_card`, from a README.md; its front matter is at the start."""
    with path.open("rb") as file:
        return from_card(file.read(_CARD_BYTES).decode("utf-8", "replace"))


def table() -> list[Terms]:
    """Every entry, in the order of the file."""
    return list(_table()[0].values())


def _verdict(terms: Terms, derivative: bool) -> Verdict:
    return terms.derivative if derivative and terms.derivative else terms.verdict


def _refusal(model: str, terms: Terms, verdict: Verdict, declared: Declared) -> UserError:
    known = ", ".join(entry.id for entry in table() if entry.verdict in ("permit", "conditional"))
    override = "go on with teacher.accept_licence: 'the written reason', which is kept with the student"
    if terms.id == "undeclared":
        what = f"{model} declares no licence, so nobody says that its outputs may train a model"
        fix = f"set teacher.licence to what its authors state ({known}), or {override}"
    elif verdict == "unknown":
        what = f"the licence of {model}, {declared.text!r} ({declared.where}), gives no answer: {terms.clause}"
        fix = f"read its terms, then set teacher.licence if it is one of {known}; or {override}"
    else:
        what = f"{terms.title} ({declared.where} of {model}) does not permit training on outputs: {terms.clause}"
        other = ""
        if terms.derivative in ("permit", "conditional"):
            other = "make the student of the teacher's own layers (student.init: {from: teacher, layers: N}), or "
        fix = f"take a teacher that permits it, or {other}{override}"
        what += f" (see {terms.source})" if terms.source else ""
    return UserError(what, where=WHERE, fix=fix)


def _normal(text: str) -> str:
    return re.sub(r"[\s_/]+", "-", text.strip().casefold()).strip("-")


@cache
def _table() -> tuple[dict[str, Terms], dict[str, str]]:
    """Entries by id, and every name to its id."""
    raw = yaml.safe_load((files("distill2edge.intake") / "licences.yaml").read_text(encoding="utf-8"))
    entries: dict[str, Terms] = {}
    names: dict[str, str] = {}
    for entry in raw["licences"]:
        fields = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
        fields["clause"] = " ".join(str(fields["clause"]).split())
        fields["read"] = str(fields["read"]) if fields["read"] else None
        fields["version"] = str(fields["version"]) if fields["version"] else None
        terms = Terms(**fields)
        entries[terms.id] = terms
        for name in (terms.id, terms.title, *terms.names):
            if names.setdefault(_normal(name), terms.id) != terms.id:
                raise ValueError(f"licences.yaml: {name!r} is two entries")
    return entries, names
