"""Threads come from the affinity mask and from the cgroup's quota, whichever is less."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill2edge.util.threads import available_threads, cgroup_cores, spin_as_usual, spin_briefly


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_version_2_takes_the_least_of_the_group_and_its_ancestors(tmp_path: Path) -> None:
    _write(tmp_path / "self", "0::/pod/container\n")
    _write(tmp_path / "fs/pod/cpu.max", "150000 100000\n")
    _write(tmp_path / "fs/pod/container/cpu.max", "max 100000\n")
    assert cgroup_cores(tmp_path / "fs", tmp_path / "self") == 1.5
    _write(tmp_path / "fs/pod/container/cpu.max", "50000 100000\n")
    assert cgroup_cores(tmp_path / "fs", tmp_path / "self") == 0.5


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_version_1_under_either_mount_name(tmp_path: Path, mount: str) -> None:
    _write(tmp_path / "self", "8:pids:/\n5:cpu,cpuacct:/docker/abc\n0::/\n")
    _write(tmp_path / "fs" / mount / "docker/abc/cpu.cfs_quota_us", "400000\n")
    _write(tmp_path / "fs" / mount / "docker/abc/cpu.cfs_period_us", "100000\n")
    assert cgroup_cores(tmp_path / "fs", tmp_path / "self") == 4.0


def test_no_quota_is_no_limit(tmp_path: Path) -> None:
    _write(tmp_path / "self", "1:cpu:/\n0::/\n")
    _write(tmp_path / "fs/cpu/cpu.cfs_quota_us", "-1\n")
    _write(tmp_path / "fs/cpu/cpu.cfs_period_us", "100000\n")
    assert cgroup_cores(tmp_path / "fs", tmp_path / "self") is None
    assert cgroup_cores(tmp_path / "fs", tmp_path / "nothing") is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="affinity masks are a Linux thing")
def test_an_affinity_of_one_core_is_one_thread() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}});"
        "from distill2edge.util.threads import available_threads; print(available_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "1"
    assert available_threads() >= 1


@pytest.mark.parametrize("own", [{"GOMP_SPINCOUNT": "0"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_a_users_own_wait_policy_stays_and_reaches_what_is_timed(own: dict[str, str]) -> None:
    environment = dict(own)
    spin_briefly(environment)
    assert environment == own
    spin_as_usual(environment)
    assert environment == own


def test_training_spins_briefly_and_what_is_timed_as_the_runtime_would() -> None:
    environment = {"HOME": "/root"}
    spin_briefly(environment)
    assert environment == {"HOME": "/root", "GOMP_SPINCOUNT": "1000"}
    spin_as_usual(environment)
    assert environment == {"HOME": "/root"}


def test_torch_is_loaded_with_the_brief_spin() -> None:
    code = (
        "from distill2edge.util.threads import spin_briefly; import sys; assert 'torch' not in sys.modules;"
        "spin_briefly(); import distill2edge.stages, torch; torch.set_num_threads(2); torch.ones(1000, 1000).sum()"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code],
        env={k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
        | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    ).stderr
    if "GOMP_SPINCOUNT" in shown:  # PyTorch is built with GNU's OpenMP
        assert "GOMP_SPINCOUNT = '1000'" in shown
