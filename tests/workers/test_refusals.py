"""What is wrong with a cluster is said in one sentence, before anything is computed or written."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from light import loads
from tiny import tiny_recipe

from distill2edge.cli.main import main
from distill2edge.errors import EnvironmentFault, RecipeErrors
from distill2edge.pipeline.run_stages import keys_of
from distill2edge.recipe.load import parse_recipe
from distill2edge.recipe.teacher_workers import Workers
from distill2edge.workers import preflight, ray_cluster

RECIPE = """
name: a
teacher: {model: o/t}
data: {source: a.csv}
student: {init: {from: teacher, layers: 1}}
"""
NODE = {"name": "node-7", "cpus": 2, "gpus": 0, "memory": 10**10}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("{replicas: 0}", "teacher.workers.replicas: input should be greater than or equal to 1"),
        ("{}", "teacher.workers.replicas: this key is required"),
        ("{replicas: 2, ray: node}", "teacher.workers.ray: 'node' is no address of a Ray cluster"),
        ("{replicas: 2, ray: 'node:99999'}", "'node:99999' is no address of a Ray cluster"),
        ("{replicas: 2, ray: 'ray://node:10001'}", "Ray's client is not supported"),
        ("{replicas: 2, cpu: 1}", "teacher.workers.cpu"),
    ],
)
def test_of_the_section(given: str, said: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(RECIPE, "r.yaml", [f"teacher.workers={given}"])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["teacher={model: 'endpoint:http://localhost:8000/v1', endpoint: {model: m, max_tokens: 9}}",
             "teacher.workers={replicas: 2}", "signal={kind: text}", "student={init: {model: o/s}}",
             "distill.loss={ce: 1}"],
            "an endpoint is asked by one process, which keeps each answer that is paid for",
        ),
        (
            ["teacher={model: t.gguf, backend: llama.cpp, workers: {replicas: 2, gpus: 1}}"],
            "llama.cpp runs the teacher on a CPU",
        ),
        (
            ["teacher.workers={replicas: 2}", "signal={kind: gold}", "distill.loss={ce: 1}"],
            "no stage of this recipe runs the teacher over the rows",
        ),
    ],
)  # fmt: skip
def test_of_the_recipe(changes: list[str], said: str) -> None:
    with pytest.raises(RecipeErrors) as caught:
        parse_recipe(RECIPE, "r.yaml", changes)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["plain", "logits across tokenizers", "a teacher in four bits", "prompts alone"])
def test_workers_are_no_part_of_any_key(name: str) -> None:
    from tests.golden import stages as golden

    workers = ["teacher.workers={replicas: 7, cpus: 3, ray: 'node:6379'}"]
    recipe = parse_recipe(golden._PLAIN, "plain.yaml", [*golden._VARIANTS.get(name, ()), *workers])
    with golden._looked_up():
        found = {stage: key[: golden._DIGITS] for stage, key in keys_of(golden.graph_of(recipe)).items()}
    assert found == json.loads(golden.FILE.read_text())[name]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return tiny_recipe(tmp_path)


def signal(recipe: Path, workers: str) -> tuple[int, str]:
    """What a run up to the signal says, and its exit code."""
    where = ["--store", str(recipe.parent / "store"), "--out", str(recipe.parent / "out")]
    done = CliRunner().invoke(main, ["signal", str(recipe), *where[:2], "--set", f"teacher.workers={workers}"])
    return done.exit_code, done.output


@pytest.mark.parametrize("kind", ["nobody", "too many", "no ray", "too much memory"])
def test_of_the_machine_before_any_stage(recipe: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given, said = {
        "nobody": (f"{{replicas: 2, ray: 'localhost:{free_port()}'}}", "no Ray cluster answers at localhost:"),
        "too many": ("{replicas: 400}", "400 workers of 1 core and"),
        "no ray": ("{replicas: 2}", "pip install 'distill2edge[ray]'"),
        "too much memory": ("{replicas: 2}", "there is room for 1"),
    }[kind]
    if kind != "nobody":
        monkeypatch.setattr(preflight, "address_of", lambda workers: "")
    if kind == "no ray":
        monkeypatch.setattr(ray_cluster, "find_spec", lambda name: None)
    if kind == "too much memory":
        node = ray_cluster.Node("this machine", 8, 0, ray_cluster._BASE + 400_000)  # and a teacher of 400 kB
        monkeypatch.setattr(preflight, "this_machine", lambda workers: node)
    code, output = signal(recipe, given)
    assert code == 4
    assert said in output
    assert output.count("error: ") == 1
    assert "Traceback" not in output
    assert not list((recipe.parent / "store").glob("data/*"))
    assert not list((recipe.parent / "store").glob("partial/*"))
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "the node node-7 does not answer"),
        ({"sees": False}, "the node node-7 does not see the store"),
        ({"versions": {"torch": "1.0"}}, r"the node node-7 has torch 1.0, and this machine \d"),
        ({"versions": {"distill2edge": ""}}, "the node node-7 has no distill2edge, and this machine"),
    ],
)
def test_of_the_nodes(told: dict[str, Any] | None, said: str, tmp_path: Path) -> None:
    own = preflight.probe("")()
    if told is not None:
        told = {**own, **told, "versions": own["versions"] | told.get("versions", {})}
    with pytest.raises(EnvironmentFault, match=said):
        preflight._fit_nodes([{**NODE, "told": told}], tmp_path)


def test_a_head_without_cores_need_not_be_as_the_others(tmp_path: Path) -> None:
    nodes = [{**NODE, "cpus": 0, "told": None}, {**NODE, "told": preflight.probe("")()}]
    assert [node.name for node in preflight._fit_nodes(nodes, tmp_path)] == ["node-7"]


@pytest.mark.parametrize(
    ("of_ray", "said"),
    [
        (
            "Version mismatch: The cluster was started with:\n    Ray: 2.50.0\n    Python: 3.12.1\nThis process",
            "the cluster is of other versions: Version mismatch: The cluster was started with: Ray: 2.50.0 Python:",
        ),
        ("Can't find a `node_ip_address.json` file from /tmp/ray", "this machine is no node of the cluster at n:1"),
        ("Unauthenticated: RPC error: InvalidAuthToken: missing", "the cluster at n:1 asks for a token that this"),
        ("Something else\nin two lines", "the cluster cannot be joined: Something else"),
    ],
)
def test_what_ray_says_becomes_a_sentence(of_ray: str, said: str) -> None:
    error = ray_cluster.refused("n:1", of_ray)
    assert str(error).startswith(f"teacher.workers.ray: {said}")
    assert error.fix


def test_a_plan_and_a_finished_run_load_no_ray(recipe: Path) -> None:
    workers = ["--set", "teacher.workers={replicas: 400}", "--store", str(recipe.parent / "store")]
    assert signal(recipe, "null")[0] == 0
    assert loads("signal", recipe, *workers) == []  # the artifact of one process: no worker is looked for
    assert "ray" not in loads("plan", recipe, *workers)


def test_the_plan_reckons_with_the_workers(recipe: Path) -> None:
    where = ["--store", str(recipe.parent / "store")]
    done = CliRunner().invoke(main, ["plan", str(recipe), *where, "--set", "teacher.workers={replicas: 2, cpus: 3}"])
    assert "the teacher's work: 2 workers of 3 cores each (ray: auto); their time is reckoned as if" in done.output
    done = CliRunner().invoke(main, ["plan", str(recipe), *where, "--set", "teacher.workers={replicas: 1, gpus: 1}"])
    assert "1 worker of 1 core and 1 GPU (ray: auto); how long GPUs take for it is not known here" in done.output
    assert "not counted, as not known yet: signal" in done.output


@pytest.mark.parametrize(
    ("ray", "named", "said"),
    [
        ("auto", "10.0.0.9:6379", "something answers at 10.0.0.9:6379, and no Ray cluster"),
        ("node-1:8265", "", "something answers at node-1:8265, and no Ray cluster"),
    ],
)
def test_a_cluster_that_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ray: str, named: str, said: str
) -> None:
    def waits(*_: Any, **given: Any) -> Any:
        raise subprocess.TimeoutExpired("knock", given["timeout"])

    (tmp_path / "locks").mkdir()
    monkeypatch.setenv("RAY_ADDRESS", named)
    monkeypatch.setattr(preflight, "require_answer", lambda workers: None)
    monkeypatch.setattr(preflight, "require_ray", lambda: None)
    monkeypatch.setattr(preflight.subprocess, "run", waits)
    with pytest.raises(EnvironmentFault) as caught:
        preflight.require_workers(Workers(replicas=2, ray=ray), 0, tmp_path)
    assert said in str(caught.value)
    assert ("unset RAY_ADDRESS" in str(caught.value.fix)) == bool(named)
