"""Exporters that print, log and touch global state: kept quiet, and the state put back."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow standard output, warnings and log lines below ERROR; put sys.path and the root logger back.

    Exceptions come through, so nothing that matters is lost.
    """
    path, disabled = list(sys.path), logging.root.manager.disable
    level, handlers = logging.root.level, list(logging.root.handlers)
    logging.disable(logging.WARNING)
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.setLevel(level)
        logging.root.handlers[:] = handlers
        sys.path[:] = path
