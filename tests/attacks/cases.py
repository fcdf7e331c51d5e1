"""Attempts of hostile code to get out of the sandbox. Each reaches its last line only if it believes it is out.

`{name}` stands for what the world has to attack (`world.World.targets`). Numbers of system calls are those of x86_64.
"""

from __future__ import annotations

from dataclasses import dataclass

PRELUDE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), 'system call %d' % number)
    return result
def refused(value):
    if value < 0:
        raise OSError(ctypes.get_errno(), 'libc')
    return value
"""


@dataclass(frozen=True)
class Attack:
    """One attempt.

    Attributes:
        name: unique.
        code: runs after PRELUDE.
        bare: whether it may run on the bare machine, to show that it works where no wall is.
        native: whether it holds numbers or code of x86_64.
        fast: whether it is in the fast tests.
    """

    name: str
    code: str
    bare: bool = True
    native: bool = False
    fast: bool = True


def _attacks(group: str, text: str, **options: bool) -> list[Attack]:
    """`## name` begins each attack of a text."""
    found = []
    for part in text.split("\n## ")[1:]:
        name, code = part.split("\n", 1)
        found.append(Attack(f"{group}: {name}", code, **options))
    return found


WRITES = _attacks("write", """
## open
open('{canary}/ESCAPED', 'w').write('x')
## low-level open
os.close(os.open('{canary}/ESCAPED', os.O_CREAT | os.O_WRONLY))
## dir_fd
place = os.open('{canary}', os.O_RDONLY)
os.close(os.open('ESCAPED', os.O_CREAT | os.O_WRONLY, dir_fd=place))
## dir_fd of the root with a decoy symlink
os.symlink('/dev/null', 'decoy')
root = os.open('/', os.O_RDONLY)
os.close(os.open('{canary}/ESCAPED'.lstrip('/'), os.O_CREAT | os.O_WRONLY, dir_fd=root))
## symlink
os.symlink('{canary}/file', 'link')
open('link', 'w').write('x')
## symlink to a directory
os.symlink('{canary}', 'd')
open('d/ESCAPED', 'w').write('x')
## hard link
os.link('{canary}/file', 'hard')
open('hard', 'w').write('x')
## dots
open('../' * 20 + '{canary}/ESCAPED'.lstrip('/'), 'w').write('x')
## parent by dir_fd
up = os.open('.', os.O_RDONLY)
for _ in range(20):
    up = os.open('..', os.O_RDONLY, dir_fd=up)
open('{canary}/ESCAPED'.lstrip('/'), 'w', opener=lambda p, f: os.open(p, f, dir_fd=up)).write('x')
## descriptor of the working directory in proc
open('/proc/self/cwd/../../..{canary}/ESCAPED', 'w').write('x')
## root of process 1
open('/proc/1/root{canary}/ESCAPED', 'w').write('x')
## roots of every process
for pid in range(1, 200):
    try:
        open('/proc/%d/root{canary}/ESCAPED' % pid, 'w').write('x')
        break
    except OSError:
        pass
else:
    raise OSError('none')
