"""Hostile code against the sandbox: nothing gets out, whoever runs the product, with namespaces and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from attacks import bare
from attacks.cases import ATTACKS, PACKAGE, WRITES
from attacks.world import World, chosen

if not sys.platform.startswith("linux"):
    pytest.skip("checks run on Linux only", allow_module_level=True)

NOBODY = 65534
TESTS = Path(__file__).resolve().parents[1]


def run(user: int, namespaces: bool, **options: bool) -> dict[str, Any]:
    return dict(json.loads(python("attacks.world", json.dumps({"user": user, "namespaces": namespaces, **options}))))


def python(module: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def users() -> list[int]:
    return [0, NOBODY] if os.getuid() == 0 else [os.getuid()]


@pytest.fixture
def world() -> Iterator[World]:
    place = World()
    yield place
    place.close()


def test_there_are_enough_and_no_two_are_one() -> None:
    assert len({attack.name for attack in ATTACKS}) == len(ATTACKS) == len({attack.code for attack in ATTACKS})
    assert len(ATTACKS) >= 60
    assert len(chosen(fast=True)) >= 30


@pytest.mark.parametrize("namespaces", [True, False])
def test_some_of_every_group_stay_inside(namespaces: bool) -> None:
    user = users()[-1] if namespaces else users()[0]
    found = run(user, namespaces, fast=True)
    assert found["escapes"] == []
    assert found["attempts"] >= 60


def test_some_forgeries_are_refused() -> None:
    found = run(users()[0], True, fast=True, forge=True)
    assert found["escapes"] == []


def test_the_world_sees_what_gets_out_where_no_wall_is(world: World) -> None:
    for attack in (WRITES[0], WRITES[5], PACKAGE[0]):
        assert bare.gets_out(world, attack), attack.name


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("namespaces", [True, False])
@pytest.mark.parametrize("user", users())
@pytest.mark.parametrize("forge", [False, True])
def test_everything_stays_inside(user: int, namespaces: bool, forge: bool) -> None:
    assert run(user, namespaces, forge=forge)["escapes"] == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_most_attacks_get_out_and_many_forgeries_are_believed_without_the_walls() -> None:
    found = json.loads(python("attacks.bare"))
    assert found["attacks out"] >= found["attacks tried"] / 2
    out = {attack.name for attack in bare.attacks()} - set(found["held by this machine alone"])
    groups = {"write", "read", "process", "mount", "kernel", "machine", "network", "greed", "package"}
    assert {name.split(":")[0] for name in out} == groups
    assert found["forgeries believed"] >= found["forgeries tried"] / 3
