"""Checks in processes of their own: what they may use, and that a crash, a hang or a greedy one costs its row only."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.recipe.verifiers import JsonSchemaVerifier, PythonVerifier, RegexVerifier
from distill2edge.util.progress import SilentProgress
from distill2edge.verifiers import sandbox
from distill2edge.verifiers.registry import Tools, opened
from distill2edge.verifiers.sandbox import Sandboxed, python_check
from distill2edge.verifiers.verifier import Group, Verdict

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
        ("import os; os.abort()", "crashed", "killed by SIGABRT"),
        ("while True: pass", "timed out", "no verdict after 1 s"),
        ("import time; time.sleep(60)", "timed out", "no verdict"),
        ("x = ' ' * (1 << 30)", "out of memory", "256 MB"),
        ("open('a', 'w').write('x'); assert open('a').read() == 'x'", "accepted", ""),
        ("open('a', 'w').write('x' * (3 << 20))", "crashed", "OSError"),
        ("import os; assert os.system('true') != 0", "accepted", ""),
        ("import subprocess; subprocess.run(['true'])", "crashed", "not permitted"),
        ("import os; os.fork()", "crashed", "not permitted"),
        ("import os; os.kill(os.getppid(), 9)", "crashed", "not permitted"),
        ("open('/etc/passwd').read()", "crashed", "No such file"),
        ("import os; os.remove('/etc/hostname')", "crashed", "No such file"),
        ("import urllib.request as u; u.urlopen('http://127.0.0.1')", "crashed", "not permitted"),
        ("import distill2edge", "crashed", "ModuleNotFoundError"),
        ("import numpy", "crashed", "ModuleNotFoundError"),
        ("import asyncio; assert asyncio.run(asyncio.sleep(0, 3)) == 3", "accepted", ""),
        ("import threading as t; w = t.Thread(target=print); w.start(); w.join()", "accepted", ""),
    ],
)
def test_what_a_check_may_do(runner: Sandboxed, code: str, outcome: str, reason: str) -> None:
    start = time.monotonic()
    verdict = ask(runner, code)[0]
    assert (verdict.outcome, verdict.accepted) == (outcome, outcome == "accepted"), verdict
    assert reason in verdict.reason
    assert time.monotonic() - start < 10


def one(code: str, response: str, reference: str = "") -> Verdict:
    verifier = python_check("python", code, "check.py", LIMITS, "here")
    said = verifier.verify([Group("p", (response,), reference)])[0][0]
    verifier.close()
    return said


COMPARES = """
def check(prompt, response, reference):
    space = {'n': 3}
    exec(response, space)
    items = [3, 1, 2]
    space['sort'](items)
    stack = space['Stack']()
    stack.push(7)
    return items == [1, 2, 3] and space['y'] == 9 and stack.pop() == 7 and list(space['count']()) == [0, 1]
"""
RIGHT = """
y = n * n
def sort(items):
    items.sort()
class Stack(list):
    def push(self, value):
        self.append(value)
def count():
    yield from range(2)
"""


@pytest.mark.parametrize(
    ("code", "response", "reference", "outcome"),
    [
        (COMPARES, RIGHT, "", "crashed"),  # a kind of list is data: it comes back as a list, without `push`
        (
            COMPARES,
            RIGHT.replace("(list)", "").replace("self.append(value)", "self.pop = lambda: value"),
            "",
            "accepted",
        ),
        ("def check(p, r, ref):\n    return eval(r) == 7", "3 + 4", "", "accepted"),
        ("def check(p, r, ref):\n    return eval(r, {'__builtins__': {}, 'x': 3}) == 7", "x + 4", "", "accepted"),
        ("def check(p, r, ref):\n    exec(r)\n    return locals()['z'] == 3", "z = 3", "", "accepted"),
        ("def check(p, r, ref):\n    exec(r)\n    return locals()['z'] == 3", "z = len(ref)", "abc", "crashed"),
        (
            "def check(p, r, ref):\n    exec(r)\n    return True",
            "import gc; assert ref",
            "x; import gc; assert ref",
            "crashed",
        ),
        ("def check(p, r, ref):\n    exec(r, {'f': check})\n    return True", "x = 1", "", "crashed"),
    ],
)
def test_what_a_check_executes_runs_elsewhere_and_comes_back_as_data(
    code: str, response: str, reference: str, outcome: str
) -> None:
    said = one(code, response, reference)
    assert said.outcome == outcome, said


TESTS = "def check(p, r, ref):\n    space = {}\n    exec(r, space)\n    exec(ref, space)\n    return True"
PRINTS = """
import contextlib, io
def check(prompt, response, reference):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(response)
    return printed.getvalue() == reference
