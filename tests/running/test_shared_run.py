"""Commands on a store that machines share: what one has made another reuses; faults are said before any work."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from crash.recipes import PLAIN
from light import loads
from s3_server import KEYS, Server
from tiny import tiny_llama

from distill2edge.cli.doctor import _disk
from distill2edge.cli.main import main
from distill2edge.util.remembered import CACHE_VARIABLE

STORE = "s3://models/distill2edge"
PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
NAME = "tickets.yaml"
_BENCH = "{workloads: [chat-8-3], rounds: 1, requests: 1, torch: false}"


@pytest.fixture
def place(s3: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    tiny_llama(tmp_path / "teacher", layers=2)
    (tmp_path / "teacher" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    films = [{"text": f"film {n} the {n * 37} dog", "label": (" bad", " good")[n % 2]} for n in range(60)]
    (tmp_path / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in films))
    text = PLAIN.format(name="tickets", model=tmp_path / "teacher", rows=tmp_path / "films.jsonl", bench=_BENCH)
    (tmp_path / NAME).write_text(text)
    return tmp_path


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Be another machine: with a directory of its own for all that it keeps."""

    def machine(name: str, store: str = STORE) -> None:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
        monkeypatch.setenv("DISTILL2EDGE_STORE", store)

    return machine


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def states(text: str) -> dict[str, str]:
    return {stage["stage"]: "cached" if stage["cached"] else "to do" for stage in json.loads(text)["stages"]}


def test_a_stage_of_one_machine_is_reused_on_another(place: Path, on: object, s3: Server) -> None:
    on("one")  # type: ignore[operator]
    made = call("data", NAME)
    assert made.exit_code == 0, made.output
    assert any("/records/" in name for name in s3.names("distill2edge/artifacts/data"))
    on("two")  # type: ignore[operator]
    planned = call("plan", NAME, "--json", "--quiet")
    assert states(planned.stdout)["data"] == "cached"
    assert json.loads(planned.stdout)["store"] == STORE
    assert "to fetch: " in call("plan", NAME).stdout
    assert not list((place / "two").glob("shared-*/data"))  # a plan brings nothing here
    again = call("data", NAME)
    assert again.exit_code == 0, again.output
    assert "reused" in again.stderr
    assert "to fetch" not in call("plan", NAME).stdout
    # All is here now: no server is asked, and nothing is imported for it.
    s3.door.asked.clear()
    found = loads("data", place / NAME, "--store", STORE, "--quiet")
    assert s3.door.asked == []
    assert not {"torch", "pandas"} & set(found)
    listed = call("store", "ls", "--json")
    assert [row["stage"] for row in json.loads(listed.stdout)] == ["data"]
    assert f"{STORE}/artifacts/data/" in listed.stdout
    assert "would delete 0" in call("store", "gc").stdout
    assert "deleted 1 entries" in call("store", "gc", "--days", "0", "--yes").stdout
    assert call("store", "ls").stdout == "the store is empty\n"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("bucket", "there is no such bucket"),
        ("refused", "the server refuses"),
        ("deaf", "writes an object twice"),
        ("package", "needs the package s3fs"),
        ("credentials", "no credentials"),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line_before_any_work(
    place: Path, on: object, s3: Server, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    on("one", "s3://elsewhere/a" if fault == "bucket" else STORE)  # type: ignore[operator]
    s3.door.deaf, s3.door.refused = fault == "deaf", "AccessDenied" if fault == "refused" else ""
    if fault == "package":
        found = importlib.util.find_spec
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "s3fs" else found(name, *a))
    if fault == "credentials":
        for name in KEYS:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(place))
    result = call("data", NAME)
    assert result.exit_code == 4, result.output
    error = next(line for line in result.stderr.splitlines() if line.startswith("error"))
    assert words in error
    assert "s3://" in error
    assert "fix: " in result.stderr
    assert "Traceback" not in result.output
    assert not list((place / "one").glob("shared-*/data"))
    s3.door.refused = ""
    assert not s3.names()


def test_doctor_tries_the_store(place: Path, on: object, s3: Server) -> None:
    on("one")  # type: ignore[operator]
    assert _disk()["state"] == "fine"
    assert STORE in _disk()["detail"]
    s3.door.refused = "AccessDenied"
    found = _disk()
    assert found["state"] == "missing"
    assert "refuses" in found["detail"]
    assert "AWS_PROFILE" in found["fix"]


def commands() -> list[list[str]]:
    """Of the page's section, by what follows `distill2edge`."""
    text = PAGE.read_text(encoding="utf-8")
    section = re.search(r"^## A store that machines share\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    assert section is not None
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", section[1], re.S))
    return [shlex.split(line, comments=True)[1:] for line in blocks.splitlines() if line.startswith("distill2edge ")]


def test_the_page_s_commands_are_commands() -> None:
    found = commands()
    assert [words[0] for words in found] == ["doctor", "run", "plan", "run", "store", "store"]
    assert f"export DISTILL2EDGE_STORE={STORE}" in PAGE.read_text(encoding="utf-8")
    for words in found:
        parts = [main.commands[words[0]]]
        if words[0] == "store":
            parts.append(parts[0].commands[words[1]])  # type: ignore[attr-defined]
        options = {option for parameter in parts[-1].params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.slow
def test_the_page_s_commands_do_what_it_says(place: Path, on: object) -> None:
    out = []
    for number, words in enumerate(commands()):
        on("one" if number < 2 else "two")  # type: ignore[operator]
        out.append(call(*words))
        assert out[-1].exit_code == 0, (words, out[-1].output)
    _, _, planned, ran, _, _ = out
    assert "nothing to do: every stage is in s3://models/distill2edge" in planned.stdout
    assert "to do " not in planned.stdout
    assert "done in" not in ran.stderr
    assert ran.stderr.count("reused") == planned.stdout.count("cached") > 8
    assert (place / "runs" / "tickets" / "report.html").is_file()
