"""The page in headless Chromium with real files: filter, compare, follow, chat by the keyboard alone; and its end."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from browser import IN_CHROMIUM, drive, get_playwright
from made_run import made_run, write_readable
from tiny import tiny_bert, tiny_llama
from ui_folder import write_folder

from distill2edge.data.model_inputs import InputForm
from distill2edge.running.opening import open_model

BROWSE = Path(__file__).with_name("browse.cjs")
pytestmark = IN_CHROMIUM


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every state; `quickstart` with a classifier and a decoder."""
    root = tmp_path_factory.mktemp("browser")
    place = write_folder(root)
    model = tiny_llama(root / "decoder", layers=2, hidden=128, scale=0.05, tied=False)
    write_readable(model, root / "decoder")
    tiny_bert(root / "classifier", layers=1, scale=0.3)
    forms = {"onnx:int8": InputForm("classifier", max_length=40), "gguf:F16": InputForm("decoder", "chat", None, 128)}
    run = made_run(root, forms)
    shutil.rmtree(place / "quickstart")
    run.rename(place / "quickstart")
    return place


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command in a process of its own, and its address."""
    command = [sys.executable, "-m", "distill2edge", "ui", str(folder), "--port", "0", "--no-open"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    address = ""
    while not address:
        line = process.stderr.readline()
        assert line, "it ended"
        address = (re.findall(r"http://\S+", line) or [""])[0]
    yield process, address
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def found(server: tuple[subprocess.Popen[str], str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    playwright = get_playwright(tmp_path_factory.mktemp("playwright"))
    return dict(json.loads(drive(BROWSE, playwright, server[1])))


def test_the_keyboard_filters_and_compares(found: dict[str, Any]) -> None:
    assert found["first"] == "Skip to the content"
    assert found["filtered"] == ["group/vectors"]
    assert found["count"] == "1 of 13 runs"
    assert found["compared"] == "quickstart · smaller"


def test_a_run_at_work_is_told(found: dict[str, Any]) -> None:
    assert found["told"] == "At distill, stage 5 of 6"


def test_the_keyboard_chats_with_two_files(found: dict[str, Any], folder: Path) -> None:
    left, right = found["sides"]
    assert "positive" in left["text"]
    assert left["speed"].split(" ms")[0].isdigit()
    with open_model(folder / "quickstart" / "exports" / "quickstart-gguf-F16") as model:
        assert right["text"][:40] == model.answer("a good film", max_tokens=128)[:40]
    assert "tokens/s" in right["speed"]
    assert (right["live"], right["busy"]) == ("polite", "false")
    assert "right: " in found["told_at_the_end"]
    assert "tokens/s" in found["told_at_the_end"]
    assert found["focus"] == found["back"].replace("second", "asked") == "asked"


def test_a_long_answer_is_stopped_while_the_page_answers(found: dict[str, Any]) -> None:
    assert found["answers_meanwhile"] == 200
    assert found["stopped"][1].startswith("stopped after ")
    assert "tokens" in found["stopped"][1]


def test_without_a_script_the_forms_do(found: dict[str, Any]) -> None:
    assert found["plain_address"].endswith("/try#answers")
    assert "once more" in found["plain"]
    assert "4 tokens" in found["plain"]


def test_nothing_is_in_the_way_of_a_screen_reader(found: dict[str, Any]) -> None:
    assert found["pages"].keys() == {
        "runs", "compare", "live", "run", "try", "answered", "runs, dark", "run, dark", "try, dark",
    }  # fmt: skip
    assert {name: wrong for name, wrong in found["pages"].items() if wrong} == {}
    assert found["faults"] == []


def test_nothing_is_asked_of_another_address(found: dict[str, Any], server: tuple[subprocess.Popen[str], str]) -> None:
    assert found["asked"] == [server[1].rstrip("/")]


def test_ctrl_c_ends_it_and_its_workers(found: dict[str, Any], server: tuple[subprocess.Popen[str], str]) -> None:
    process = server[0]
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers  # the files are in memory
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert process.stderr is not None
    assert process.stderr.read().strip() == "ended"
    time.sleep(0.2)
    assert [worker for worker in workers if worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE] == []
