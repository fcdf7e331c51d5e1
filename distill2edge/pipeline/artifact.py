"""An artifact and its manifest: what a finished directory of the store holds, and whether it still does."""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from distill2edge.errors import UserError
from distill2edge.util.files import read_json, read_regular, sync

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"


def make_key(stage: str, version: int, section: Any, parents: Mapping[str, str]) -> str:
    """SHA-256 over the stage's version, its canonical recipe section and its parents' keys."""
    content = {"stage": stage, "version": version, "section": section, "parents": dict(parents)}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class Artifact:
    """A finished, checked directory of the store."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """The artifact's content key."""
        return str(self.manifest["key"])

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage said about its result."""
        return dict(self.manifest["facts"])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["size"]) for entry in self.manifest["files"])

    def document(self, name: str) -> Any:
        """One of its JSON files, `train.json` for instance.

        Raises:
            UserError: there is none of that name.
        """
        names = [str(entry["path"]) for entry in self.manifest["files"]]
        if name not in names or not name.endswith(".json"):
            there = ", ".join(each for each in names if each.endswith(".json") and "/" not in each)
            raise UserError(f"no document {name}", where=str(self.path), fix=f"there are: {there or 'none'}")
        return read_json(self.path / name)


def fault_of(path: Path, key: str) -> str | None:
    """What is wrong with an artifact. A file is hashed again only when its size or time has changed."""
    try:
        manifest = read_manifest(path)
    except (OSError, ValueError, RecursionError):
        return "its manifest cannot be read"
    if manifest["schema_version"] != SCHEMA_VERSION:
        return "its manifest is of another version"
    if manifest["key"] != key:
        return "its key differs"
    for entry in manifest["files"]:
        file = path / entry["path"]
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                return f"{entry['path']} is not a regular file"
            if status.st_size != entry["size"]:
                return f"{entry['path']} has {status.st_size} bytes instead of {entry['size']}"
            if status.st_mtime_ns != entry["mtime_ns"] and sha256_of(file) != entry["sha256"]:
                return f"{entry['path']} has changed"
        except FileNotFoundError:
            return f"{entry['path']} is missing"
        except OSError as error:
            return f"{entry['path']} cannot be read: {error.strerror}"
    return None


def file_entries(directory: Path) -> list[dict[str, Any]]:
    """For a manifest: path, size, time and SHA-256 of every file; each is on the disk then."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [_entry(directory, file) for file in files]


def _entry(directory: Path, file: Path) -> dict[str, Any]:
    # A link to the user's own weights is followed: its target is what the key stands for.
    sync(file)
    status = file.stat()
    return {
        "path": str(file.relative_to(directory)),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "sha256": sha256_of(file),
    }


def sha256_of(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# Of a manifest, and of each of its files.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    "schema_version": int, "stage": str, "key": str, "parents": dict, "facts": dict, "wall_s": (int, float),
    "created": str, "files": list,
}  # fmt: skip
_FILE_FIELDS: dict[str, type | tuple[type, ...]] = {"path": str, "size": int, "mtime_ns": int, "sha256": str}


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of an artifact, with fields of the right types and paths that stay inside.

    Raises:
        OSError, ValueError, RecursionError: it cannot be read, or is none.
    """
    return checked_manifest(json.loads(read_regular(path / MANIFEST)))


def checked_manifest(manifest: Any) -> dict[str, Any]:
    """A manifest as it was read, with fields of the right types and paths that stay inside.

    Raises:
        ValueError: it is none.
    """
    _check_types(manifest, _FIELDS)
    for entry in manifest["files"]:
        _check_types(entry, _FILE_FIELDS)
        parts = PurePosixPath(entry["path"]).parts
        if not parts or parts[0] == "/" or ".." in parts or "\0" in entry["path"]:
            raise ValueError(f"a path that leads out of it: {entry['path']!r}")
    return dict(manifest)


def _check_types(value: Any, fields: Mapping[str, type | tuple[type, ...]]) -> None:
    if not isinstance(value, dict):
        raise ValueError("not a mapping")
    for name, kind in fields.items():
        if not isinstance(value.get(name), kind) or isinstance(value[name], bool):
            raise ValueError(f"{name} is missing or of another type")
