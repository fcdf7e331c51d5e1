"""What a terminal is given: nothing that steers it; colours where they are wanted; the right end for each signal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from distill2edge.cli.main import main
from distill2edge.util import interrupts
from distill2edge.util.progress import PlainProgress, RichProgress
from distill2edge.util.terminal import echo, one_line, printable

HOSTILE = "a\x1b]0;owned\x07b\x9b31mc\rd\u202ee\x7f\ud800 é 🙂\tx\ny"


def test_control_characters_are_shown_not_obeyed() -> None:
    shown = printable(HOSTILE)
    assert shown == "a\\u001b]0;owned\\u0007b\\u009b31mc\\u000dd\\u202ee\\u007f\\ud800 é 🙂\tx\ny"
    assert printable(shown) == shown
    assert json.loads(printable(json.dumps({"a": "\x9b\x7f é"}, ensure_ascii=False))) == {"a": "\x9b\x7f é"}
    assert one_line("a\nb\x1b[2J" + "c" * 50, 12) == "a b\\u001b[2Jcccc…"


def test_progress_and_errors_are_printable(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for progress in (PlainProgress(0.0), RichProgress()):
        progress.say("said \x1b[2J [/red]")
        progress.warn("warned \x1b[2J [/red]")
        with progress.task("title \x1b[2J [/red]", 1) as task:
            task.advance(1, "note \x1b[2J [/red]")
    echo("out \x1b[2J")
    shown = capsys.readouterr()
    assert "\x1b[2J" not in shown.out + shown.err
    assert "said \\u001b[2J [/red]" in shown.err
    (tmp_path / "a\x1b[2J.yaml").write_text("name: x\n")
    result = CliRunner().invoke(main, ["recipe", "check", str(tmp_path / "a\x1b[2J.yaml")])
    assert result.exit_code == 2
    assert "\x1b[2J" not in result.output


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_each_signal_ends_with_a_message_and_its_code(name: str, code: int, tmp_path: Path) -> None:
    script = (
        # A suite in the background of a shell, or under nohup, hands these signals on as ignored.
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from distill2edge.cli.main import main\nfrom distill2edge.running import housekeeping\n"
        "def wait(*a, **k):\n    try:\n        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n        print('cleaned', flush=True)\n"
        "housekeeping.list_store = wait\nmain(['store', 'ls'])\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("cleaned\n", code)
    assert err.startswith("error: stopped: what was finished is kept")
    assert "Traceback" not in err


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with interrupts.caught(), pytest.raises(interrupts.Stopped, match="SIGTERM") as stopped:
        signal.raise_signal(signal.SIGTERM)
    assert stopped.value.exit_code == 143
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before


def test_debug_shows_tracebacks_in_every_group(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("name: [\n")
    for command in (["recipe", "check", "x.yaml"], ["plan", "x.yaml"]):
        command = [str(tmp_path / part) if part == "x.yaml" else part for part in command]
        shown = CliRunner().invoke(main, ["--debug", *command])
        assert shown.exception is not None, command
        assert not isinstance(shown.exception, SystemExit), command


def test_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    from distill2edge.util.terminal import coloured

    class Terminal:
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    assert coloured(Terminal())  # type: ignore[arg-type]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not coloured(Terminal())  # type: ignore[arg-type]
