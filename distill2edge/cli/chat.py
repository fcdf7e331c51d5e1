"""`distill2edge chat`: talk to any file, in the form in which it was trained."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

from distill2edge.data.chat_templates import Message, chat_template_of
from distill2edge.errors import UserError
from distill2edge.quantize.schemes import meant_scheme, parse_scheme, schemes_in
from distill2edge.running.answering import Loaded, open_loaded
from distill2edge.running.directory import exported, find_run, near_run, refuse_seeds
from distill2edge.util.terminal import echo, one_line

open_speaker = open_loaded


def chat_with(
    target: Path, scheme: str | None, prompt: str | None, template: str, max_tokens: int, temperature: float
) -> None:
    """Answer one prompt, or talk until the end of input.

    A classifier, and a model trained on a closed set of responses, answers with each label's probability.

    Args:
        template: `auto` asks as the model was trained; `chat` and `plain` have it write in that form.

    Raises:
        UserError: nothing that can be loaded at `target`, or no chat template where one is asked for.
    """
    speaker = open_loaded(choose_file(target, scheme))
    try:
        form = speaker.form
        if template == "chat" and (form.kind != "decoder" or not chat_template_of(speaker.tokenizer)):
            raise UserError("the model has no chat template", where=str(target), fix="--template plain")
        closed = form.kind == "classifier" or (form.choices and template == "auto")
        if closed:
            _sort(speaker, prompt)
        else:
            _talk(speaker, prompt, form.template if template == "auto" else template, max_tokens, temperature)
    finally:
        speaker.runtime.close()


def _sort(speaker: Loaded, prompt: str | None) -> None:
    """Answer one text, or every line until the end of input, with the labels, the likeliest first."""
    if prompt is None:
        echo("one text per line: an empty line or Ctrl-D ends", err=True)
    lines = [prompt] if prompt is not None else sys.stdin
    for line in lines:
        if prompt is None and not (line := line.strip()):
            break
        for name, share in speaker.shares(line):
            echo(f"{one_line(name)}\t{share:.4f}")


def _talk(speaker: Loaded, prompt: str | None, template: str, max_tokens: int, temperature: float) -> None:
    if prompt is not None:
        _answer(speaker, [{"role": "user", "content": prompt}], template, max_tokens, temperature)
        return
    echo(f"talking to {speaker.where}: an empty line or Ctrl-D ends", err=True)
    history: list[Message] = []
    while line := _ask():
        # What was trained on plain text was trained on one text at a time.
        history = [*(history if template == "chat" else []), {"role": "user", "content": line}]
        said = _answer(speaker, history, template, max_tokens, temperature)
        history.append({"role": "assistant", "content": said})


def _answer(speaker: Loaded, messages: list[Message], template: str, max_tokens: int, temperature: float) -> str:
    ids = speaker.encode_chat(messages) if template == "chat" else speaker.encode(messages[-1]["content"], template)
    written: list[int] = []
    shown = ""
    for token in speaker.generate(ids, max_tokens, temperature):
        written.append(token)
        # Whole characters only: a token may end inside one.
        said = speaker.decode(written)
        if not said.endswith("\ufffd"):
            echo(said[len(shown) :], nl=False)
            shown = said
    said = speaker.decode(written)  # the last character may never have become whole
    echo(said[len(shown) :])
    return said


def choose_file(target: Path, scheme: str | None) -> Path:
    """The model file or directory that `target` stands for; of a run (its directory or recipe), one of its exports.

    Raises:
        UserError: nothing there, no such scheme (names what is there), or a run over several seeds.
    """
    if target.is_file() and target.suffix in (".yaml", ".yml"):
        target = find_run(target)
    refuse_seeds(target, "chat")
    exports = target / "exports"
    if not exports.is_dir():
        if not target.exists():
            fix = f"{near_run(target)}give a run directory, a .gguf file or a model directory"
            raise UserError("nothing there", where=str(target), fix=fix)
        return target
    found = sorted((path for path in exported(target) if path.parent == exports), key=_weight)
    if scheme is None:
        return _smallest_passed(target, found)
    with suppress(ValueError):  # names what is there, below
        scheme = str(parse_scheme(scheme))
    name = scheme.partition(":")[2]
    slug = scheme.replace(":", "-")
    for path in found:
        if path.name.endswith(f"-{name}.gguf") or path.name.endswith(f"-{slug}"):
            return path
    there = schemes_in(path.name for path in found)
    fix = f"{meant_scheme(scheme, there)}there are: {', '.join(there)}"
    raise UserError(f"no {scheme} in this run", where=str(exports), fix=fix)


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
        from distill2edge.running.directory import load_report

        gates = load_report(run)["gates"]
        failed = {gate["model"].partition("/")[2] for gate in gates if not gate["passed"]}
    for path in found:
        if not any(
            path.name.endswith((f"-{s.partition(':')[2]}.gguf", f"-{s.replace(':', '-')}")) for s in failed if s
        ):
            return path
    return found[0]
