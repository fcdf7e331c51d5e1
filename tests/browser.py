"""Headless Chromium through Playwright, where this machine has Chromium and Node.js."""

from __future__ import annotations

import functools
import http.server
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from distill2edge.intake.archives import Refused, download_npm

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NODE = shutil.which("node")
IN_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None or NODE is None, reason="no Chromium, or no Node.js here"),
]
"""Marks of a module whose tests drive it."""
_PLAYWRIGHT = ("playwright-core@1.65.1", "6f5a60be62a4fddfbe7d10c448d8fbd54547da3358f2f8a04211440471ee863e")


def get_playwright(place: Path) -> Path:
    """Playwright, unpacked in `place`; skips the test where it cannot be fetched."""
    try:
        archive = download_npm(*_PLAYWRIGHT, place)
    except Refused as error:
        pytest.skip(f"no Playwright: {error}")
    with tarfile.open(archive) as packed:
        packed.extractall(place, filter="data")
    return place / "package"


def drive(script: Path, playwright: Path, *words: str) -> str:
    """What `node SCRIPT PLAYWRIGHT CHROMIUM WORDS` prints."""
    command = [str(NODE), str(script), str(playwright), str(CHROMIUM), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of static files, and nothing more."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}"
    server.shutdown()
