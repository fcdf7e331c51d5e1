"""The tokenizer's files of a model directory: checked, and tried in a process of its own before they are used here.

The `tokenizers` library is native code that can panic, allocate without bound or take very long on a hostile
tokenizer.json. Run as `python -m distill2edge.intake.tokenizer_files FILE`: reads it and encodes some texts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from distill2edge.errors import UserError
from distill2edge.gguf.corpus import TEXTS
from distill2edge.models.checkpoint import load_tokenizer, refusals
from distill2edge.models.config import check_fields
from distill2edge.templating.chat_template import chat_environment, render_chat_template
from distill2edge.templating.weights import LimitError
from distill2edge.util.files import read_object

_MAX_TOKENIZER = 1 << 28  # the largest real ones have 40 MB
_OUT_OF_BOUNDS = (LimitError, MemoryError, OverflowError, RecursionError)
_MESSAGES = [{"role": "user", "content": "Hello"}]
_MEMORY = 4 << 30
_SECONDS, _SECONDS_PER_MB, _WALL = 3, 1, 600  # of the processor; the wall only ends what waits for ever
_SPECIAL = ("bos", "eos", "pad", "unk", "sep", "cls", "mask")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def open_tokenizer(model_dir: Path, vocabulary: int | None) -> Any:
    """The tokenizer of a directory that somebody else made.

    Args:
        vocabulary: rows of the embedding; None leaves the ids unchecked.

    Raises:
        UserError: names the file: it is damaged, the library panics, hangs or wants too much memory over it, ids lie
            beyond the embedding, or the chat template does not parse.
    """
    for name in _SETTINGS:
        if (model_dir / name).is_file():
            _check_settings(read_object(model_dir / name), model_dir / name)
    if (model_dir / "tokenizer.json").is_file():
        _try(model_dir / "tokenizer.json")
    tokenizer = load_tokenizer(model_dir)
    _check_ids(tokenizer, vocabulary, model_dir)
    check_template(getattr(tokenizer, "chat_template", None), str(model_dir))
    return tokenizer


def check_template(template: Any, where: str) -> None:
    """Refuse a chat template that is not a template.

    Raises:
        UserError: it is not text, or exceeds a limit where it is parsed, or renders one short message.
    """
    fix = "get the tokenizer's files again"
    for text in template.values() if isinstance(template, dict) else [template]:
        if text is None:
            continue
        if not isinstance(text, str):
            raise UserError("the chat template is not a text", where=where, fix=fix)
        with refusals("the chat template does not parse", where, fix):
            chat_environment().compiled(text)
        try:
            render_chat_template(text, messages=_MESSAGES, add_generation_prompt=True, bos_token="", eos_token="")
        except TemplateError as error:  # many refuse some conversations; what matters is what they take
            if isinstance(error, LimitError) or isinstance(error.__cause__, _OUT_OF_BOUNDS):
                raise UserError(f"the chat template exceeds a limit: {error}", where=where, fix=fix) from error


def _check_settings(settings: dict[str, Any], path: Path) -> None:
    check_fields(settings, path)
    for name, value in settings.items():
        place, fix = f"{path}: {name}", "get the file again, as it was"
        if name.endswith("_token") and not name.startswith(("add_", "use_")):
            text = value.get("content") if isinstance(value, dict) else value
            if value is not None and not isinstance(text, str):
                raise UserError("a special token must be a text", where=place, fix=fix)
        elif name == "model_max_length":
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value < 1):
                raise UserError("is not a number of tokens", where=place, fix=fix)
        elif name in ("padding_side", "truncation_side") and value not in ("left", "right"):
            raise UserError(f"{str(value)[:40]!r} is neither left nor right", where=place, fix=fix)
        elif name == "added_tokens_decoder" and not (
            isinstance(value, dict)
            and all(key.isdecimal() and isinstance(entry, dict) for key, entry in value.items())
            and all(isinstance(entry.get("content"), str) for entry in value.values())
        ):
            raise UserError("is not a table of ids and tokens", where=place, fix=fix)
        elif path.name == "added_tokens.json" and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise UserError("is not a token id", where=place, fix=fix)


def _try(path: Path) -> None:
    """Read and use a tokenizer.json in a process with limits."""
    fix = "get the tokenizer's files again"
    size = path.stat().st_size
    if size > _MAX_TOKENIZER:
        raise UserError(f"{size:,} bytes are too many for such a file", where=str(path), fix=fix)
    seconds = _SECONDS + _SECONDS_PER_MB * (size >> 20)
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "RAYON_NUM_THREADS": "1", "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(path), str(seconds)],
            capture_output=True,
            env=environment,
            timeout=_WALL,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError("the tokenizer does not finish with it", where=str(path), fix=fix) from None
    if done.returncode == 0:
        return
    words = [line for line in done.stderr.decode("utf-8", "replace").splitlines() if line.strip()]
    if done.returncode < 0:
        what = f"the tokenizer takes more than {seconds} s or {_MEMORY >> 30} GiB over some short texts, or crashes"
    else:
        what = f"the tokenizer can't be made of it: {words[-1][:300] if words else 'it gave no reason'}"
    raise UserError(what, where=str(path), fix=fix)


def _check_ids(tokenizer: Any, vocabulary: int | None, model_dir: Path) -> None:
    fix = "get the files again: tokenizer and weights must be of one model"
    with refusals("the tokenizer can't be used", model_dir, fix):
        encoded = [tokenizer(text).input_ids for text in TEXTS]
        decoded = [tokenizer.decode(ids) for ids in encoded]
        special = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL}
    if not any(decoded):
        raise UserError("the tokenizer produces no tokens", where=str(model_dir), fix=fix)
    if vocabulary is None:
        return
    for name, index in special.items():
        if index is not None and not 0 <= index < vocabulary:
            raise UserError(f"the tokenizer's {name} token has the id {index}, the embedding {vocabulary} rows",
                            where=str(model_dir), fix=fix)  # fmt: skip
    most = max((max(ids) for ids in encoded if ids), default=0)
    if most >= vocabulary:
        raise UserError(f"the tokenizer writes the id {most}, the embedding has {vocabulary} rows",
                        where=str(model_dir), fix=fix)  # fmt: skip


def _limit(seconds: int) -> None:
    with suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))


def _main(path: str, seconds: int) -> None:
    _limit(seconds)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(path)
        for text in TEXTS:
            tokenizer.decode(tokenizer.encode(text).ids)
    except BaseException as error:  # a panic too: the parent tells it
        text = " ".join(str(error).split()) or type(error).__name__
        print(text, file=sys.stderr, flush=True)
        os._exit(2)


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]))