## delete
os.remove('{canary}/file')
## rename
os.rename('{canary}/file', '{canary}/other')
## truncate
os.truncate('{canary}/file', 0)
## mode
os.chmod('{canary}/file', 0o4777)
## times
os.utime('{canary}/file', (0, 0))
## directory
os.mkdir('{canary}/ESCAPED')
## socket file
import socket
socket.socket(socket.AF_UNIX).bind('{canary}/ESCAPED')
## named pipe
os.mkfifo('{canary}/ESCAPED')
## extended attribute
os.setxattr('{canary}/file', 'user.escaped', b'x')
## shared memory
open('/dev/shm/ESCAPED-{mark}', 'w').write('x')
## temporary directory
open('/tmp/ESCAPED-{mark}', 'w').write('x')
## the interpreter's own library
import json
open(json.__file__, 'a').close()
## a lock file beside the library
open(os.path.dirname(os.__file__) + '/ESCAPED-{mark}', 'w').write('x')
## sqlite
import sqlite3
sqlite3.connect('{canary}/ESCAPED').execute('create table t (a)')
## fchdir to an outer directory
os.fchdir(os.open('{canary}', os.O_RDONLY))
open('ESCAPED', 'w').write('x')
""")  # fmt: skip

READS = _attacks("read", """
## open
found = open('{secret}').read()
raise AssertionError(found)
## dir_fd
found = os.read(os.open('{secret}'.lstrip('/'), os.O_RDONLY, dir_fd=os.open('/', os.O_RDONLY)), 99)
raise AssertionError(found.decode())
## symlink
os.symlink('{secret}', 's')
raise AssertionError(open('s').read())
## environment of this process
raise AssertionError(repr(os.environ) + open('/proc/self/environ').read())
## environment from memory
environ = (ctypes.c_char_p * 64).in_dll(libc, 'environ')
values = ctypes.cast(ctypes.c_void_p.in_dll(libc, 'environ'), ctypes.POINTER(ctypes.c_char_p))
found = []
while values[len(found)]:
    found.append(values[len(found)].decode())
raise AssertionError(' '.join(found))
## environment of the product
text = open('/proc/{product}/environ').read()
raise AssertionError(text[text.index('{key_name}'):][:200])
## environment of every process
found = ''
for pid in os.listdir('/proc'):
    try:
        text = open('/proc/%s/environ' % pid).read()
        found += text[text.index('{key_name}'):][:200]
    except (OSError, ValueError):
        pass
raise AssertionError(found)
## environment of the parents by number
found = ''
for pid in range(1, 400):
    try:
        text = open('/proc/%d/environ' % pid).read()
        found += text[text.index('{key_name}'):][:200]
    except (OSError, ValueError):
        pass
raise AssertionError(found)
## memory of the product
found = ''
with open('/proc/{product}/mem', 'rb') as memory:
    for line in open('/proc/{product}/maps'):
        if '[stack]' in line or '[heap]' in line:
            start, end = (int(each, 16) for each in line.split()[0].split('-'))
            memory.seek(start)
            text = memory.read(end - start)
            found += text[text.find(b'{key_name}='):][:200].decode('latin-1') if b'{key_name}=' in text else ''
raise AssertionError(found)
## root of the product
raise AssertionError(open('/proc/{product}/root{secret}').read())
## password file
if 'root:' not in open('/etc/passwd').read():
    raise OSError('empty')
## shadow file
if ':' not in open('/etc/shadow').read():
    raise OSError('empty')
## list of the outer directory
if 'file' not in os.listdir('{canary}'):
    raise OSError('empty')
## size and existence of a file outside
os.stat('{secret}')
## access
if not os.access('{secret}', os.F_OK):
    raise OSError('no')
## kernel's log
libc.klogctl.restype = ctypes.c_int
refused(libc.klogctl(3, ctypes.create_string_buffer(999), 999))
## disks
open('/dev/vda', 'rb').read(1)
## memory of the machine
open('/dev/mem', 'rb').read(1)
## kernel memory
open('/proc/kcore', 'rb').read(1)
## sysfs
os.listdir('/sys/kernel')
## home
os.listdir(os.path.expanduser('~root') if os.path.exists('/root/.profile') else '/home')
## mmap of a file outside
import mmap
f = os.open('{secret}', os.O_RDONLY)
raise AssertionError(mmap.mmap(f, 0, prot=mmap.PROT_READ)[:].decode())
## name_to_handle_at and open_by_handle_at
handle = (ctypes.c_uint32 * 40)(128)
call(303, -100, b'{secret}', handle, ctypes.byref(ctypes.c_int()), 0)
""")  # fmt: skip

PROCESSES = _attacks("process", """
## fork
if os.fork() == 0:
    os._exit(0)
## vfork by number
call(58)
## clone without a thread
if call(56, 17, 0, 0, 0, 0) == 0:
    os._exit(0)
