"""Two sides, a process for each file: what is kept in memory, what a stop ends, and what a crash leaves standing.

The workers here speak `ui.worker`'s protocol without a model; `test_browser` runs real ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from ui_folder import EVIL, write_folder

from distill2edge.errors import UserError
from distill2edge.ui import desk as desks
from distill2edge.ui.app import Pages
from distill2edge.ui.desk import Desk, Turn
from distill2edge.ui.runs import File, Runs

WORKER = """
import json, os, sys, threading, time
stopped = set()
asked = []
def read():
    for line in sys.stdin:
        message = json.loads(line)
        stopped.add(message["stop"]) if "stop" in message else asked.append(message)
    os._exit(0)
threading.Thread(target=read, daemon=True).start()
def say(**message):
    print(json.dumps(message), flush=True)
if "refused" in sys.argv[1]:
    say(error="it cannot be opened"); sys.exit(2)
if "slow-to-open" in sys.argv[1]:
    time.sleep(60)
say(opened={"kind": "decoder", "writes": True, "pair": False})
while True:
    while not asked:
        time.sleep(0.005)
    one = asked.pop(0)
    text = one["messages"][-1]["content"]
    if text == "crash":
        print("GGML_ASSERT(x) failed", file=sys.stderr, flush=True); os.abort()
    if text == "refuse":
        say(error="shorten the text"); continue
    count = 10**6 if text in ("long", "deaf") else 3
    for n in range(1, count + 1):
        say(piece=f"{os.getpid()} {len(one['messages'])} " if n == 1 else "<b>", tokens=n)
        if n > 3: time.sleep(0.005)
        if one["ask"] in stopped and text != "deaf": break
    say(end={"kind": "text", "tokens": n, "ttft_s": 0.5, "decode_s": 0.25, "seconds": 1.0, "stopped": n < count,
             "full": False})