"""


def test_tests_in_the_reference_are_out_of_the_response_s_reach() -> None:
    tests = "assert f(2) == 4\nassert f(3) == 9"
    assert one(TESTS, "def f(x):\n    return x * x", tests).outcome == "accepted"
    assert one(TESTS, "def f(x):\n    return x + 2", tests).outcome == "rejected"
    same = "class Same(int):\n    def __eq__(self, other):\n        return True\nf = lambda x: Same(5)"
    assert one(TESTS, same, tests).outcome == "rejected"
    assert one(PRINTS, "print('hi')", "hi\n").outcome == "accepted"


SQUARE, WRONG = "def f(x):\n    return x * x", "def f(x):\n    return x + 2"
SWALLOWS = ("x = '''", "if 0: \\", "import os\nos._exit(0)", "raise SystemExit(0)")


@pytest.mark.parametrize(
    "put_together",
    [
        "r + '\\n' + ref",
        "p + r + '\\n' + ref",
        "f'import math\\n{r.strip()}\\n{ref}'",
        "compile(r + '\\n' + ref, 'a', 'exec')",
    ],
)
def test_tests_behind_a_response_in_one_text_are_out_of_its_reach(put_together: str) -> None:
    code = f"def check(p, r, ref):\n    exec({put_together}, {{}})\n    return True"
    tests = "def check(f):\n    assert f(2) == 4\n    assert len([f(3)]) == 1\ncheck(f)"
    verifier = python_check("python", code, "check.py", LIMITS, "here")
    hides = f"{WRONG}\nlen = check = lambda *a: True"
    rows = (
        SQUARE,
        WRONG.replace("2", "1"),
        hides.replace("2", "3"),
        *(f"{WRONG}\n{swallows}" for swallows in SWALLOWS),
    )
    said = verifier.verify([Group("import math\n", rows, tests)])[0]
    verifier.close()
    assert [verdict.accepted for verdict in said] == [True] + [False] * (len(rows) - 1), said


def test_tests_that_a_check_makes_itself_are_out_of_reach_too() -> None:
    code = """
import re
def check(p, r, ref):
    code = re.search(r'```(?:python)?\\n(.*?)```', r, re.S)[1].strip()
    tests = '\\n'.join(f'assert f({n}) == {n * n}' for n in (2, 3))
    exec(code + '\\n' + tests, {})
    return True
"""
    same = "class Same(int):\n    __eq__ = lambda self, other: True\nf = lambda x: Same(5)\nimport sys"
    for text, outcome in ((SQUARE, "accepted"), (WRONG, "rejected"), (same, "rejected")):
        assert one(code, f"Here it is:\n```python\n{text}\n```\nDone.").outcome == outcome


@pytest.mark.parametrize(
    ("code", "response", "outcome"),
    [
        ("exec('x = (' + r + ')')\n    return locals()['x'] == 7", "3 + 4", "accepted"),
        ("exec('def w():\\n    ' + r + '\\nresult = w()')\n    return locals()['result'] == 7", "return 7", "accepted"),
        ("return eval(compile(r, 'a', 'eval')) == 7", "3 + 4", "accepted"),
        ("compile(r, 'a', 'exec')\n    return True", "3 +", "crashed"),
        ("return compile(r, 'a', 'exec').co_names == ('len',)", "len([])", "accepted"),
    ],
)
def test_text_around_a_response(code: str, response: str, outcome: str) -> None:
    assert one(f"def check(p, r, ref):\n    {code}", response).outcome == outcome


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


def test_nothing_lives_on_when_the_product_is_killed() -> None:
    code = f"""