## clone3
args = (ctypes.c_uint64 * 8)(0, 0, 0, 0, 17)
if call(435, args, 64) == 0:
    os._exit(0)
## system
if os.system('true') != 0:
    raise OSError('no shell')
## subprocess
import subprocess
subprocess.run(['/bin/true'], check=True)
## posix_spawn
os.waitpid(os.posix_spawn('/bin/true', ['true'], {}), 0)
## kill the parent
os.kill(os.getppid(), 9)
## stop the parent
os.kill(os.getppid(), 19)
## kill a process outside
os.kill({victim}, 9)
## kill by tgkill
call(234, {victim}, {victim}, 9)
## kill by tkill
call(200, {victim}, 9)
## queued signal
call(129, {victim}, 9, (ctypes.c_uint32 * 32)(9, 0, 0xFFFFFFFF))
## kill by pidfd
call(424, call(434, {victim}, 0), 9, None, 0)
## kill by ownership of a descriptor
import fcntl, signal
a, b = os.pipe()
fcntl.fcntl(a, fcntl.F_SETOWN, {victim})
fcntl.fcntl(a, fcntl.F_SETFL, os.O_ASYNC)
os.write(b, b'x')
## descriptor of another process
call(438, call(434, {victim}, 0), 0, 0)
## ptrace attach
call(101, 16, {victim}, 0, 0)
## ptrace seize the parent
call(101, 0x4206, os.getppid(), 0, 0)
## read another's memory
class Span(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(8)
mine, theirs = Span(ctypes.addressof(buffer), 8), Span({address}, 8)
call(310, {victim}, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
## write another's memory
class Span(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('size', ctypes.c_size_t)]
buffer = ctypes.create_string_buffer(8)
mine, theirs = Span(ctypes.addressof(buffer), 8), Span({address}, 8)
call(311, {victim}, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
## another's limits
call(302, {victim}, 7, (ctypes.c_uint64 * 2)(3, 3), None)
## another's priority
call(141, 0, {victim}, 19)
## another's processors
call(203, {victim}, 8, (ctypes.c_uint64 * 1)(1))
## another's scheduler
call(144, {victim}, 3, (ctypes.c_int * 1)(0))
## compare kernel objects
call(312, {victim}, {victim}, 0, 0, 0)
## multiprocessing
import multiprocessing
child = multiprocessing.get_context('fork').Process(target=print)
child.start()
child.join()
## a new session
os.setsid()
""", native=True)  # fmt: skip

SIGNALS_TO_ALL = _attacks("process", """
## kill everything
os.kill(-1, 9)
## kill its group
os.kill(0, 9)
## fork bomb
for _ in range(3):
    os.fork()
## exec of a shell
os.execv('/bin/sh', ['sh', '-c', 'echo x > {canary}/ESCAPED'])
## exec by loader
os.execv('/lib64/ld-linux-x86-64.so.2', ['ld', '/bin/true'])
## execveat of an anonymous file
f = call(319, b'x', 0)
os.write(f, b'#!/bin/sh\\necho x > {canary}/ESCAPED\\n')
call(322, f, b'', (ctypes.c_char_p * 2)(b'x'), (ctypes.c_char_p * 1)(), 0x1000)
## exec of a set-user-id program
os.execv('/usr/bin/su', ['su', '-c', 'true'])
""", bare=False, native=True)  # fmt: skip

MOUNTS = _attacks("mount", """
## remount by mount_setattr
call(442, -100, b'/', 0x8000, (ctypes.c_uint64 * 4)(0, 1, 0, 0), 32)
## remount by mount
refused(libc.mount(None, b'/', None, 32 | 4096, None))
## bind
refused(libc.mount(b'/usr', b'/scratch', None, 4096, None))
## tmpfs
refused(libc.mount(b'tmpfs', b'/tmp', b'tmpfs', 0, None))
## proc
refused(libc.mount(b'proc', b'.', b'proc', 0, None))
## umount
refused(libc.umount2(b'/scratch', 2))
## umount the root
refused(libc.umount2(b'/', 2))
## pivot_root
call(155, b'.', b'.')
## chroot
os.mkdir('r')
os.chroot('r')
## open_tree
call(428, -100, b'/', 1)
## move_mount
call(429, -100, b'/usr', -100, b'/scratch', 0)
## fsopen
call(430, b'tmpfs', 0)
## fspick
call(433, -100, b'/', 0)
## unshare of users and mounts
refused(libc.unshare(0x10000000 | 0x20000))
## unshare of mounts
refused(libc.unshare(0x20000))
## setns to the product
refused(libc.setns(os.open('/proc/{product}/ns/mnt', os.O_RDONLY), 0))
## setns by pidfd
refused(libc.setns(call(434, {victim}, 0), 0x20000))
## clone into a user namespace
if call(56, 0x10000000 | 17, 0, 0, 0, 0) == 0:
    os._exit(0)
## user map
open('/proc/self/uid_map', 'w').write('0 0 1')
## device node
os.mknod('node', 0o666 | 0o020000, os.makedev(1, 1))
## quotas
call(179, 0x80000100, b'/dev/vda', 0, None)
## swap
call(168, b'/swapfile')
## accounting
call(163, None)
""", bare=False, native=True)  # fmt: skip

KERNEL = _attacks("kernel", """
## io_uring
call(425, 8, (ctypes.c_uint32 * 30)())
## userfaultfd
call(323, 1)
## bpf
call(321, 0, (ctypes.c_uint32 * 32)(2, 4, 4, 1), 128)
## perf events
call(298, (ctypes.c_uint32 * 32)(1, 112), 0, -1, -1, 0)
## add_key
call(248, b'user', b'escaped', b'x', 1, -2)
## keyctl
call(250, 0, -3, 1)
## request_key
call(249, b'user', b'escaped', None, -2)
## memfd
call(319, b'x', 0)
## memfd_secret
call(447, 0)
## lock of a shared file
import fcntl, json
fcntl.flock(open(json.__file__), fcntl.LOCK_EX)
## lock of a part of a shared file
import fcntl, json
fcntl.lockf(open(json.__file__), fcntl.LOCK_SH)
## inotify
call(294, 0)
## fanotify
call(300, 0, 0)
## message queue
call(240, b'{mark}', 0o102, 0o600, None)
## system V shared memory
call(29, {key}, 4096, 0o1600)
## system V semaphores
call(64, {key}, 1, 0o1600)
## system V messages
call(68, {key}, 0o1600)
## personality
call(135, 0x0008)
## ports
call(173, 3)
## splice
a, b = os.pipe()
c, d = os.pipe()
os.write(b, b'x')
call(275, a, None, d, None, 1, 0)
## landlock
call(444, None, 0, 1)
## another seccomp filter
call(317, 2, 0, 1)
## pidfd of itself
call(434, os.getpid(), 0)
## capset
call(126, (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0))
## ambient capability
refused(libc.prctl(47, 2, 21, 0, 0))
## keep capabilities
refused(libc.prctl(8, 1, 0, 0, 0))
## dumpable again
refused(libc.prctl(4, 1, 0, 0, 0))
## live without its parent
refused(libc.prctl(1, 0, 0, 0, 0))
## another root user
os.setresuid(0, 0, 0)
## another group
os.setgroups([0])
## raise its own memory limit
import resource
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
## raise its file limit
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))
## timer that signals another
call(222, 1, (ctypes.c_int * 16)(0, 0, 9, 4, {victim}), ctypes.byref(ctypes.c_int()))
## more priority
os.nice(-5)
## io priority
call(251, 1, 0, 0x2000)
## type into the terminal
import fcntl
fcntl.ioctl(0, 0x5412, b'x')
## vmsplice
a, b = os.pipe()
span = (ctypes.c_uint64 * 2)(ctypes.addressof(ctypes.create_string_buffer(8)), 8)
call(278, b, span, 1, 0)
## signals by a message with credentials
import socket
a, b = socket.socketpair()
a.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, (ctypes.c_int * 1)(0))])
""", native=True)  # fmt: skip

MACHINE = _attacks("machine", """
## module
call(313, 0, b'', 0)
## init_module
call(175, None, 0, b'')
## kexec
call(246, 0, 0, None, 0)
## kexec of a file
call(320, -1, -1, 0, None, 8)
## reboot
call(169, 0xFEE1DEAD, 672274793, 0, None)
## host name
call(170, b'escaped', 7)
## domain name
call(171, b'escaped', 7)
## clock
call(227, 0, (ctypes.c_long * 2)(0, 0))
## clock by settimeofday
call(164, (ctypes.c_long * 2)(0, 0), None)
## clock by adjtimex
call(159, (ctypes.c_long * 26)(1))
## virtual terminal
call(153)
## x32 open
call(0x40000002, b'{canary}/ESCAPED', 0o101, 0o600)
## x32 getpid
call(0x40000027)
## i386 call
import mmap
code = bytes([0xB8, 20, 0, 0, 0, 0xCD, 0x80, 0xC3])  # mov eax, 20; int 0x80; ret
page = mmap.mmap(-1, 4096, prot=7)
page.write(code)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
if ctypes.CFUNCTYPE(ctypes.c_int)(address)() != os.getpid():
    raise OSError('no')
