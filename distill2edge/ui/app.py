"""The pages: what each address shows. Nothing here changes a run; only what is tried is kept, until the page ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from jinja2 import TemplateError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from distill2edge.errors import UserError
from distill2edge.report.html import environment, report_parts
from distill2edge.ui import runs as listing
from distill2edge.ui import tables
from distill2edge.ui.choosing import SORTS, read_choice
from distill2edge.ui.desk import AT_WORK, SIDES, Desk
from distill2edge.ui.guard import MOST_BYTES, Guard
from distill2edge.ui.runs import DAMAGED, STATES, File, Listed, Runs
from distill2edge.ui.trying import Asked, read_asked
from distill2edge.util.files import read_regular

_STATIC = {"ui.css": "text/css", "ui.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HERE = Path(__file__).parent
_MOST_COMPARED = 8
_PACE_S = 0.1
"""Between two looks at what is written."""
_SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'"
"""For a document of a run, which anyone may have written."""


class Pages:
    """The handlers, over the runs of a folder and one desk.

    Attributes:
        ending: set when the server ends, so that streams end too.
    """

    def __init__(self, runs: Runs, desk: Desk) -> None:
        self.runs, self.desk, self.ending = runs, desk, False
        self._templates = environment("distill2edge.ui")
        self._templates.globals |= {"STATES": STATES, "RUNNING": listing.RUNNING, "AT_WORK": AT_WORK,
                                    "ago": listing.ago, "single": runs.single, "place": str(runs.place)}  # fmt: skip

    def app(self) -> Guard:
        """The application behind its guard."""
        routes = [
            Route("/", self.index),
            Route("/runs/{run}", self.run),
            Route("/runs/{run}/progress", self.progress),
            Route("/runs/{run}/files/{name}", self.document),
            Route("/compare", self.compare),
            Route("/try", self.try_page),
            Route("/try", self.ask, methods=["POST"]),
            Route("/try/stop", self.stop, methods=["POST"]),
            Route("/try/new", self.new, methods=["POST"]),
            Route("/try/events", self.events),
            Route("/static/report.css", self.report_css),
            Route("/static/{name}", self.static),
        ]
        return Guard(Starlette(routes=routes, exception_handlers={HTTPException: self.refused, 500: self.failed}))

    # --- runs -----------------------------------------------------------------------

    def index(self, request: Request) -> Response:
        """All runs, or those that the form asks for."""
        choice, runs = read_choice(request.query_params), self.runs.all()
        found = choice.of(runs)
        tasks = sorted({run.task for run in runs if run.task})
        states = [state for state in STATES if any(run.state == state for run in runs)]
        rows = [(run, tables.cells(run)) for run in found]
        return self._page("runs", choice=choice, rows=rows, all=len(runs), tasks=tasks, states=states, sorts=SORTS,
                          columns=tables.columns(found))  # fmt: skip

    def run(self, request: Request) -> Response:
        """One run: how it goes, and its report."""
        run = self._found(request)
        try:
            parts = report_parts({**run.report, "name": run.name}) if run.report is not None else {}
            return HTMLResponse(self._run(run, **parts))
        except (UserError, TemplateError, *DAMAGED) as error:  # a value that nothing looked at before
            broken = self.runs.damaged(run, error)
            if broken is None or broken.report is not None:
                raise
            return HTMLResponse(self._run(broken))

    def _run(self, run: Listed, **parts: Any) -> str:
        documents = [name for name in listing.DOCUMENTS if listing.document(run, name)]
        return self._fill("run", run=run, files=self.runs.files([run]), progress=tables.progress(run),
                          documents=documents, **{"report": None, **parts})  # fmt: skip

    def progress(self, request: Request) -> Response:
        """How a run goes, as the part of its page that a script replaces."""
        run = self._found(request)
        made = self._fill("progress", run=run, progress=tables.progress(run))
        return HTMLResponse(made, headers={"X-Running": "yes" if run.state in listing.RUNNING else "no"})

    def document(self, request: Request) -> Response:
        """A document of a run, as it lies there: sandboxed, since anyone may have written it."""
        run, name = self._found(request), request.path_params["name"]
        path = listing.document(run, name)
        if path is None:
            raise HTTPException(404, "This run has no such document.")
        try:
            content = read_regular(path)
        except OSError as error:
            raise HTTPException(404, f"It cannot be read: {error.strerror}.") from error
        return Response(content, media_type=f"{listing.DOCUMENTS[name]}; charset=utf-8",
                        headers={"Content-Security-Policy": _SANDBOX})  # fmt: skip

    def compare(self, request: Request) -> Response:
        """Runs side by side, with what cannot be compared."""
        asked = list(dict.fromkeys(request.query_params.getlist("run")))[:_MOST_COMPARED]
        found = [run for run in (self.runs.get(one) for one in asked) if run is not None]
        lost = len(asked) - len(found)
        comparison = tables.comparison(found)
        return self._page("compare", chosen=found, lost=lost, all=self.runs.all(), **comparison)

    # --- trying ---------------------------------------------------------------------

    def try_page(self, request: Request) -> Response:
        """The form, and what both sides have said."""
        return HTMLResponse(self._try(read_asked(request.query_params), "", list(request.query_params)))

    def _try(self, asked: Asked, error: str, given: list[str]) -> str:
        sides = self.desk.sides()
        chosen = {name: getattr(asked, name) for name in SIDES}
        for name in SIDES:
            file = sides[name].file
            if name not in given and file is not None:  # what is there stays chosen
                chosen[name] = file.id
        return self._fill("try", files=self.runs.files(), asked=asked, chosen=chosen, sides=sides, error=error,
                          busy=self.desk.busy)  # fmt: skip

    async def ask(self, request: Request) -> Response:
        """A text to one or two files."""
        form = await _form(request)
        return await run_in_threadpool(self._ask, read_asked(form), _scripted(request))

    def _ask(self, asked: Asked, scripted: bool) -> Response:
        try:
            self.desk.ask({name: self._file(getattr(asked, name)) for name in SIDES}, asked.text, asked.second,
                          asked.settings())  # fmt: skip
        except UserError as error:
            said = f"{error.what}: {error.fix}"
            if scripted:
                return JSONResponse({"error": said}, 409)
            return HTMLResponse(self._try(asked, said, list(SIDES)), 409)
        return JSONResponse({}) if scripted else RedirectResponse("/try#answers", 303)

    def _file(self, file: str) -> File | None:
        """A file that is listed; None where none is asked for.

        Raises:
            UserError: it is not listed (any more).
        """
        if not file:
            return None
        run = self.runs.get(file.partition("/")[0])
        found = next((one for one in self.runs.files([run] if run else []) if one.id == file), None)
        if found is None:
            raise UserError("no such file in these runs", fix="load the page again")
        return found

    async def stop(self, request: Request) -> Response:
        """End what is at work."""
        await run_in_threadpool(self.desk.stop)
        return JSONResponse({}) if _scripted(request) else RedirectResponse("/try#answers", 303)

    async def new(self, request: Request) -> Response:
        """Forget what was said."""
        await run_in_threadpool(self.desk.clear)
        return RedirectResponse("/try", 303)

    async def events(self, request: Request) -> Response:
        """What both sides say, as it is written (server-sent events), until they are done."""
        return StreamingResponse(self._events(), media_type="text/event-stream")

    async def _events(self) -> AsyncIterator[str]:
        seen = -1
        while not self.ending:
            changes, busy = self.desk.changes, self.desk.busy
            if changes != seen:
                seen = changes
                for name, side in self.desk.sides().items():
                    turn = side.turns[-1] if side.turns else None
                    writes = turn is not None and turn.state == "writing"
                    told: dict[str, Any] = {"side": name, "state": turn.state if turn else "", "turns": len(side.turns)}
                    if writes and turn is not None and turn.text:
                        told |= {"text": turn.text, "tokens": turn.tokens}
                    else:
                        told["html"] = self._fill("side", name=name, side=side)
                    yield f"data: {json.dumps(told)}\n\n"
            if not busy:
                yield "event: end\ndata: {}\n\n"
                return
            await asyncio.sleep(_PACE_S)

    # --- the rest -------------------------------------------------------------------

    def static(self, request: Request) -> Response:
        """What comes with the page."""
        name = request.path_params["name"]
        if name not in _STATIC:
            raise HTTPException(404, "There is no such page.")
        return Response((_HERE / "static" / name).read_bytes(), media_type=_STATIC[name])

    def report_css(self, request: Request) -> Response:
        """The report's own style."""
        return Response(self._templates.get_template("report.css").render(), media_type="text/css")

    async def refused(self, request: Request, error: Exception) -> Response:
        """What is not there, in words."""
        assert isinstance(error, HTTPException)
        said = error.detail if error.status_code == 404 and "." in error.detail else "There is no such page."
        return HTMLResponse(self._fill("message", heading="Not found", said=said), error.status_code)

    async def failed(self, request: Request, error: Exception) -> Response:
        """A fault of ours: the page goes on, and says no more than what it was."""
        said = f"This is a bug: {type(error).__name__}. Run again with --debug and report it."
        return HTMLResponse(self._fill("message", heading="Internal error", said=said), 500)

    def _found(self, request: Request) -> Listed:
        run = self.runs.get(request.path_params["run"])
        if run is None:
            raise HTTPException(404, "There is no such run, or no longer.")
        return run

    def _page(self, page: str, /, **parts: Any) -> Response:
        return HTMLResponse(self._fill(page, **parts))

    def _fill(self, page: str, /, **parts: Any) -> str:
        return self._templates.get_template(f"pages/{page}.html.j2").render(parts)


def _scripted(request: Request) -> bool:
    return request.headers.get("accept", "") == "application/json"


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form; the last where one comes twice."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MOST_BYTES:
                raise HTTPException(413, "A form that is too long.")
        return dict(parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="replace", max_num_fields=50))
    except ClientDisconnect as error:
        raise HTTPException(400, "The form did not arrive.") from error
    except ValueError as error:
        raise HTTPException(400, "This is no form.") from error
