"""What reaches a terminal: text of models, files and data is shown, never obeyed."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import IO

# Control characters (C0 but tab and newline, DEL, C1), line separators that are none for a terminal, marks that turn
# the direction of what follows, and halves of surrogate pairs, which have no UTF-8 form.
_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with every character that steers a terminal as `\u001b`, which keeps JSON the same JSON."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str, limit: int | None = None) -> str:
    """`printable` on one line, cut to `limit` characters."""
    line = " ".join(text.split())
    return printable(line if limit is None or len(line) <= limit else f"{line[: limit - 1]}…")


def in_short(found: Iterable[str]) -> str:
    """Remarks, each once; those that differ in their first figure alone as one, from the least to the most."""
    figures: dict[tuple[str, str], list[str]] = {}
    for reason in found:
        before, figure, after = re.match(r"(\D*)(\d*(?:\.\d+)?)(.*)", reason, re.DOTALL).groups()  # type: ignore[union-attr]
        figures.setdefault((before, after), []).append(figure)
    said = []
    for (before, after), seen in figures.items():
        least, most = min(seen, key=lambda x: float(x or 0)), max(seen, key=lambda x: float(x or 0))
        said.append(f"{before}{least}{after}" if least == most else f"{before}{least} to {most}{after}")
    return "; ".join(said)


def echo(text: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Print text that may hold anything."""
    stream = sys.stderr if err else sys.stdout
    stream.write(printable(text) + ("\n" if nl else ""))
    stream.flush()


def coloured(stream: IO[str]) -> bool:
    """Whether colours may be used: a terminal, and no `NO_COLOR` (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def tolerant() -> None:
    """Let the standard streams write characters that their encoding lacks as escapes."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep what libraries warn of and log from the terminal: `run.log` takes it (`runlog`)."""
    silent = logging.NullHandler()
    warned = logging.getLogger("py.warnings")
    passes = warned.propagate
    logging.captureWarnings(True)
    warned.propagate = False
    for logger in (logging.getLogger(), warned):
        logger.addHandler(silent)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        warned.propagate = passes
        for logger in (logging.getLogger(), warned):
            logger.removeHandler(silent)