"""
SETTINGS = {"max_tokens": 8, "temperature": 0.0, "seed": 0}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[File]:
    """Two files of a run."""
    runs = Runs(write_folder(tmp_path_factory.mktemp("desk")))
    return runs.files([run for run in runs.all() if run.name == "quickstart"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "worker.py").write_text(WORKER)
    monkeypatch.setattr(desks, "WORKER", (str(tmp_path / "worker.py"),))
    found = Desk()
    yield found
    found.close()
    assert workers() == []


def workers() -> list[int]:
    return [child.pid for child in psutil.Process().children() if "worker.py" in " ".join(child.cmdline())]


def wait(desk: Desk, until: str = "") -> dict[str, Turn]:
    """The last turn of each side that has one, as soon as all are at their end (or one is in a state)."""
    limit = time.monotonic() + 30
    while time.monotonic() < limit:
        turns = {name: side.turns[-1] for name, side in desk.sides().items() if side.turns}
        if any(turn.state == until for turn in turns.values()) if until else not desk.busy:
            return turns
        time.sleep(0.005)
    raise AssertionError("it did not end")


def ask(desk: Desk, left: File | None, right: File | None, text: str = "hello") -> None:
    desk.ask({"left": left, "right": right}, text, None, SETTINGS)


def test_both_sides_answer_and_a_chat_goes_on_in_the_same_processes(desk: Desk, files: list[File]) -> None:
    ask(desk, files[0], files[1])
    first = wait(desk)
    assert [turn.state for turn in first.values()] == ["done", "done"]
    assert first["left"].text.endswith(" 1 <b><b>")
    assert first["left"].tokens_per_s == pytest.approx(8.0)  # two tokens after the first, in a quarter of a second
    running = workers()
    assert len(running) == 2
    ask(desk, files[0], files[1], "and then?")
    second = wait(desk)
    assert workers() == running
    assert second["right"].text.split()[:2] == [first["right"].text.split()[0], "3"]  # with the turn before
    assert second["left"].load_s is None


def test_another_file_evicts_the_one_before(desk: Desk, files: list[File]) -> None:
    ask(desk, files[0], None)
    wait(desk)
    (before,) = workers()
    ask(desk, files[1], None)
    turns = wait(desk)
    (after,) = workers()
    assert before != after
    assert turns["left"].text.split()[1] == "1"  # a new chat
    ask(desk, None, files[1])
    wait(desk)
    assert len(workers()) == 1
    desk.clear()
    assert [side.turns for side in desk.sides().values()] == [(), ()]
    assert len(workers()) == 1


def test_a_stop_keeps_what_was_written_and_the_model(desk: Desk, files: list[File]) -> None:
    ask(desk, files[0], files[1], "long")
    wait(desk, "writing")
    while not desk.sides()["left"].turns[-1].tokens:
        time.sleep(0.005)
    with pytest.raises(UserError, match="still at work"):
        ask(desk, files[0], files[1])
    desk.stop()
    turns = wait(desk)
    assert [turn.state for turn in turns.values()] == ["stopped", "stopped"]
    assert turns["left"].tokens > 0
    assert turns["right"].text == ""  # it was still waiting
    assert len(workers()) == 1
    ask(desk, files[0], files[1])
    assert [turn.state for turn in wait(desk).values()] == ["done", "done"]


def test_a_stop_ends_what_does_not_listen(desk: Desk, files: list[File], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desks, "_PATIENCE_S", 0.1)
    ask(desk, files[0], None, "deaf")
    wait(desk, "writing")
    desk.stop()
    assert wait(desk)["left"].state == "stopped"
    assert workers() == []
    ask(desk, files[0], None)
    assert wait(desk)["left"].state == "done"


def test_a_stop_while_a_file_is_opened(desk: Desk, files: list[File], tmp_path: Path) -> None:
    slow = File(files[0].id, files[0].run, "x", tmp_path / "slow-to-open", 1, True)
    ask(desk, slow, None)
    wait(desk, "loading")
    desk.stop()
    assert wait(desk)["left"].state == "stopped"


def test_a_crash_is_said_with_its_last_words_and_the_other_side_goes_on(desk: Desk, files: list[File]) -> None:
    ask(desk, files[0], None, "crash")
    turn = wait(desk)["left"]
    assert turn.state == "failed"
    assert "SIGABRT" in turn.error
    assert "GGML_ASSERT(x) failed" in turn.error
    ask(desk, files[0], files[1])
    assert [turn.state for turn in wait(desk).values()] == ["done", "done"]


def test_a_file_that_does_not_open_or_refuses_a_text(desk: Desk, files: list[File], tmp_path: Path) -> None:
    refused = File(files[0].id, files[0].run, "x", tmp_path / "refused", 1, True)
    ask(desk, refused, files[1], "refuse")
    turns = wait(desk)
    assert (turns["left"].state, turns["left"].error) == ("failed", "it cannot be opened")
    assert (turns["right"].state, turns["right"].error) == ("failed", "shorten the text")
    ask(desk, refused, files[1])
    assert wait(desk)["right"].text.split()[1] == "1"  # a question without an answer is no part of the chat


def test_the_page_shows_what_was_said_and_escapes_it(desk: Desk, files: list[File]) -> None:
    from starlette.testclient import TestClient

    home = "http://127.0.0.1:8617"
    runs = Runs(files[0].run.path.parent)
    client = TestClient(Pages(runs, desk).app(), base_url=home, headers={"Origin": home}, follow_redirects=False)
    answer = client.post("/try", data={"left": files[0].id, "right": files[1].id, "text": EVIL})
    assert (answer.status_code, answer.headers["location"]) == (303, "/try#answers")
    page = client.get("/try").text
    assert '<noscript><meta http-equiv="refresh" content="2"></noscript>' in page or not desk.busy
    told = client.get("/try/events").text
    assert told.rstrip().endswith("event: end\ndata: {}")
    page = client.get("/try").text
    for words in (
        "&lt;img src=x",
        "&lt;b&gt;&lt;b&gt;",
        "8.0 tokens/s",
        "first after 500 ms",
        f'"{files[0].id}" selected',
    ):
        assert words in page
    assert "<img" not in page
    assert "<b><b>" not in page
    assert "http-equiv" not in page
    assert client.post("/try/new", data={"text": ""}).status_code == 303
    assert "Nothing was asked yet" in client.get("/try").text
