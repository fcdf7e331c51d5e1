"""`distill2edge ui` and `report --serve`: what is refused before anything is served, and what is said."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import report_fixtures as made
from click.testing import CliRunner, Result
from ui_folder import write_run

from distill2edge.cli.main import main
from distill2edge.ui import serve as serving


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What a server was started with, in place of one that runs."""
    import uvicorn

    found: list[Any] = []

    def run(self: Any, sockets: list[socket.socket]) -> None:
        found.extend([self.config, sockets[0].getsockname()])

    monkeypatch.setattr(uvicorn.Server, "run", run)
    return found


def test_a_folder_is_served_on_the_loopback_address_alone(tmp_path: Path, served: list[Any]) -> None:
    write_run(tmp_path / "runs" / "x", made.report())
    result = call("ui", str(tmp_path / "runs"), "--port", "0", "--no-open")
    assert result.exit_code == 0, result.output
    config, (host, port) = served
    assert host == "127.0.0.1"
    assert "1 run in" in result.output
    assert f"http://127.0.0.1:{port}/" in result.output
    assert config.proxy_headers is False


def test_the_report_of_one_run_is_served_as_its_page(
    tmp_path: Path, served: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("click.launch", opened.append)
    run = write_run(tmp_path / "runs" / "x", made.report())
    result = call("report", str(run), "--serve", "--port", "0", "--open")
    assert result.exit_code == 0, result.output
    assert f":{served[1][1]}/runs/x-" in opened[0]
    assert "--serve" in call("report", "--help").output


def test_an_empty_folder_says_what_to_do(tmp_path: Path, served: list[Any]) -> None:
    result = call("ui", str(tmp_path), "--port", "0", "--no-open")
    assert result.exit_code == 0
    assert "no runs in" in result.output
    assert "distill2edge run RECIPE --out" in result.output
    assert served


def test_a_port_that_is_taken_and_a_folder_that_is_none(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        result = call("ui", str(tmp_path), "--port", port, "--no-open")
    assert result.exit_code == 2
    assert f"--port {port}: another program uses this port" in result.output
    assert "--port 0" in result.output
    write_run(tmp_path / "quickstart", made.report())
    result = call("ui", str(tmp_path / "quickstrat"), "--no-open")
    assert result.exit_code == 2
    assert f"did you mean {tmp_path / 'quickstart'}?" in result.output.replace("\n", "")
    (tmp_path / "file").write_text("")
    assert "a file" in call("ui", str(tmp_path / "file"), "--no-open").output
    assert call("ui", str(tmp_path), "--port", "65536").exit_code == 2


def test_without_its_extra_it_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else name)
    result = call("ui", str(tmp_path), "--no-open")
    assert result.exit_code == 4
    assert "the page needs uvicorn, not installed here" in result.output
    assert "pip install 'distill2edge[ui]'" in result.output
