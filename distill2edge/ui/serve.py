"""Serving the page on this machine's loopback address, until Ctrl-C."""

from __future__ import annotations

import errno
import signal
import socket
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.running.reading import near_run
from distill2edge.ui.runs import Runs
from distill2edge.util.interrupts import Stopped

LOOPBACK = "127.0.0.1"
_GRACE_S = 2


def check_installed() -> None:
    """See that what serves the page is installed.

    Raises:
        EnvironmentFault: it is not; names the extra that has it.
    """
    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        what = f"the page needs {' and '.join(missing)}, not installed here"
        raise EnvironmentFault(what, fix="pip install 'distill2edge[ui]'")


def check_place(place: Path, command: str = "distill2edge ui") -> Runs:
    """The runs of a folder, or the run that it is.

    Raises:
        UserError: no such folder.
    """
    if not place.is_dir():
        what = "a file" if place.exists() else "nothing there"
        fix = f"name the folder that holds your runs, such as `{command} runs`; `distill2edge run RECIPE` makes it"
        fix = f"{near_run(place)}{fix}"
        raise UserError(what, where=str(place), fix=fix)
    return Runs(place)


def listen(port: int) -> socket.socket:
    """A socket on the loopback address.

    Args:
        port: 0 for any that is free.

    Raises:
        UserError: the port is taken, or not this user's to take.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if socket.SO_REUSEADDR and not hasattr(socket, "SO_EXCLUSIVEADDRUSE"):  # on Windows it would share a taken port
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((LOOPBACK, port))
        found.listen(64)
    except OSError as error:
        found.close()
        taken = error.errno == errno.EADDRINUSE
        what = "another program uses this port" if taken else f"this port cannot be used: {error.strerror}"
        raise UserError(what, where=f"--port {port}", fix="name another, or --port 0 for any free one") from error
    return found


def serve(
    place: Path,
    port: int,
    say: Callable[[str], None],
    show: Callable[[str], object] | None = None,
    *,
    run: bool = False,
    debug: bool = False,
) -> None:
    """Serve the page of a folder's runs until Ctrl-C.

    Args:
        say: told the address, and what to do where there are no runs.
        show: opens an address in a browser.
        run: the folder is one run, whose own page is opened.
        debug: say every request.

    Raises:
        UserError: nothing at that place, or a port that is taken.
        EnvironmentFault: what serves it is not installed.
    """
    check_installed()
    runs = check_place(place)
    import uvicorn

    from distill2edge.ui.app import Pages
    from distill2edge.ui.desk import Desk

    opened = listen(port)
    address = f"http://{LOOPBACK}:{opened.getsockname()[1]}/"
    found = runs.all()
    if run and found:
        address += f"runs/{found[0].id}"
    desk = Desk()
    pages = Pages(runs, desk)
    server = _server(uvicorn, pages, debug)
    say(_counted(len(found), place))
    say(f"{address}  (this machine alone; Ctrl-C ends it)")
    if show is not None:
        show(address)
    try:
        server.run(sockets=[opened])
    except Stopped as stop:
        if stop.number != signal.SIGINT:
            raise
        say("ended")
    finally:
        desk.close()
        opened.close()


def _counted(count: int, place: Path) -> str:
    if not count:
        return (
            f"no runs in {place} yet: distill2edge run RECIPE --out {place / 'NAME'} makes one; the page will show it"
        )
    return f"{count} run{'' if count == 1 else 's'} in {place}"


def _server(uvicorn: Any, pages: Any, debug: bool) -> Any:
    """A server that tells the pages when it ends, so that no stream holds it."""

    class Server(uvicorn.Server):  # type: ignore[misc]
        def handle_exit(self, number: int, frame: Any) -> None:
            pages.ending = True
            super().handle_exit(number, frame)

    config = uvicorn.Config(
        pages.app(), log_level="info" if debug else "error", access_log=debug, ws="none", lifespan="off",
        proxy_headers=False, server_header=False, timeout_graceful_shutdown=_GRACE_S, limit_concurrency=100,
        http="h11", loop="asyncio",
    )  # fmt: skip
    return Server(config)
