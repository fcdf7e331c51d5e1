"""What the kernel holds a check with: namespaces, capabilities, limits, a filter of system calls. Nothing in Python."""

from __future__ import annotations

import ctypes
import glob
import os
import sys
from typing import Any

from . import seccomp

try:
    import resource
except ImportError:  # Windows, where no check runs
    resource = None  # type: ignore[assignment]

SCRATCH = "/scratch"
"""Where a check may write, inside."""

_NEWNS, _NEWCGROUP, _NEWUTS, _NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
_NEWUSER, _NEWPID, _NEWNET = 0x10000000, 0x20000000, 0x40000000
_ALL = _NEWUSER | _NEWNS | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS | _NEWCGROUP
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 0x1000, 0x4000, 0x40000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _RDONLY, _NOSUID = 442, -100, 0x8000, 1, 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MNT_DETACH = 2
_SIGKILL = 9
_SET_PDEATHSIG, _SET_DUMPABLE, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS = 1, 4, 23, 24, 38
_CAP_AMBIENT, _AMBIENT_CLEAR = 47, 4
_CAPABILITY_V3 = 0x20080522
_NOBODY = 65534
_FILES = 64  # open at once
_TASKS = 64  # threads of the user inside

# Seen inside, read-only, where they exist: what the interpreter and its extension modules load.
_SHARED = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/share/zoneinfo")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")


def libc() -> Any:
    """The C library of this process."""
    return ctypes.CDLL(None, use_errno=True)


def separate(base: str) -> dict[str, str]:
    """Enter namespaces of every kind; the file system is then what Python loads, read-only. The next child is PID 1.

    Args:
        base: an empty directory, the root of the new file system.

    Returns:
        what holds `network`, `files` and `processes`, in words.

    Raises:
        OSError: the kernel does not allow them; then nothing that this process did counts as a wall.
    """
    user, group = os.geteuid(), os.getegid()
    _must(libc().unshare(_ALL), "namespaces")
    for name, text in (("setgroups", "deny"), ("uid_map", f"{_NOBODY} {user} 1"), ("gid_map", f"{_NOBODY} {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)
    _must(libc().sethostname(b"check", 5), "a host name")
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _build_root(base)
    os.chdir(base)
    _must(libc().syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _must(libc().umount2(b".", _MNT_DETACH), "umount")
    os.chdir("/")
    attributes = (ctypes.c_uint64 * 4)(_RDONLY | _NOSUID, 0, 0, 0)
    arguments = (_MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32)
    _must(libc().syscall(*arguments), "read-only mounts")
    return {
        "network": "network namespace and system-call filter",
        "files": "a root of its own, read-only, and a tmpfs to write in",
        "processes": "PID namespace and system-call filter",
    }


def own_scratch(file_mb: int) -> None:
    """A tmpfs over SCRATCH that this process and its children alone see; it goes with the last of them."""
    _must(libc().unshare(_NEWNS), "a mount namespace")
    options = f"size={file_mb}m,mode=0700,nr_inodes=4096"
    _mount("tmpfs", SCRATCH, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)
    os.chdir(SCRATCH)


def die_with_parent() -> None:
    """The kernel kills this process when its parent ends."""
    libc().prctl(_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)


def give_up(memory_mb: int, file_mb: int, cpu_s: float, namespaces: bool) -> None:
    """Limits, no capability, no way to gain one, and the filter. For good: after this, code from elsewhere may run.

    Args:
        memory_mb: address space. file_mb: size of a file. cpu_s: processor time.
        namespaces: whether `separate` holds the files; where not, no call that names a file is allowed.

    Raises:
        OSError: something is not given up.
    """
    _limit(memory_mb, file_mb, cpu_s, namespaces)
    if os.getuid() == 0:  # without namespaces, of a user who is root
        os.setgroups([])
        os.setresgid(_NOBODY, _NOBODY, _NOBODY)
        os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    call = libc()
    die_with_parent()  # again: a change of user clears it
    call.prctl(_SET_DUMPABLE, 0, 0, 0, 0)
    call.prctl(_CAP_AMBIENT, _AMBIENT_CLEAR, 0, 0, 0)
    number = 0
    while call.prctl(_CAPBSET_DROP, number, 0, 0, 0) == 0:
        number += 1
    if namespaces and any(call.prctl(_CAPBSET_READ, each, 0, 0, 0) == 1 for each in range(64)):
        raise OSError("the bounding set is not empty")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_V3, 0)
    _must(call.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())), "giving up capabilities")
    held = (ctypes.c_uint32 * 6)()
    _must(call.capget(ctypes.byref(header), ctypes.byref(held)), "reading capabilities")
    if any(held):
        raise OSError("capabilities are left")
    _must(call.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    seccomp.hold(os.getpid(), paths=namespaces)


def _limit(memory_mb: int, file_mb: int, cpu_s: float, namespaces: bool) -> None:
    limits = [
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, file_mb << 20),
        (resource.RLIMIT_NOFILE, _FILES),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_CPU, int(cpu_s) + 1),
        (resource.RLIMIT_MEMLOCK, 0),
    ]
    if namespaces:  # else it would count every process of the user
        limits.append((resource.RLIMIT_NPROC, _TASKS))
    for which, value in limits:
        resource.setrlimit(which, (value, value))


# --- the root of the file system ------------------------------------------------


def _build_root(base: str) -> None:
    """A tmpfs with what the interpreter loads, by its usual paths."""
    _mount("tmpfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    os.mkdir(base + SCRATCH, 0o700)
    for path in (*_SHARED, *_library_paths()):
        _show(path, base)
    for path in _DEVICES:
        os.makedirs(os.path.dirname(base + path), exist_ok=True)
        with open(base + path, "w"):
            pass
        _mount(path, base + path, None, _MS_BIND)


def _library_paths() -> list[str]:
    """The standard library, and the shared libraries beside it."""
    return [os.path.dirname(os.__file__), *sys.path, *glob.glob(os.path.join(sys.base_prefix, "lib", "*.so*"))]


def _show(path: str, base: str) -> None:
    """`path` at its place under `base`, without the packages that are installed beside the standard library."""
    inside = base + path
    if os.path.lexists(inside) or not os.path.exists(path):
        return
    os.makedirs(os.path.dirname(inside), exist_ok=True)
    if os.path.islink(path):  # /lib -> usr/lib
        os.symlink(os.readlink(path), inside)
        return
    if os.path.isdir(path):
        os.mkdir(inside)
    else:
        with open(inside, "w"):
            pass
    _mount(path, inside, None, _MS_BIND | _MS_REC)
    for name in ("site-packages", "dist-packages"):
        for packages in (*glob.glob(f"{inside}/{name}"), *glob.glob(f"{inside}/python*/{name}")):
            _mount("tmpfs", packages, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=4k,mode=0555")


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, target, kind, options)]
    _must(libc().mount(names[0], names[1], names[2], flags, names[3]), f"mount on {target}")


def _must(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
