"""What holds a check: Linux namespaces where the kernel allows them, and an audit hook (PEP 578) in any case."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_WANTED = (_NEWUSER | _NEWNET | _NEWNS | _NEWIPC, _NEWUSER | _NEWNET, _NEWNET | _NEWNS | _NEWIPC, _NEWNET)
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_PR_SET_PDEATHSIG, _SIGKILL = 1, 9


@dataclass(frozen=True)
class Walls:
    """What this process is cut off by.

    Attributes:
        held: what holds `network`, `files` and `processes`, in words.
        pid_namespace: whether a check's process may be the first of a PID namespace.
    """

    held: dict[str, str]
    pid_namespace: bool = False
    libc: Any = None

    def enter_pid_namespace(self) -> None:
        """The next child of this process is the first of a new PID namespace: when it ends, all in it end."""
        if self.libc.unshare(_NEWPID) != 0:
            raise OSError("no PID namespace")

    def die_with_parent(self) -> None:
        """The kernel kills this process when its parent ends."""
        self.libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL)


def cut_off(base: str, file_mb: int, namespaces: bool = True) -> Walls:
    """Enter namespaces as far as the kernel allows.

    Args:
        base: the directory that stays writable; with namespaces a tmpfs of `file_mb` MB is mounted there.
        namespaces: False does without them, as where the kernel allows none.
    """
    held = {"network": "audit hook", "files": "audit hook", "processes": "process group and audit hook"}
    if not namespaces or not sys.platform.startswith("linux"):
        return Walls(held)
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    entered = next((flags for flags in _WANTED if libc.unshare(flags) == 0), 0)
    if entered & _NEWUSER:
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with contextlib.suppress(OSError), open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    if entered & _NEWNET:
        held["network"] = "network namespace"
    if entered & _NEWNS and _read_only(libc, base, file_mb):
        held["files"] = "read-only mounts, and a tmpfs to write in"
    # Asked in a child, since the answer changes the process that asks.
    probe = os.fork()
    if probe == 0:
        os._exit(int(libc.unshare(_NEWPID) != 0))
    allowed = os.waitpid(probe, 0)[1] == 0
    if allowed:
        held["processes"] = "PID namespace and audit hook"
    for name in [name for name in sys.modules if name.split(".")[0] in ("ctypes", "_ctypes")]:
        del sys.modules[name]  # so that a check's own import is seen by the hook
    return Walls(held, allowed, libc)


def _read_only(libc: Any, base: str, file_mb: int) -> bool:
    """Every mount read-only, in this process's own view; then a tmpfs over `base`."""
    import ctypes

    if libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    options = f"size={file_mb}m,mode=0700,nr_inodes=4096".encode()
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY, 0, 0, 0)
    if libc.mount(b"tmpfs", os.fsencode(base), b"tmpfs", _MS_NOSUID | _MS_NODEV, options) != 0:
        return False
    locked = libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32)
    writable = (ctypes.c_uint64 * 4)(0, _ATTR_RDONLY, 0, 0)
    opened = libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(base), 0, ctypes.byref(writable), 32)
    return bool(locked == 0 and opened == 0)


# --- the audit hook -------------------------------------------------------------

_REFUSED = {
    "os.fork", "os.forkpty", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "os.startfile", "os.kill",
    "os.killpg", "os.chroot", "os.setxattr", "os.removexattr", "subprocess.Popen", "pty.spawn", "signal.pthread_kill",
    "syslog.openlog", "syslog.syslog", "code.__new__", "sys.addaudithook", "sqlite3.load_extension",
}  # fmt: skip
_MODULES = {"ctypes", "_ctypes", "cffi", "_cffi_backend", "_posixsubprocess", "_multiprocessing"}
# Events whose first arguments are paths that they change; the number says how many.
_CHANGING = {
    "os.remove": 1, "os.rename": 2, "os.mkdir": 1, "os.rmdir": 1, "os.chmod": 1, "os.chown": 1, "os.link": 2,
    "os.symlink": 2, "os.truncate": 1, "os.utime": 1, "os.lockf": 1, "shutil.rmtree": 1, "shutil.move": 2,
}  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
_SHARED = ("/usr/lib", "/usr/share/zoneinfo", "/lib", "/lib64", "/etc/localtime", "/proc/self", "/proc/cpuinfo",
           "/proc/meminfo", "/sys/devices/system/cpu")  # fmt: skip


def audit_hook(place: str) -> Callable[[str, tuple[Any, ...]], None]:
    """A hook that leaves a check its own directory, Python's own files to read, and nothing else.

    Args:
        place: the directory in which the check may write.
    """
    own = _real(place)
    readable = [_real(path) for path in {sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path} if path]
    readable += [_real(path) for path in _SHARED]

    def inside(path: object, places: list[str]) -> bool:
        if isinstance(path, int):  # a descriptor that was opened under these rules, or 0, 1, 2
            return True
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        real = _real(path)
        return any(real == place or real.startswith(place + os.sep) for place in places)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, flags = args[0], args[2]
            writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
            allowed = [own, *_DEVICES] if writes else [own, *_DEVICES, *readable]
            if not inside(path, allowed):
                raise PermissionError(f"a check may not {'write' if writes else 'read'} {os.fspath(path)!r}")
        elif event.startswith("socket.") or event in _REFUSED:
            raise PermissionError(f"a check may not use {event}")
        elif event == "import" and args[0].split(".")[0] in _MODULES:
            raise ImportError(f"a check may not import {args[0]}")
        elif event in _CHANGING:
            for path in args[: _CHANGING[event]]:
                if not inside(path, [own]):
                    raise PermissionError(f"a check may not use {event} on {path!r}")

    return hook


def _real(path: str | bytes | os.PathLike[Any]) -> str:
    return os.path.realpath(os.fsdecode(Path(os.fsdecode(path)) if not isinstance(path, bytes) else path))
