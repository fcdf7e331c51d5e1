"""A filter of system calls for a process that runs code from elsewhere: an allow-list in classic BPF.

What is not on the list fails with EPERM, so that code sees a `PermissionError`; calls by another ABI (i386, x32) end
the process, since their numbers mean other calls. The numbers are those of the kernel's own tables.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000  # SECCOMP_RET_*
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _NOT_BELOW, _AND, _RETURN = 0x20, 0x15, 0x35, 0x54, 0x06  # BPF_LD|W|ABS, JMP|JEQ|K, JGE, ALU|AND|K, RET
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000
_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""platform.machine() -> AUDIT_ARCH_*, column of the tables."""

# name: (x86_64, aarch64); None where an architecture has no such call.
_ALWAYS: dict[str, tuple[int | None, int | None]] = {
    # memory
    "brk": (12, 214), "mmap": (9, 222), "munmap": (11, 215), "mremap": (25, 216), "mprotect": (10, 226),
    "madvise": (28, 233), "membarrier": (324, 283),
    # descriptors that are open already
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "pwrite64": (18, 68), "preadv": (295, 69), "pwritev": (296, 70), "lseek": (8, 62), "close": (3, 57),
    "close_range": (436, 436), "fstat": (5, 80), "ftruncate": (77, 46), "fsync": (74, 82), "fdatasync": (75, 83),
    "fallocate": (285, 47), "getdents": (78, None), "getdents64": (217, 61),
    "fadvise64": (221, 223), "sendfile": (40, 71), "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24),
    "pipe": (22, None), "pipe2": (293, 59), "eventfd2": (290, 19), "poll": (7, None), "ppoll": (271, 73),
    "select": (23, None), "pselect6": (270, 72), "epoll_create": (213, None), "epoll_create1": (291, 20),
    "epoll_ctl": (233, 21), "epoll_wait": (232, None), "epoll_pwait": (281, 22),
    # a pair of sockets, which asyncio wakes itself with
    "recvfrom": (45, 207), "shutdown": (48, 210), "getsockname": (51, 204), "getpeername": (52, 205),
    "getsockopt": (55, 209),
    # its own signals and clocks
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigsuspend": (130, 133),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "sigaltstack": (131, 132), "alarm": (37, None),
    "setitimer": (38, 103), "getitimer": (36, 102), "pause": (34, None), "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115), "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169),
    "time": (201, None), "times": (100, 153), "restart_syscall": (219, 128),
    # facts about itself
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, None), "getpgid": (121, 155), "getsid": (124, 156), "uname": (63, 160),
    "getrlimit": (97, 163), "getrusage": (98, 165), "sysinfo": (99, 179), "getcpu": (309, 168), "umask": (95, 166),
    "sched_getaffinity": (204, 123), "getrandom": (318, 278),
    # threads, and the end
    "sched_yield": (24, 124), "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96),
    "rseq": (334, 293), "arch_prctl": (158, None), "wait4": (61, 260), "waitid": (247, 95), "exit": (60, 93),
    "exit_group": (231, 94),
}  # fmt: skip

_PATHS: dict[str, tuple[int | None, int | None]] = {
    "open": (2, None), "openat": (257, 56), "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, None), "faccessat": (269, 48), "faccessat2": (439, 439),
    "readlink": (89, None), "readlinkat": (267, 78), "getcwd": (79, 17), "chdir": (80, 49), "fchdir": (81, 50),
    "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "symlink": (88, None),
    "symlinkat": (266, 36), "link": (86, None), "linkat": (265, 37), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "utimensat": (280, 88), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "truncate": (76, 45), "statfs": (137, 43), "fstatfs": (138, 44),
}  # fmt: skip
"""Calls that name a file: only where a mount namespace holds what there is to name."""

_ABSENT: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435), "openat2": (437, 437), "statx": (332, 291), "faccessat2": (439, 439),
}  # fmt: skip
"""Answered with ENOSYS, so that libc takes the older call, whose arguments a filter can see."""

_VM, _SIGHAND, _THREAD = 0x100, 0x800, 0x10000
_NEW_NAMESPACE = 0x7E020080  # every CLONE_NEW*
_F_COMMANDS = (0, 1, 2, 3, 4, 1030)  # DUPFD, GETFD, SETFD, GETFL, SETFL, DUPFD_CLOEXEC: no lock on a shared file
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
_NAMES = (15, 16)  # PR_SET_NAME, PR_GET_NAME

Condition = tuple[int, int, int, int]
"""argument, mask, value that its low 32 bits must have under the mask, value that its high 32 bits must have or -1."""


