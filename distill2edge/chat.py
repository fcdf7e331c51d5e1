"""Talk to any exported artifact: one loop over the runtimes, with each format's own tokenizer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distill2edge.architectures import is_encoder_decoder
from distill2edge.checkpoint import load_tokenizer
from distill2edge.errors import UserError
from distill2edge.gguf_format.isolated import check_loads
from distill2edge.runtimes import open_runtime
from distill2edge.runtimes.base import Runtime
from distill2edge.runtimes.threads import available_threads
from distill2edge.sampling import draw_token
from distill2edge.schemes import parse_scheme
from distill2edge.terminal import echo

Message = dict[str, str]


@dataclass(frozen=True)
class Speaker:
    """A loaded model with what turns text into its tokens and back."""

    runtime: Runtime
    encode: Callable[[str], list[int]]
    decode: Callable[[Sequence[int]], str]
    render: Callable[[list[Message]], str] | None
    stop: frozenset[int]


def chat_with(
    target: Path, scheme: str | None, prompt: str | None, template: str, max_tokens: int, temperature: float
) -> None:
    """Answer one prompt, or talk until the end of input.

    Raises:
        UserError: nothing that can be loaded at `target`, or no chat template where one is asked for.
    """
    from distill2edge.chat_classifier import classify_with, open_sorter

    path = choose_file(target, scheme)
    gguf = path / "model.gguf" if path.is_dir() else path
    if gguf.suffix == ".gguf" and gguf.is_file():
        check_loads(gguf)  # llama.cpp ends the process over some damaged files
    sorter = open_sorter(path)
    if sorter is not None:
        classify_with(sorter, prompt)
        return
    speaker = open_speaker(path)
    try:
        if template == "chat" and speaker.render is None:
            raise UserError("the model has no chat template", where=str(target), fix="--template plain")
        chatting = speaker.render is not None and template != "plain"
        if prompt is not None:
            _answer(speaker, [{"role": "user", "content": prompt}], chatting, max_tokens, temperature)
            return
        echo(f"talking to {target}: an empty line or Ctrl-D ends", err=True)
        history: list[Message] = []
        while line := _ask():
            history = [*history, {"role": "user", "content": line}] if chatting else [{"role": "user", "content": line}]
            said = _answer(speaker, history, chatting, max_tokens, temperature)
            history.append({"role": "assistant", "content": said})
    finally:
        speaker.runtime.close()


def choose_file(target: Path, scheme: str | None) -> Path:
    """The model file or directory that `target` stands for; in a run directory, one of its exports.

    Raises:
        UserError: nothing there, or no such scheme; names what is there.
    """
    exports = target / "exports"
    if not exports.is_dir():
        if not target.exists():
            raise UserError(
                "nothing there", where=str(target), fix="give a run directory, a .gguf file or a model directory"
            )
        return target
    found = sorted(exports.iterdir(), key=_weight)
    if scheme is None:
        return _smallest_passed(target, found)
    with suppress(ValueError):  # names what is there, below
        scheme = str(parse_scheme(scheme))
    name = scheme.partition(":")[2]
    slug = scheme.replace(":", "-")
    for path in found:
        if path.name.endswith(f"-{name}.gguf") or path.name.endswith(f"-{slug}"):
            return path
    raise UserError(f"no {scheme} in this run", where=str(exports), fix=f"one of {', '.join(p.name for p in found)}")


def open_speaker(path: Path) -> Speaker:
    """Load a `.gguf` file, an ONNX directory or a Hugging Face directory.

    Raises:
        UserError: none of these.
    """
    threads = available_threads()
    gguf = path if path.suffix == ".gguf" else path / "model.gguf"
    if gguf.is_file():
        return _gguf_speaker(gguf, threads)
    kind = "onnxruntime" if any((path / name).is_file() for name in ("model.onnx", "encoder.onnx")) else "torch"
    if not (path / "tokenizer.json").is_file() and not (path / "tokenizer_config.json").is_file():
        raise UserError("no model with a tokenizer here", where=str(path), fix="give an export of `distill2edge run`")
    tokenizer: Any = load_tokenizer(path)

    def render(messages: list[Message]) -> str:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    from distill2edge.data.encode import stop_token_ids

    pairs = is_encoder_decoder(path)  # its tokenizer puts an end token after a source
    has_template = bool(getattr(tokenizer, "chat_template", None))
    return Speaker(
        open_runtime(kind, path, threads=threads),
        lambda text: list(tokenizer(text, add_special_tokens=pairs)["input_ids"]),
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        render if has_template else None,
        frozenset(stop_token_ids(tokenizer, "chat" if has_template else "plain")),
    )


def generate(speaker: Speaker, ids: Sequence[int], max_tokens: int, temperature: float, seed: int = 0) -> Iterator[int]:
    """Tokens until one that stops, or `max_tokens`."""
    random = np.random.default_rng(seed)
    logits = speaker.runtime.prefill(ids)
    for _ in range(max_tokens):
        token = draw_token(logits, temperature, 1.0, random)
        if token in speaker.stop:
            return
        yield token
        logits = speaker.runtime.decode(token)


def _gguf_speaker(path: Path, threads: int) -> Speaker:
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from distill2edge.gguf_format.reader import read_gguf
    from distill2edge.gguf_format.tokenizer import build_tokenizer, special_ids

    file = read_gguf(path)
    tokenizer: Any = build_tokenizer(file, special_ids(file))
    template = file.get("tokenizer.chat_template")
    pairs = file.architecture == "t5" and file.get("tokenizer.ggml.add_eos_token")
    after = [int(file.require("tokenizer.ggml.eos_token_id"))] if pairs else []
    stops = {file.get("tokenizer.ggml.eos_token_id"), file.get("tokenizer.ggml.eot_token_id")}

    def render(messages: list[Message]) -> str:
        # The template comes from a file: it runs sandboxed.
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        text = environment.from_string(str(template)).render(
            messages=messages,
            add_generation_prompt=True,
            bos_token=tokenizer.bos_token or "",
            eos_token=tokenizer.eos_token or "",
        )
        return str(text)

    return Speaker(
        open_runtime("llama.cpp", path, threads=threads),
        lambda text: [*tokenizer(text, add_special_tokens=False)["input_ids"], *after],
        lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        render if template else None,
        frozenset(int(stop) for stop in stops if stop is not None),
    )


def _answer(speaker: Speaker, messages: list[Message], chatting: bool, max_tokens: int, temperature: float) -> str:
    text = speaker.render(messages) if chatting and speaker.render else messages[-1]["content"]
    ids: list[int] = []
    shown = ""
    for token in generate(speaker, speaker.encode(text), max_tokens, temperature):
        ids.append(token)
        # Whole characters only: a token may end inside one.
        said = speaker.decode(ids)
        if not said.endswith("\ufffd"):
            echo(said[len(shown) :], nl=False)
            shown = said
    echo()
    return shown


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""


def _weight(path: Path) -> int:
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _smallest_passed(run: Path, found: list[Path]) -> Path:
    if not found:
        raise UserError("this run has no exports", where=str(run), fix="run its recipe again")
    failed: set[str] = set()
    if (run / "report.json").is_file():
        from distill2edge.rundir import load_report

        gates = load_report(run)["gates"]
        failed = {gate["model"].partition("/")[2] for gate in gates if not gate["passed"]}
    for path in found:
        if not any(
            path.name.endswith((f"-{s.partition(':')[2]}.gguf", f"-{s.replace(':', '-')}")) for s in failed if s
        ):
            return path
    return found[0]
