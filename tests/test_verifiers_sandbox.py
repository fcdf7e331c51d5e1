"""Checks in processes of their own: what they may use, and that a crash, a hang or a greedy one costs its row only."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill2edge.errors import UserError
from distill2edge.progress import SilentProgress
from distill2edge.recipe.verifiers import JsonSchemaVerifier, PythonVerifier, RegexVerifier
from distill2edge.verifiers.base import Group, Verdict
from distill2edge.verifiers.registry import Tools, opened
from distill2edge.verifiers.sandbox import Sandboxed, python_check

RUNS_THE_RESPONSE = """
def check(prompt, response, reference):
    exec(response, {})
    return True
"""
LIMITS = {"seconds": 1.0, "memory_mb": 256, "file_mb": 2, "share": 1}


def ask(verifier: Sandboxed, *responses: str) -> list[Verdict]:
    return verifier.verify([Group("p", responses, "r")])[0]


@pytest.fixture(scope="module")
def runner() -> Iterator[Sandboxed]:
    verifier = python_check("python", RUNS_THE_RESPONSE, "check.py", LIMITS, "here")
    yield verifier
    verifier.close()


@pytest.mark.parametrize(
    ("code", "outcome", "reason"),
    [
        ("pass", "accepted", ""),
        ("assert 1 == 2, 'one is not two'", "rejected", "one is not two"),
        ("1 / 0", "crashed", "ZeroDivisionError"),
        ("raise SystemExit(0)", "crashed", "SystemExit"),
        ("import os; os._exit(3)", "crashed", "exit code 3"),
        ("import os; os.abort()", "crashed", "killed by"),
        ("while True: pass", "timed out", "no verdict after 1 s"),
        ("import time; time.sleep(60)", "timed out", "no verdict"),
        ("x = ' ' * (1 << 30)", "out of memory", "256 MB"),
        ("open('a', 'w').write('x'); assert open('a').read() == 'x'", "accepted", ""),
        ("open('a', 'w').write('x' * (3 << 20))", "crashed", "OSError"),
        ("import os; os.system('true')", "crashed", "may not use os.system"),
        ("import subprocess; subprocess.run(['true'])", "crashed", "may not"),
        ("import os; os.fork()", "crashed", "may not use os.fork"),
        ("import os; os.kill(os.getppid(), 9)", "crashed", "may not use os.kill"),
        ("import ctypes", "crashed", "may not import ctypes"),
        ("open('/etc/passwd').read()", "crashed", "may not read"),
        ("import os; os.remove('/etc/hostname')", "crashed", "may not use os.remove"),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1')", "crashed", "may not use socket"),
    ],
)
def test_what_a_check_may_do(runner: Sandboxed, code: str, outcome: str, reason: str) -> None:
    start = time.monotonic()
    verdict = ask(runner, code)[0]
    assert (verdict.outcome, verdict.accepted) == (outcome, outcome == "accepted"), verdict
    assert reason in verdict.reason
    assert time.monotonic() - start < 10


def test_nothing_is_left_of_one_row_for_the_next(runner: Sandboxed) -> None:
    first = "import builtins, os; builtins.seen = 1; open('left', 'w').close()"
    second = "import builtins, os; assert not hasattr(builtins, 'seen') and not os.listdir('.')"
    assert [verdict.outcome for verdict in ask(runner, first, second)] == ["accepted", "accepted"]


def test_the_environment_with_its_keys_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "secret")
    fresh = python_check("python", RUNS_THE_RESPONSE, "check.py", LIMITS, "here")
    verdict = ask(fresh, "import os; assert 'SOME_API_KEY' not in os.environ")[0]
    fresh.close()
    assert verdict.accepted


def test_the_walls_hold_without_the_hook_where_namespaces_are_allowed(runner: Sandboxed, tmp_path: Path) -> None:
    if runner.held["network"] != "network namespace" or not runner.held["files"].startswith("read-only"):
        pytest.skip("no namespaces on this machine: the audit hook holds, which the cases here show")
    server = socket.create_server(("127.0.0.1", 0))
    code = f"""
import os, socket
from distill2edge.verifiers.walls import cut_off
cut_off({str(tmp_path)!r}, 1)
for attempt in (
    lambda: socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), timeout=2),
    lambda: open({str(tmp_path.parent / "outside")!r}, 'w'),
    lambda: open({str(tmp_path / "large")!r}, 'w').write('x' * (2 << 20)),
):
    try:
        attempt()
    except OSError as error:
        print(error.strerror)
    else:
        print('went through')
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    server.close()
    assert done.stdout.splitlines() == ["Network is unreachable", "Read-only file system", "No space left on device"]