## number beyond the table
call(100000)
## negative number
call(-1 & 0xFFFFFFFF)
## upper half of the number
call(0x1_0000_0039)
## upper half of an argument
if call(56, 0x1_0000_0011, 0, 0, 0, 0) == 0:
    os._exit(0)
""", bare=False, native=True)  # fmt: skip

NETWORK = _attacks("network", """
## tcp
import socket
socket.create_connection(('127.0.0.1', {port}), timeout=1)
## udp
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.sendto(b'{mark}', ('127.0.0.1', {udp}))
## tcp by number
s = call(41, 2, 1, 0)
## ipv6
import socket
socket.socket(socket.AF_INET6)
## abstract socket
import socket
socket.socket(socket.AF_UNIX).connect('\\0{abstract}')
## socket in the file system
import socket
socket.socket(socket.AF_UNIX).connect('{unix}')
## datagram by a socket pair
import socket
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
a.sendto(b'{mark}', '\\0{abstract}')
## stream pair with an address
import socket
a, b = socket.socketpair()
a.sendto(b'{mark}', '\\0{abstract}')
## connect a socket pair anew
import socket
a, b = socket.socketpair()
a.connect('\\0{abstract}')
## raw
import socket
socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
## packet
import socket
socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
## netlink
import socket
socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
## vsock
import socket
s = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
## bluetooth, can, alg and the rest
for family in range(2, 46):
    try:
        call(41, family, 1, 0)
        break
    except OSError:
        pass