import sys
from distill2edge.verifiers.verifier import Group
from distill2edge.verifiers.sandbox import python_check
verifier = python_check('python', {RUNS_THE_RESPONSE!r}, 'c.py', {{**{LIMITS!r}, 'seconds': 60.0}}, 'here')
print(verifier._process.pid, flush=True)
verifier.verify([Group('p', ('while True: pass',), '')])
"""
    product = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert product.stdout is not None
    guard = psutil.Process(int(product.stdout.readline()))
    deadline = time.monotonic() + 20
    while len(family := [guard, *guard.children(recursive=True)]) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)  # the guard, the zygote, the check, the answer
    assert len(family) == 4
    product.kill()
    product.communicate()
    assert psutil.wait_procs(family, timeout=10)[1] == []


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
    for wrong, message in (
        ({"type": 3}, "not a JSON Schema"),
        ({"$schema": []}, "not a JSON Schema"),
        ({"$ref": "#"}, "not a JSON Schema"),
        ({"$ref": "#/$defs/x"}, "leads nowhere"),
    ):
        with pytest.raises(UserError, match=message), opened([JsonSchemaVerifier(schema=wrong)], tools):  # type: ignore[call-arg]
            pass


def test_a_schema_asks_no_network(tools: Tools) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        schema = {"$ref": f"http://127.0.0.1:{server.getsockname()[1]}/x.json"}
        with pytest.raises(UserError, match="leads nowhere"), opened([JsonSchemaVerifier(schema=schema)], tools):  # type: ignore[call-arg]
            pass
        with pytest.raises(BlockingIOError):
            server.accept()


def test_a_check_from_a_file_and_a_file_that_is_not_there(tools: Tools, tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text("def check(p, r, ref):\n    return len(r) < 3\n")
    with opened([PythonVerifier(file=str(tmp_path / "c.py"))], tools) as (verifier,):  # type: ignore[call-arg]
        assert [v.outcome for v in verifier.verify([Group("p", ("ab", "abc"))])[0]] == ["accepted", "rejected"]
    with (
        pytest.raises(UserError, match="no file"),
        opened([PythonVerifier(file=str(tmp_path / "none.py"))], tools),  # type: ignore[call-arg]
    ):
        pass


NO_NAMESPACES = """
import sys
sys.path.insert(0, {package!r})
import platform
from jail import seccomp, walls
unshare = {{"x86_64": 272, "aarch64": 97}}[platform.machine()]
code = [seccomp._op(seccomp._LOAD, 0), seccomp._op(seccomp._EQUAL, unshare, 0, 1),
        seccomp._op(seccomp._RETURN, seccomp._ERRNO | 1), seccomp._op(seccomp._RETURN, seccomp._ALLOW)]
walls.libc().prctl(38, 1, 0, 0, 0)
seccomp.install(b"".join(code))
import os
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
RECIPE = """
name: checked
teacher: {model: bundled:smollm2-135m-instruct}
data: {source: bundled:movie-sentiment, prompt: "{{ text }}", response: "{{ score }}", splits: {train: 8}}
signal: {kind: text, verify: [{kind: python, code: "def check(p, r, ref): return True"}]}
student: {init: {from: teacher, layers: 2}}
distill: {loss: {ce: 1.0}}
export: [gguf:Q8_0]
"""


