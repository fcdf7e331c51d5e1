"""One model file in a process of its own, which answers line by line: `python -m distill2edge.ui.worker FILE`.

Requests come on standard input, replies go to standard output, each a JSON object on a line:

    -> {"ask": 1, "messages": [...], "pair": null, "max_tokens": 64, "temperature": 0.0, "seed": 0}
    -> {"stop": 1}
    <- {"opened": {"kind": "decoder", "writes": true, "pair": false}}
    <- {"piece": "a", "tokens": 1}
    <- {"end": {...}}  or  {"error": "..."}

Asking goes through `OpenModel`, as `distill2edge chat` does. A runtime that ends the process leaves the page alive.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from distill2edge.errors import UserError
from distill2edge.models.kinds import EMBEDDER, REGRESSOR, TAGGER
from distill2edge.running.answering import OpenModel
from distill2edge.running.opening import open_model
from distill2edge.util.interrupts import PARENT, die_with_parent
from distill2edge.util.isolate import protocol_channel

Document = dict[str, Any]
_FIGURES = 8
"""Of a vector, that the answer shows first."""


class _Requests:
    """What comes in, read by a thread, so that a stop is seen while a model writes."""

    def __init__(self, source: TextIO) -> None:
        self._source, self._asked = source, queue.Queue[Document]()
        self._stopped = 0
        threading.Thread(target=self._read, daemon=True).start()

    def next(self) -> Document:
        return self._asked.get()

    def stopped(self, number: int) -> bool:
        return self._stopped >= number

    def _read(self) -> None:
        for line in self._source:
            message = json.loads(line)
            if "stop" in message:
                self._stopped = max(self._stopped, int(message["stop"]))
            else:
                self._asked.put(message)
        os._exit(0)  # the page has gone, and a runtime may be deep in its work


def answer(model: OpenModel, asked: Document, say: Callable[[Document], None], stopped: Callable[[], bool]) -> Document:
    """One answer: text in pieces through `say`, and at the end its figures; of what writes none, what it finds.

    Returns:
        `kind`: `text` (`tokens`, `ttft_s`, `decode_s` from first to last token, `stopped`), `labels` (`shares`: label,
        probability, whether it is chosen), `entities`, `vector` or `number`; and `seconds` in all.

    Raises:
        UserError: as `OpenModel.answer`.
    """
    start = time.monotonic()
    text, pair = str(asked["messages"][-1]["content"]), asked["pair"]
    if not model.closes("auto"):
        found = _write(model, asked, say, stopped, start)
    elif model.form.kind == REGRESSOR.name:
        found = {"kind": "number", "number": f"{model.number(text, pair):.6g}"}
    elif model.form.kind == TAGGER.name:
        said = [(label, first, end, text[first:end]) for first, end, label in model.entities(text)]
        found = {"kind": "entities", "entities": said}
    elif model.form.kind == EMBEDDER.name:
        vector = [round(float(value), 6) for value in model.embed(text)]
        found = {"kind": "vector", "size": len(vector), "first": vector[:_FIGURES], "vector": vector}
    else:
        shares = model.labels(text, pair)
        chosen = {name for name, _ in (model.chosen(text, pair) if model.several else shares[:1])}
        found = {"kind": "labels", "shares": [(name, share, name in chosen) for name, share in shares]}
    return {**found, "seconds": time.monotonic() - start}


def _write(
    model: OpenModel, asked: Document, say: Callable[[Document], None], stopped: Callable[[], bool], start: float
) -> Document:
    if asked["pair"] is not None:
        raise UserError("this model reads one text", where=model.where, fix="leave the second out")
    first = last = 0.0
    count, ended = 0, False
    for piece, tokens in model.written(
        asked["messages"], "auto", asked["max_tokens"], asked["temperature"], asked["seed"]
    ):
        last = time.monotonic()
        first = first or last
        count = tokens
        say({"piece": piece, "tokens": tokens})
        if ended := stopped():
            break
    return {"kind": "text", "tokens": count, "ttft_s": first - start if count else None, "decode_s": last - first,
            "stopped": ended, "full": count >= asked["max_tokens"]}  # fmt: skip


def main(argv: list[str]) -> None:
    """Open the file, then answer until standard input ends."""
    die_with_parent(int(os.environ[PARENT]) if PARENT in os.environ else None)
    channel, requests = protocol_channel(), _Requests(sys.stdin)

    def say(message: Document) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    try:
        model = open_model(Path(argv[0]))
    except UserError as error:
        say({"error": str(error)})
        sys.exit(error.exit_code)
    with model:
        say({"opened": {"kind": model.form.kind, "writes": not model.closes("auto"),
                        "pair": model.form.pair is not None}})  # fmt: skip
        while True:
            asked = requests.next()
            number = int(asked["ask"])
            try:
                say({"end": answer(model, asked, say, lambda number=number: requests.stopped(number))})  # type: ignore[misc]
            except UserError as error:
                say({"error": str(error)})


if __name__ == "__main__":
    main(sys.argv[1:])