def _conditional(pid: int) -> dict[str, tuple[tuple[int | None, int | None], list[list[Condition]]]]:
    """Calls whose arguments decide: name -> numbers, alternatives of which all conditions must hold.

    The kernel reads commands, flags and process ids as 32 bits, so their high half does not count.
    """

    def one_of(argument: int, values: Iterable[int]) -> list[list[Condition]]:
        return [[(argument, 0xFFFFFFFF, value, -1)] for value in values]

    thread = _VM | _SIGHAND | _THREAD
    return {
        "clone": ((56, 220), [[(0, thread | _NEW_NAMESPACE, thread, -1)]]),
        "fcntl": ((72, 25), one_of(1, _F_COMMANDS)),
        "ioctl": ((16, 29), one_of(1, _IOCTLS)),
        "prctl": ((157, 167), one_of(0, _NAMES)),
        "prlimit64": ((302, 261), one_of(0, (0,))),
        "setrlimit": ((160, 164), [[]]),
        "kill": ((62, 129), one_of(0, (pid,))),
        "tgkill": ((234, 131), one_of(0, (pid,))),
        # AF_UNIX and SOCK_STREAM: a stream takes no address, so nothing can be sent to another socket.
        "socketpair": ((53, 199), [[(0, 0xFFFFFFFF, 1, -1), (1, 0xF, 1, -1)]]),
        "sendto": ((44, 206), [[(4, 0xFFFFFFFF, 0, 0)]]),
    }


def program(machine: str, pid: int, *, paths: bool) -> bytes:
    """The filter as an array of `struct sock_filter`.

    Args:
        machine: as `platform.machine()`.
        pid: of the process that will be held: it may signal itself.
        paths: whether calls that name a file are allowed.

    Raises:
        OSError: there is no table for this processor.
    """
    if machine not in _ARCHITECTURES:
        raise OSError(f"no filter of system calls for a {machine} processor (x86_64 and aarch64 have one)")
    arch, column = _ARCHITECTURES[machine]
    code = [_op(_LOAD, _ARCH), _op(_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _NUMBER)]
    if machine == "x86_64":
        code += [_op(_NOT_BELOW, _X32_BIT, 0, 1), _op(_RETURN, _KILL)]
    plain = {**_ALWAYS, **(_PATHS if paths else {})}
    for name, numbers in plain.items():
        if name not in _ABSENT and numbers[column] is not None:
            code += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, _ALLOW)]
    for numbers in _ABSENT.values():
        code += [_op(_EQUAL, numbers[column], 0, 1), _op(_RETURN, _ERRNO | _ENOSYS)]
    for numbers, alternatives in _conditional(pid).values():
        block = [part for conditions in alternatives for part in _alternative(conditions)]
        block.append(_op(_RETURN, _ERRNO | _EPERM))
        code += [_op(_EQUAL, numbers[column], 0, len(block)), *block]
    code.append(_op(_RETURN, _ERRNO | _EPERM))
    return b"".join(code)


def hold(pid: int, *, paths: bool) -> None:
    """Put this thread, and what it starts, under the filter for good. Needs no_new_privs.

    Raises:
        OSError: the kernel takes no filter, or there is no table for this processor.
    """
    install(program(platform.machine(), pid, paths=paths))


def install(code: bytes) -> None:
    """Put a BPF program in force.

    Raises:
        OSError: the kernel does not take it.
    """

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    held = Program(len(code) // 8, code)
    if libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(held), 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the kernel takes no filter of system calls ({os.strerror(number)})")


def _alternative(conditions: list[Condition]) -> list[bytes]:
    """Allow where every condition holds, else fall through to what follows."""
    tests: list[tuple[int, int, int]] = []
    for argument, mask, low, high in conditions:
        tests.append((_ARGUMENTS + 8 * argument, mask, low))
        if high >= 0:
            tests.append((_ARGUMENTS + 8 * argument + 4, 0xFFFFFFFF, high))
    code: list[bytes] = []
    for place, (offset, mask, value) in enumerate(tests):
        rest = 3 * (len(tests) - place - 1) + 1  # instructions up to the end of this alternative
        code += [_op(_LOAD, offset), _op(_AND, mask), _op(_EQUAL, value, 0, rest)]
    return [*code, _op(_RETURN, _ALLOW)]


def _op(code: int, value: int | None, true: int = 0, false: int = 0) -> bytes:
    assert value is not None
    return struct.pack("=HBBI", code, true, false, value & 0xFFFFFFFF)
