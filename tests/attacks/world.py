"""A place with things to steal, break and reach, and an eye on each: whatever an attack says, the world is looked at.

python -m attacks.world SPEC.json runs attacks as the spec says and prints what got out, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

import distill2edge
from attacks.cases import ATTACKS, PRELUDE
from attacks.forgeries import REFERENCE, forgeries
from distill2edge.verifiers.sandbox import Sandboxed, weak_sandbox_accepted
from distill2edge.verifiers.verifier import Group, Verdict

LIMITS = {"seconds": 1.0, "memory_mb": 256, "file_mb": 4, "share": 1}
LONGEST_S = 20.0  # of one attack, on a busy machine
KEY_NAME = "SOME_API_KEY"
RUNS_THE_RESPONSE = "def check(p, r, ref):\n    exec(r, {})\n    return True\n"
_VICTIM = """
import ctypes, sys
buffer = ctypes.create_string_buffer(b'UNTOUCHED')
print(ctypes.addressof(buffer), flush=True)
for _ in sys.stdin:
    print(buffer.value.decode(), flush=True)
"""
_MOUNT, _PRIVATE, _BIND, _NEWNS = ctypes.CDLL(None).mount, 0x44000, 0x1000, 0x20000


class World:
    """Files, a process, an environment and sockets of the user who runs the product."""

    def __init__(self) -> None:
        self.token = os.environ.setdefault(KEY_NAME, secrets.token_hex(12))
        self.root = Path(tempfile.mkdtemp(prefix="attacked-"))
        self.root.chmod(0o755)
        self.canary = self.root / "canary"
        self.mark = secrets.token_hex(4)
        self.key = int(self.mark, 16) & 0x7FFFFFFF | 1  # of System V objects
        self.heard: list[str] = []
        self._sockets = self._listen()
        self._victim = self._start_victim()
        self._set_up()
        self._machine = self._facts()

    def targets(self) -> dict[str, Any]:
        """What an attack's placeholders stand for."""
        tcp, udp, *_ = self._sockets
        package = Path(distill2edge.__file__).resolve().parent
        return {
            "canary": self.canary, "secret": self.root / "secret", "mark": self.mark, "product": os.getpid(),
            "token": self.token, "key_name": KEY_NAME, "victim": self._victim.pid, "address": self._address,
            "port": tcp.getsockname()[1], "udp": udp.getsockname()[1], "abstract": f"attacked-{self.mark}",
            "unix": self.root / "socket", "key": self.key, "root": package.parent,
            "site": next((path for path in sys.path if path.endswith("site-packages")), ""),
        }  # fmt: skip

    def filled(self, code: str) -> str:
        """An attack with its targets."""
        for name, value in self.targets().items():
            code = code.replace(f"{{{name}}}", str(value))
        return code

    def damage(self, said: str = "") -> list[str]:
        """What is not as it was, or came to be known; the world is as before after it."""
        found = []
        if self.token in said:
            found.append("a secret came out")
        if self._tree() != self._before:
            found.append(f"files were changed: {sorted(set(self._tree()) ^ set(self._before))}")
        strange = [str(path) for place in ("/tmp", "/dev/shm") for path in Path(place).glob(f"ESCAPED-{self.mark}")]
        strange += map(str, Path(os.__file__).parent.glob(f"ESCAPED-{self.mark}"))
        if strange:
            found.append(f"files were made: {strange}")
        for path in strange:
            Path(path).unlink()
        self._listen_once()
        if self.heard:
            found.append(f"somebody called: {self.heard}")
            self.heard = []
        if not self._victim_is_well():
            found.append("another process was touched")
            self._victim.kill()
            self._victim.communicate()
            self._victim = self._start_victim()
        if self._facts() != self._machine:
            found.append("the machine was changed")
            self._machine = self._facts()
        if found:
            self._set_up()
        return found

    def close(self) -> None:
        """Nothing is left."""
        self._victim.kill()
        self._victim.communicate()
        for each in self._sockets:
            each.close()
        shutil.rmtree(self.root)

    def _set_up(self) -> None:
        shutil.rmtree(self.canary, ignore_errors=True)
        self.canary.mkdir()
        self.canary.chmod(0o777)
        (self.canary / "file").write_text("as it was")
        (self.root / "secret").write_text(self.token)
        self._before = self._tree()

    def _tree(self) -> list[Any]:
        found = []
        for path in sorted(self.canary.rglob("*")):
            state = path.lstat()
            text = repr(path.read_bytes()[:9999]) if path.is_file() and not path.is_symlink() else ""
            attributes = os.listxattr(path) if path.is_file() else []
            found.append(
                (str(path), state.st_mode, state.st_size, state.st_mtime_ns, state.st_nlink, text, *attributes)
            )
        return found

    def _listen(self) -> list[socket.socket]:
        tcp = socket.create_server(("127.0.0.1", 0))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        abstract = socket.socket(socket.AF_UNIX)
        abstract.bind(f"\0attacked-{self.mark}")
        abstract.listen()
        datagram = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        datagram.bind(f"\0attacked-{self.mark}-datagram")
        named = socket.socket(socket.AF_UNIX)
        named.bind(str(self.root / "socket"))
        (self.root / "socket").chmod(0o777)
        named.listen()
        for each in (tcp, udp, abstract, datagram, named):
            each.setblocking(False)
        return [tcp, udp, abstract, datagram, named]

    def _listen_once(self) -> None:
        for each in self._sockets:
            try:
                while True:
                    if each.type == socket.SOCK_DGRAM:
                        self.heard.append(f"datagram {each.recv(99)!r}")
                    else:
                        each.accept()[0].close()
                        self.heard.append("connection")
            except BlockingIOError:
                pass

    def _start_victim(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-I", "-S", "-c", _VICTIM]
        victim = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        self._address = int(victim.stdout.readline())
        self._victim_state = self._state_of(victim)
        return victim

    def _victim_is_well(self) -> bool:
        victim = self._victim
        if victim.poll() is not None:
            return False
        assert victim.stdin is not None
        assert victim.stdout is not None
        stopped = psutil.Process(victim.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        if stopped or self._state_of(victim) != self._victim_state:
            return False
        victim.stdin.write("?\n")
        victim.stdin.flush()
        return victim.stdout.readline() == "UNTOUCHED\n"

    @staticmethod
    def _state_of(victim: subprocess.Popen[str]) -> Any:
        process = psutil.Process(victim.pid)
        limits = Path(f"/proc/{victim.pid}/limits").read_text()
        traced = [line for line in Path(f"/proc/{victim.pid}/status").read_text().splitlines() if "TracerPid" in line]
        return process.nice(), process.cpu_affinity(), limits, traced, os.sched_getscheduler(victim.pid)

    def _facts(self) -> Any:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounts = [line for line in lines if line.split()[4] in ("/", "/tmp", "/usr", "/scratch")]
        shared = [f"{self.key} " in Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg")]
        devices = [(os.stat(path).st_mode, os.stat(path).st_uid) for path in ("/dev/null", "/dev/zero", "/dev/urandom")]
        return socket.gethostname(), mounts, devices, os.getpriority(os.PRIO_PROCESS, 0), shared, time.time() > 1e9


# --- attacks in it --------------------------------------------------------------


def run_attacks(world: World, namespaces: bool, fast: bool, names: list[str] | None = None) -> dict[str, Any]:
    """Every attack as a response that a check runs, and as a check. `escapes` is what got out."""
    escapes: list[str] = []
    count, outcomes = 0, {}
    settings = {"kind": "python", "file": "check.py", "namespaces": namespaces, **LIMITS}
    runner = Sandboxed("python", {**settings, "code": RUNS_THE_RESPONSE})
    held = runner.held
    for attack in chosen(fast, names):
        code = world.filled(PRELUDE + attack.code)
        body = "".join(f"    {line}\n" for line in code.splitlines())
        for way, verifier in (
            ("response", runner),
            ("check", Sandboxed("python", {**settings, "code": f"def check(p, r, ref):\n{body}    return True\n"})),
        ):
            said, took = _ask(verifier, code)
            count += 1
            outcomes[f"{attack.name} ({way})"] = f"{said.outcome}: {said.reason}"
            found = ["it says so"] if said.accepted else []
            found += world.damage(said.reason)
            found += _left_behind(verifier)
            if took > LONGEST_S:
                found.append(f"it took {took:.0f} s")
            escapes += [f"{attack.name} ({way}): {each}" for each in found]
            if verifier is not runner:
                base = Path(verifier._base)
                verifier.close()
                if base.exists():
                    escapes.append(f"{attack.name}: {base} is left")
    runner.close()
    return {
        "attempts": count,
        "attacks": len(chosen(fast, names)),
        "escapes": escapes,
        "held": held,
        "outcomes": outcomes,
    }


def run_forgeries(world: World, namespaces: bool, fast: bool) -> dict[str, Any]:
    """Every refused response that would be accepted."""
    escapes, outcomes = [], {}
    found = forgeries()
    if fast:
        found = found[:: max(1, len(found) // 25)]
    verifiers: dict[str, Sandboxed] = {}
    for name, code, response in found:
        if code not in verifiers:
            settings = {"kind": "python", "file": "check.py", "namespaces": namespaces, **LIMITS}
            verifiers[code] = Sandboxed("python", {**settings, "code": code})
        said, _ = _ask(verifiers[code], response)
        outcomes[name] = f"{said.outcome}: {said.reason}"
        faults = ["accepted"] if said.accepted else []
        if not said.reason.isprintable() or len(said.reason) > 200:
            faults.append("control bytes or no end in its reason")
        faults += world.damage(said.reason) + _left_behind(verifiers[code])
        escapes += [f"{name}: {each}" for each in faults]
    for verifier in verifiers.values():
        verifier.close()
    return {"attempts": len(found), "escapes": escapes, "outcomes": outcomes}


def chosen(fast: bool, names: list[str] | None = None) -> list[Any]:
    """The attacks that fit this processor; a fast set holds some of every group."""
    found = [attack for attack in ATTACKS if not attack.native or os.uname().machine == "x86_64"]
    if names is not None:
        return [attack for attack in found if attack.name in names]
    if fast:
        slow = {"no end", "sleep", "greed"}
        found = [attack for attack in found if attack.name.split(":")[0] not in slow][::6]
    return found


def _ask(verifier: Sandboxed, response: str) -> tuple[Verdict, float]:
    start = time.monotonic()
    said = verifier.verify([Group("2", (response,), REFERENCE)])[0][0]
    return said, time.monotonic() - start


def _left_behind(verifier: Sandboxed) -> list[str]:
    """Processes beside the guard and the one that forks."""
    if verifier._process is None:
        return ["the guard is gone"]
    guard = psutil.Process(verifier._process.pid)
    count = len(guard.children(recursive=True))
    return [] if count == 1 else [f"{count - 1} processes are left"]


# --- as another user ------------------------------------------------------------


def become(user: int) -> None:
    """From root to a user without rights, who can still read the interpreter, its packages and this repository."""
    if os.getuid() == user:
        return
    needed = [Path(sys.base_prefix), Path(sys.prefix), Path(distill2edge.__file__).resolve().parents[1], Path.cwd()]
    closed = {path: next((up for up in reversed(path.parents) if not up.stat().st_mode & 1), None) for path in needed}
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(_NEWNS) == 0
    assert libc.mount(None, b"/", None, _PRIVATE, None) == 0
    held = {path: os.open(path, os.O_PATH) for path, up in closed.items() if up is not None}
    for up in {up for up in closed.values() if up is not None}:
        assert libc.mount(b"tmpfs", os.fsencode(up), b"tmpfs", 0, b"mode=0755") == 0
    for path, descriptor in held.items():
        path.mkdir(parents=True, exist_ok=True)
        assert libc.mount(b"/proc/self/fd/%d" % descriptor, os.fsencode(path), None, _BIND, None) == 0
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    os.environ["HOME"] = "/tmp"


def keyed(module: str) -> None:
    """Start this program again with the key in the environment that the kernel shows of a process."""
    if KEY_NAME not in os.environ:
        environment = {**os.environ, KEY_NAME: secrets.token_hex(12)}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)


def main() -> None:
    """Run what the spec asks for: user, namespaces, fast, forge."""
    keyed("attacks.world")
    spec = json.loads(sys.argv[1])
    if os.getuid() == 0:
        become(spec["user"])
    weak_sandbox_accepted.set(not spec["namespaces"])
    world = World()
    try:
        run = run_forgeries if spec.get("forge") else run_attacks
        found = run(world, spec["namespaces"], spec.get("fast", False))
    finally:
        world.close()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