else:
    raise OSError('none')
## listen
import socket
socket.create_server(('127.0.0.1', 0))
## name look-up
import socket
socket.getaddrinfo('localhost', 80) and socket.socket()
## http
import urllib.request
urllib.request.urlopen('http://127.0.0.1:{port}', timeout=1)
## asyncio
import asyncio
asyncio.run(asyncio.open_connection('127.0.0.1', {port}))
""", native=True)  # fmt: skip

DEVICES = _attacks(
    "device",
    """
## mode
os.chmod('/dev/null', 0o600)
## mode of an open one
os.fchmod(0, 0o600)
## owner
os.chown('/dev/null', 0, 0)
## times
os.utime('/dev/null', (0, 0))
## remove
os.remove('/dev/null')
## replace
os.symlink('x', 'y')
os.rename('y', '/dev/null')
## a new one
os.mknod('disk', 0o600 | 0o060000, os.makedev(254, 0))
## entropy
import fcntl
fcntl.ioctl(os.open('/dev/urandom', os.O_RDWR), 0x40085203, bytes(64))
## terminal
open('/dev/tty', 'w').write('x')
## terminals by number
open('/dev/pts/0', 'w').write('x')
""",
    bare=False,
)

GREED = _attacks("greed", """
## the main thread leaves
import threading, time
threading.Thread(target=time.sleep, args=(99,)).start()
call(60, 0)
## memory at once
x = bytearray(900 << 20)
## memory by and by
x = []
for _ in range(90):
    x.append(bytearray(10 << 20))