def test_rows_that_share_a_process_are_faster_and_a_bad_one_costs_only_itself() -> None:
    verifier = python_check("python", RUNS_THE_RESPONSE, "check.py", {**LIMITS, "share": 16}, "here")
    rows = [f"x = {n}" for n in range(40)]
    rows[3], rows[20], rows[21] = "1 / 0", "import os; os._exit(1)", "while True: pass"
    said = [verdict.outcome for verdict in ask(verifier, *rows)]
    verifier.close()
    assert (said[3], said[20], said[21]) == ("crashed", "crashed", "timed out")
    assert said.count("accepted") == 37


def test_a_check_that_kills_its_guard_is_found_and_the_others_are_judged() -> None:
    verifier = python_check("python", RUNS_THE_RESPONSE, "check.py", {**LIMITS, "share": 4}, "here")
    assert verifier._process is not None
    verifier._process.kill()  # as if a check had done it
    verifier._process.wait()
    assert [verdict.outcome for verdict in ask(verifier, "x = 1", "1 / 0")] == ["accepted", "crashed"]
    verifier.close()


def test_a_verdict_is_a_bool_with_or_without_a_reason() -> None:
    code = "def check(p, r, ref):\n    return {'a': True, 'b': (False, 'too\\nshort'), 'c': 1, 'd': None}[r]"
    verifier = python_check("python", code, "check.py", LIMITS, "here")
    said = ask(verifier, "a", "b", "c", "d")
    verifier.close()
    assert [verdict.outcome for verdict in said] == ["accepted", "rejected", "crashed", "crashed"]
    assert said[1].reason == "too short"
    assert "not a bool" in said[2].reason


@pytest.mark.parametrize(("code", "message"), [("def check(:", "not Python"), ("x = 1", "no function `check`")])
def test_code_that_can_not_be_a_check_is_refused_before_the_first_row(code: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        python_check("python", code, "check.py", LIMITS, "here")


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools(tmp_path, "plain", None, tmp_path, SilentProgress())


def test_regex_and_one_that_backtracks_for_ever(tools: Tools) -> None:
    specs = [
        RegexVerifier(pattern=r"\d+"),  # type: ignore[call-arg]
        RegexVerifier(pattern="(a+)+b", seconds=1),  # type: ignore[call-arg]
        RegexVerifier(pattern="bad", match="search", refuse=True),  # type: ignore[call-arg]
    ]
    with opened(specs, tools) as (digits, evil, refuse):
        assert [digits.name, evil.name, refuse.name] == ["regex", "regex-2", "regex-3"]
        said = digits.verify([Group("p", ("12", "12a"))])[0]
        assert [verdict.outcome for verdict in said] == ["accepted", "rejected"]
        said = evil.verify([Group("p", ("aab", "a" * 60, "ab"))])[0]
        assert [verdict.outcome for verdict in said] == ["accepted", "timed out", "accepted"]
        said = refuse.verify([Group("p", ("so bad", "good"))])[0]
        assert [verdict.outcome for verdict in said] == ["rejected", "accepted"]


def test_json_schema(tools: Tools, tmp_path: Path) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer", "minimum": 1}}}
    with opened([JsonSchemaVerifier(schema=schema)], tools) as (verifier,):  # type: ignore[call-arg]
        fenced = 'Here it is:\n```json\n{"n": 3}\n```'
        said = verifier.verify([Group("p", ('{"n": 1}', fenced, '{"n": 0}', "{n: 1}", "[" * 20_000))])[0]
    assert [verdict.outcome for verdict in said[:4]] == ["accepted", "accepted", "rejected", "rejected"]
    assert "$.n" in said[2].reason
    assert not said[4].accepted
    with (
        pytest.raises(UserError, match="not a JSON Schema"),
        opened([JsonSchemaVerifier(schema={"type": 3})], tools),  # type: ignore[call-arg]
    ):
        pass


def test_a_check_from_a_file_and_a_file_that_is_not_there(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("def check(p, r, ref):\n    return len(r) < 3\n")
    with opened([PythonVerifier(file=str(tmp_path / "c.py"))], tools) as (verifier,):  # type: ignore[call-arg]
        assert [v.outcome for v in verifier.verify([Group("p", ("ab", "abc"))])[0]] == ["accepted", "rejected"]
    with (
        pytest.raises(UserError, match="no file"),
        opened([PythonVerifier(file=str(tmp_path / "none.py"))], tools),  # type: ignore[call-arg]
    ):
        pass


def test_the_audit_hook_alone_holds_where_there_are_no_namespaces() -> None:
    settings = {"kind": "python", "code": RUNS_THE_RESPONSE, "file": "c.py", "namespaces": False, **LIMITS}
    verifier = Sandboxed("python", settings)
    base = Path(verifier._base)
    assert verifier.held["network"] == "audit hook"
    rows = ("open('a', 'w').write('x')", "open('/tmp/evil', 'w')", "import socket; socket.socket()", "while 1: pass")
    said = [verdict.outcome for verdict in ask(verifier, *rows)]
    verifier.close()
    assert said == ["accepted", "crashed", "crashed", "timed out"]
    assert not base.exists()
