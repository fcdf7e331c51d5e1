"""`distill2edge chat`: talk to any file, in the form in which it was trained."""

from __future__ import annotations

import sys
from pathlib import Path

from distill2edge.data.conversation import Message
from distill2edge.running.answering import Chat, Form, OpenModel
from distill2edge.running.opening import open_model
from distill2edge.util.terminal import echo, one_line


def chat_with(
    target: Path,
    scheme: str | None,
    prompt: str | None,
    template: Form,
    max_tokens: int,
    temperature: float,
    kv_cache: str,
) -> None:
    """Answer one prompt, or talk until the end of input.

    A classifier, and a model trained on a closed set of responses, answers with each label's probability.

    Args:
        template: `auto` asks as the model was trained; `chat` and `plain` have it write in that form.

    Raises:
        UserError: nothing that can be loaded at `target`, or no chat template where one is asked for.
    """
    with open_model(target, scheme, kv_cache=kv_cache) as model:
        if model.closes(template):
            _sort(model, prompt)
            return

        def say(asked: Chat) -> str:
            said = ""
            for piece in model.stream(asked, template=template, max_tokens=max_tokens, temperature=temperature):
                echo(piece, nl=False)
                said += piece
            echo("")
            return said

        if prompt is not None:
            say(prompt)
            return
        echo(f"talking to {model.where}: an empty line or Ctrl-D ends", err=True)
        history: list[Message] = []
        while line := _ask():
            history.append({"role": "user", "content": line})
            history.append({"role": "assistant", "content": say(history)})


def _sort(model: OpenModel, prompt: str | None) -> None:
    """Answer one text, or every line until the end of input, with the labels, the likeliest first, or its vector.

    Two texts stand on one line, with a tab between them.
    """
    pairs = model.form.pair is not None
    if prompt is None:
        what = "two texts per line, with a tab between" if pairs else "one text per line"
        echo(f"{what}: an empty line or Ctrl-D ends", err=True)
    lines = [prompt] if prompt is not None else sys.stdin
    for line in lines:
        if prompt is None and not (line := line.strip()):
            break
        text, tab, second = line.partition("\t") if pairs else (line, "", "")
        pair = second if tab else None
        if not model.closed:
            echo(model.answer(text, pair))
            continue
        shown = model.chosen(text, pair) if model.several else model.labels(text, pair)
        if not shown:
            echo("none of the labels", err=True)
        for name, share in shown:
            echo(f"{one_line(name)}\t{share:.4f}")


def _ask() -> str:
    try:
        return input("> ").strip()
    except EOFError:
        return ""