## memory outside the heap
import mmap
x = mmap.mmap(-1, 900 << 20)
x.write(b'x' * (900 << 20))
## memory shared
x = [__import__('mmap').mmap(-1, 100 << 20) for _ in range(9)]
## one large file
with open('large', 'wb') as f:
    for _ in range(64):
        f.write(bytes(1 << 20))
## many large files
for n in range(64):
    open(str(n), 'wb').write(bytes(1 << 20))
## many files
for n in range(100_000):
    open(str(n), 'w').close()
## deep directories
for n in range(20_000):
    os.mkdir('d')
    os.chdir('d')
## a sparse file
open('sparse', 'wb').truncate(1 << 40)
## many descriptors
x = [os.open('/dev/null', 0) for _ in range(1000)]
## many pipes
x = [os.pipe() for _ in range(1000)]
## many threads
import threading, time
for _ in range(2000):
    threading.Thread(target=time.sleep, args=(9,), daemon=True).start()
## no end
while True:
    pass
## sleep
import time
time.sleep(99)
## no end that catches everything
while True:
    try:
        while True:
            pass
    except BaseException:
        pass
## no end that ignores signals
import signal
for n in range(1, 65):
    try:
        signal.signal(n, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass
## a long regular expression
import re
re.match('(a+)+b', 'a' * 60)
## a large power
x = 9 ** 9 ** 9
## recursion
import sys
sys.setrecursionlimit(10 ** 9)
f = lambda: f()
f()
## deep repr
x = []
for _ in range(200_000):
    x = [x]
repr(x)
## blocked on a full pipe
a, b = os.pipe()
while True:
    os.write(b, bytes(65536))
## a thread that goes on
import threading
def work():
    while True:
        pass
threading.Thread(target=work).start()
raise OSError('the main thread ends')
## an end that never comes
import atexit, time
atexit.register(time.sleep, 99)
class Late:
    def __del__(self):
        time.sleep(99)
late = Late()
raise OSError('the main thread ends')
## a destructor at exit
sys.late = type('Late', (), {'__del__': lambda self: open('{canary}/ESCAPED', 'w')})()
raise OSError('done')
""", bare=False)  # fmt: skip

PACKAGE = _attacks("package", """
## import
import distill2edge
## import a module of the sandbox
import distill2edge.verifiers.sandbox
## import by file
sys.path[:0] = ['{root}', '{site}', '{root}/distill2edge/verifiers']
import distill2edge
## import the jail by its name
sys.path[:0] = ['{root}/distill2edge/verifiers']
import jail
## what is loaded
found = [name for name in sys.modules if name.split('.')[0] in ('distill2edge', 'jail')]
if not found:
    raise OSError('none')
## main module
import __main__
if not hasattr(__main__, 'main'):
    raise OSError('none')
## installed packages
import numpy
## installed packages by path
import importlib.util
spec = importlib.util.spec_from_file_location('distill2edge', '{root}/distill2edge/__init__.py')
spec.loader.exec_module(importlib.util.module_from_spec(spec))
## user's site
import site
site.main()
import usercustomize
""")  # fmt: skip

ATTACKS = [
    *WRITES,
    *READS,
    *PROCESSES,
    *SIGNALS_TO_ALL,
    *MOUNTS,
    *KERNEL,
    *MACHINE,
    *NETWORK,
    *DEVICES,
    *GREED,
    *PACKAGE,
]
