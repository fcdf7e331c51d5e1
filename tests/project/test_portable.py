"""What a machine that is no POSIX system lacks is not needed to import the package; what can't work there says so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill2edge.errors import EnvironmentFault
from distill2edge.generation.endpoint.journal import Journal
from distill2edge.pipeline.store import Store
from distill2edge.util import files, machine
from distill2edge.verifiers.sandbox import Sandboxed, python_check

# Other people's packages are imported as they are; then what Windows lacks goes, and every module of ours comes again.
IMPORTS = """
import ctypes, importlib, os, pkgutil, signal, sys
import distill2edge

def ours():
    return [name for name in sys.modules if name.split('.')[0] == 'distill2edge']

found = pkgutil.walk_packages(distill2edge.__path__, 'distill2edge.')
names = [module.name for module in found if not module.name.endswith('__main__')]
for name in names:
    importlib.import_module(name)
for name in ours():
    del sys.modules[name]
for name in sys.argv[1].split():
    sys.modules[name] = None
for place, gone in ((os, sys.argv[2]), (signal, sys.argv[3])):
    for name in gone.split():
        delattr(place, name)
def load(name, *rest, **named):
    raise TypeError('no library of the process itself')
ctypes.CDLL = load
sys.platform = 'win32'
for name in names:
    importlib.import_module(name)
print(len(ours()))
"""
MODULES = "resource fcntl pwd grp termios tty pty syslog _posixsubprocess _posixshmem"
OF_OS = """
fork forkpty register_at_fork killpg setsid getuid geteuid getgid getegid setuid setresuid setgroups getpgid getpriority
sched_getaffinity sched_setaffinity sysconf statvfs fstatvfs uname getloadavg mkfifo mknod chown fchmod fchown nice
pread pwrite preadv posix_fallocate posix_fadvise posix_spawn sendfile copy_file_range memfd_create pipe2 wait wait3
O_DIRECTORY O_NOFOLLOW O_CLOEXEC O_NONBLOCK O_SYNC O_PATH WNOHANG WIFEXITED RTLD_GLOBAL setxattr getxattr
"""
OF_SIGNAL = """
SIGKILL SIGHUP SIGALRM SIGXFSZ SIGXCPU SIGUSR1 SIGQUIT SIGCHLD SIGPIPE SIGSTOP SIGCONT SIGTSTP SIGBUS SIGSYS SIGWINCH
alarm setitimer pause pthread_sigmask pthread_kill sigwait
"""


def test_every_module_imports_where_nothing_of_posix_is() -> None:
    command = [sys.executable, "-c", IMPORTS, MODULES, OF_OS, OF_SIGNAL]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[-1]) > 200


def test_a_directory_that_can_not_be_opened_is_not_synced_and_a_store_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_it_was, refused = os.open, []

    def as_on_windows(path: object, *arguments: object, **named: object) -> int:
        if os.path.isdir(path):  # type: ignore[arg-type]
            refused.append(path)
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return as_it_was(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", as_on_windows)

    def write(work: Path) -> dict[str, int]:
        (work / "a").write_text("x")
        return {"n": 1}

    from distill2edge.util.progress import SilentProgress

    store = Store(tmp_path / "store")
    made = store.build("data", "0" * 64, {}, {}, 0, write, SilentProgress())
    assert made.facts == {"n": 1}
    assert refused
    files.write_text(tmp_path / "t", "text")
    assert (tmp_path / "t").read_text() == "text"


def test_a_file_that_can_not_be_flushed_as_it_is_open_is_taken_as_it_is_and_a_broken_disk_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(number: int) -> None:
        monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(number, os.strerror(number))))

    fails(errno.EBADF)
    files.write_text(tmp_path / "t", "text")
    fails(errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        files.write_text(tmp_path / "t", "other")
    assert (tmp_path / "t").read_text() == "text"


def test_peak_memory_where_there_is_no_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    class Windows:
        def memory_info(self) -> object:
            return type("info", (), {"peak_wset": 7})

    monkeypatch.setitem(sys.modules, "resource", None)
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: (_ for _ in ()).throw(FileNotFoundError()))
    monkeypatch.setattr(psutil, "Process", Windows)
    assert machine.peak_rss_bytes() == 7


def test_checks_say_that_they_can_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"seconds": 1.0, "memory_mb": 64, "file_mb": 1, "share": 1}
    monkeypatch.delattr(os, "fork")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EnvironmentFault, match="win32"):
        Sandboxed("regex", {"kind": "regex", "pattern": "a", "match": "full", "refuse": False, **limits})
    with pytest.raises(EnvironmentFault, match="win32"):
        python_check("python", "def check(p, r, ref): return True", "c.py", limits, "here")


def test_the_journal_needs_no_pwrite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pwrite", raising=False)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    for number in range(3):
        journal = Journal(tmp_path, room=1)
        journal.append({"key": str(number), "text": "x"})
        journal.close()
    assert list(Journal(tmp_path, room=1).answers) == ["0", "1", "2"]
