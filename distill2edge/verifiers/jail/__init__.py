"""What runs a check: imports the standard library alone, and is imported by nothing of the package but its tests.

`guard` is started with an isolated interpreter, cuts itself off (`walls`) and starts `zygote`, which has never seen a
row and forks two processes for each: one runs the check (`checked`), the other what the check passes to `exec` and
`eval` (`answer`). Both give up every capability and are held by a filter of system calls (`seccomp`). What crosses
between processes is data (`data`), and each side decides itself what it means.
"""
