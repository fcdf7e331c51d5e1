"""The same attacks without the sandbox: which of them get out, so that holding them means something.

python -m attacks.bare prints both, as JSON. As root it runs hostile code as root: on a machine that can be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile

from attacks.cases import DEVICES, GREED, MACHINE, MOUNTS, PRELUDE, SIGNALS_TO_ALL, Attack
from attacks.forgeries import BLIND, OWN, REACHING, REFERENCE
from attacks.world import World, chosen, keyed

# Between the product and the attack, so that an attack on its parent hits this. It also says how the attack ended.
_PARENT = """
import subprocess, sys
sys.exit(0 if subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode == 0 else 3)
"""
_LONGEST_S = 15.0
_ENDLESS = (
    "no end",
    "sleep",
    "a long",
    "a large power",
    "recursion",
    "blocked",
    "a thread",
    "an end",
    "deep",
    "the main",
)
# What would harm the machine is tried with every capability inside namespaces of its own: the other walls are missing.
_CONFINED = ("unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--uts", "--net", "--mount-proc")


def attacks() -> list[Attack]:
    """Those that can be tried: what only never ends is no proof."""
    # What would break the devices of this machine is left out too.
    endless = [attack.name for attack in GREED if attack.name.removeprefix("greed: ").startswith(_ENDLESS)]
    return [attack for attack in chosen(fast=False) if attack.name not in endless and attack not in DEVICES]


def gets_out(world: World, attack: Attack) -> bool:
    """Whether it says so, or the world shows it."""
    confined = attack in (*MOUNTS, *SIGNALS_TO_ALL, *MACHINE)
    command = [*(_CONFINED if confined else ()), sys.executable, "-c", _PARENT, world.filled(PRELUDE + attack.code)]
    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(timeout=_LONGEST_S)
        except subprocess.TimeoutExpired:
            code = -signal.SIGSTOP  # it stopped its parent
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        errors.seek(0)
        said = errors.read()[-20_000:].decode(errors="replace")
    damage = world.damage(said)
    _remove_objects(world)
    return code <= 0 or bool(damage)


def _remove_objects(world: World) -> None:
    """System V objects and a message queue that attacks made outlive them."""
    ctypes.CDLL(None).syscall(241, world.mark.encode())  # mq_unlink
    for kind in ("-M", "-S", "-Q"):
        subprocess.run(["ipcrm", kind, str(world.key)], capture_output=True)


# --- forgeries against a check in one process that writes its verdict itself ------------

_NAIVE = """
import json, os, sys
def f_check(response, reference):
    space = {}
    exec(response, space)
    return space['f'](2) == 4 and bool(exec(reference, space) or True)
channel = os.dup(1)
code, response, reference = json.load(sys.stdin)
try:
    if code is None:
        found = f_check(response, reference)
    else:
        space = {}
        exec(code, space)
        found = space['check']('2', response, reference)
    said = {'outcome': 'accepted' if found else 'rejected'}
except BaseException as error:
    said = {'outcome': 'crashed'}
os.write(channel, json.dumps(said).encode() + b'\\n')
"""


def forgeries() -> list[tuple[str | None, Attack]]:
    """(code of the check, None for one that runs its response; what tries to be accepted)."""
    return [*((None, each) for each in (*BLIND, *REACHING)), *((each.code, each) for each in OWN)]


def is_accepted_naively(code: str | None, attack: Attack) -> bool:
    """Whether a sandbox that believes the first line of a process takes it for accepted."""
    process = subprocess.Popen(
        [sys.executable, "-c", _PARENT, _NAIVE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        written, _ = process.communicate(json.dumps([code, attack.code, REFERENCE]).encode(), timeout=_LONGEST_S)
    except subprocess.TimeoutExpired as late:
        written = late.stdout or b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started, too
        process.wait()
    return _first(written)


def _first(written: bytes) -> bool:
    return any(b'"accepted"' in line and b"outcome" in line for line in written.splitlines()[:3])


def main() -> None:
    """What gets out and what is believed, as JSON."""
    keyed("attacks.bare")
    world = World()
    try:
        held = [attack.name for attack in attacks() if not gets_out(world, attack)]
    finally:
        world.close()
    refused = [attack.name for code, attack in forgeries() if not is_accepted_naively(code, attack)]
    found = {
        "attacks tried": len(attacks()),
        "attacks out": len(attacks()) - len(held),
        "held by this machine alone": held,
        "forgeries tried": len(forgeries()),
        "forgeries believed": len(forgeries()) - len(refused),
        "believed by nobody": refused,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