def without_namespaces(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python under a kernel that refuses `unshare`."""
    package = str(Path(sandbox.__file__).parent)
    first = [sys.executable, "-c", NO_NAMESPACES.format(package=package)]
    return subprocess.run([*first, *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("command", [["recipe", "check"], ["plan"], ["run"], ["signal"], ["data", "prepare"]])
def test_where_no_namespaces_are_allowed_python_checks_are_refused_before_anything_runs(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    program = ["-m", "distill2edge", *command, str(tmp_path / "r.yaml")]
    done = without_namespaces(*program)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
    assert "the kernel allows no namespaces here" in done.stderr
    assert "--accept-weak-sandbox" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_user_s_own_command_line_may_accept_that_and_no_recipe_can(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    check = ["-m", "distill2edge", "recipe", "check", str(tmp_path / "r.yaml")]
    done = without_namespaces(*check, "--accept-weak-sandbox")
    assert done.returncode == 0, done.stderr
    for line in ("accept_weak_sandbox: true", "accept-weak-sandbox: true"):
        (tmp_path / "r.yaml").write_text(RECIPE + line)
        done = without_namespaces(*check)
        assert done.returncode == 2
        assert "accept" in done.stderr


def test_without_namespaces_the_filter_alone_holds_once_it_is_accepted() -> None:
    settings = {"kind": "python", "code": RUNS_THE_RESPONSE, "file": "c.py", "namespaces": False, **LIMITS}
    with pytest.raises(EnvironmentFault, match="no namespaces"):
        Sandboxed("python", settings)
    token = sandbox.weak_sandbox_accepted.set(True)
    try:
        verifier = Sandboxed("python", settings)
    finally:
        sandbox.weak_sandbox_accepted.reset(token)
    base = Path(verifier._base)
    assert set(verifier.held.values()) == {"system-call filter"}
    rows = ("import re, json, math, collections, itertools", "open('a', 'w')", "open('/etc/passwd')", "while 1: pass")
    said = [verdict.outcome for verdict in ask(verifier, *rows)]
    verifier.close()
    assert said == ["accepted", "crashed", "crashed", "timed out"]
    assert not base.exists()


def test_checks_that_run_no_code_need_no_namespaces(tools: Tools) -> None:
    for settings, right, wrong in (
        ({"kind": "regex", "pattern": "a+", "match": "full", "refuse": False}, "aa", "b"),
        ({"kind": "json-schema", "schema": {"type": "integer", "minimum": 1}}, "3", "0"),
    ):
        verifier = Sandboxed("x", {**settings, "namespaces": False, **LIMITS})
        assert [verdict.outcome for verdict in ask(verifier, right, wrong)] == ["accepted", "rejected"]
        verifier.close()


def test_on_another_system_python_checks_say_that_nothing_holds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox.sys, "platform", "darwin")
    with pytest.raises(EnvironmentFault, match="darwin"):
        python_check("python", RUNS_THE_RESPONSE, "c.py", LIMITS, "here")


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("paths", [True, False])
def test_the_filter_is_a_program_that_ends_in_a_refusal(machine: str, paths: bool) -> None:
    from distill2edge.verifiers.jail import seccomp

    code = list(struct.iter_unpack("=HBBI", seccomp.program(machine, 7, paths=paths)))
    assert len(code) < 4096  # the kernel's limit
    for place, (operation, true, false, _) in enumerate(code):
        if operation in (seccomp._EQUAL, seccomp._NOT_BELOW):
            assert place + 1 + max(true, false) < len(code)
    assert code[-1] == (seccomp._RETURN, 0, 0, seccomp._ERRNO | 1)
    with pytest.raises(OSError, match="riscv64"):
        seccomp.program("riscv64", 7, paths=True)


def test_the_filter_s_numbers_are_the_kernel_s() -> None:
    """Every number against the kernel's own header, where it is installed; what must not be there is not."""
    from distill2edge.verifiers.jail import seccomp

    headers = {0: Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), 1: Path("/usr/include/asm-generic/unistd.h")}
    tables = {**seccomp._ALWAYS, **seccomp._PATHS, **seccomp._ABSENT}
    tables |= {name: numbers for name, (numbers, _) in seccomp._conditional(1).items()}
    if not all(path.exists() for path in headers.values()):
        pytest.skip("no kernel headers")
    for column, path in headers.items():
        known: dict[str, int] = {}
        for found in re.finditer(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", path.read_text()):
            known.setdefault(found[1], int(found[2]))
        known.setdefault("newfstatat", known.get("fstatat", -1))
        for name, numbers in tables.items():
            assert numbers[column] == known.get(name), name
