"""Verifiers in the text signal: what is refused is dropped, counted and in the ledger; a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny import tiny_llama

from distill2edge.data import ledger
from distill2edge.data.examples import Row, row_id
from distill2edge.errors import UserError
from distill2edge.generation.generate import LocalGenerator
from distill2edge.recipe.schema import TextSignal
from distill2edge.recipe.verifiers import JudgeVerifier, LikelihoodVerifier, NumericVerifier, PythonVerifier
from distill2edge.teacher.text import read_responses, write_responses
from distill2edge.util.progress import SilentProgress
from distill2edge.verifiers.by_judge import Judge
from distill2edge.verifiers.registry import Tools, opened
from distill2edge.verifiers.verdicts import check_of
from distill2edge.verifiers.verifier import Group, Verdict

ORIGIN = ledger.Origin("teacher")
ROWS = [Row(row_id(f"{n} + 1 =", str(n + 1)), f"{n} + 1 =", str(n + 1)) for n in range(4)]


def line(row: Row, response: str, finish: str = "stop") -> dict[str, Any]:
    return {
        "id": row.id,
        "prompt": row.prompt,
        "response": response,
        "finish": finish,
        "prompt_tokens": 5,
        "tokens": 2,
    }


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A signal directory in which the teacher has written already: two samples of each of four prompts."""
    work = tmp_path / "work"
    work.mkdir()
    records = [
        *(line(ROWS[0], "1"), line(ROWS[0], "1")),  # right, twice
        *(line(ROWS[1], "2"), line(ROWS[1], "3")),  # right, and wrong
        *(line(ROWS[2], "5"), line(ROWS[2], "boom")),  # wrong, and one that breaks the check
        *(line(ROWS[3], "4", "length"), line(ROWS[3], " ")),  # cut off, and empty
    ]
    (work / "shard-00000.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return work


def run(tmp_path: Path, work: Path, specs: Sequence[Any]) -> dict[str, Any]:
    tiny_llama(tmp_path / "model")
    signal = TextSignal(temperature=1.0, samples=2, max_new_tokens=4)  # type: ignore[call-arg]
    tools = Tools(tmp_path / "model", "plain", None, work, SilentProgress())
    with opened(specs, tools) as verifiers:
        return write_responses(
            LocalGenerator(tmp_path / "model", template="plain"), ROWS, signal, work, SilentProgress(),
            template="plain", system=None, seed=0, origin=ORIGIN, check=check_of(verifiers),
        )  # fmt: skip


CODE = "def check(p, r, ref):\n    return int(r) == eval(p.rstrip('= '))"


def test_refused_rows_are_dropped_counted_and_explained(tmp_path: Path, written: Path) -> None:
    facts = run(tmp_path, written, [PythonVerifier(code=CODE), NumericVerifier()])  # type: ignore[call-arg]
    counts = {name: facts[name] for name in ("rows", "written", "truncated", "empty", "duplicate", "refused")}
    assert counts == {"rows": 8, "written": 2, "truncated": 1, "empty": 1, "duplicate": 1, "refused": 3}
    assert facts["verify"]["outcomes"] == {
        "python": {"accepted": 3, "rejected": 2, "crashed": 1},
        "numeric": {"accepted": 3},
    }
    assert set(facts["verify"]["held_by"]["python"]) == {"network", "files", "processes"}
    assert facts["verify"]["prompts_without_a_response"] == 2
    assert [row.response for row in read_responses(written)] == ["1", "2"]
    rows = ledger.read(written)
    assert len(rows) == 8
    broken = next(row for row in rows if row.response == "boom")
    assert broken.dropped_because.startswith("python crashed: ValueError")
    assert [(verdict.verifier, verdict.accepted) for verdict in broken.verdicts] == [("python", False)]
    assert [verdict.verifier for verdict in rows[0].verdicts] == ["python", "numeric"]
    assert facts["ledger"]["dropped"]["python rejected"] == 2


def test_verdicts_of_an_earlier_try_are_not_asked_for_again(tmp_path: Path, written: Path) -> None:
    first = run(tmp_path, written, [PythonVerifier(code=CODE)])  # type: ignore[call-arg]
    (verdicts,) = written.glob("verdicts-*.jsonl")
    before = verdicts.stat().st_mtime_ns
    assert run(tmp_path, written, [PythonVerifier(code=CODE)])["verify"] == first["verify"]  # type: ignore[call-arg]
    assert verdicts.stat().st_mtime_ns == before


def test_an_empty_pool_is_an_error_with_the_counts(tmp_path: Path, written: Path) -> None:
    code = "def check(p, r, ref):\n    return False, 'never good enough'"
    with pytest.raises(UserError) as caught:
        run(tmp_path, written, [PythonVerifier(code=code)])  # type: ignore[call-arg]
    assert "6 python rejected, 1 truncated, 1 empty of 8" in str(caught.value)
    assert "never good enough" in str(caught.value)
    assert len(ledger.read(written)) == 8  # to look at


class Broken:
    """A plug-in with a fault."""

    name = "broken"

    def verify(self, groups: Sequence[Group]) -> list[list[Verdict]]:
        if any(group.prompt.startswith("2") for group in groups):
            raise KeyError("no such thing")
        return [[Verdict("accepted")] * len(group.responses) for group in groups]

    def close(self) -> None:
        pass


def test_a_plug_in_that_raises_costs_the_rows_it_raises_on(tmp_path: Path, written: Path) -> None:
    tiny_llama(tmp_path / "model")
    signal = TextSignal(temperature=1.0, samples=2, max_new_tokens=4)  # type: ignore[call-arg]
    facts = write_responses(
        LocalGenerator(tmp_path / "model", template="plain"), ROWS, signal, written, SilentProgress(),
        template="plain", system=None, seed=0, origin=ORIGIN, check=check_of([Broken()]),
    )  # fmt: skip
    assert facts["verify"]["outcomes"]["broken"] == {"accepted": 4, "crashed": 2}
    assert "KeyError" in next(row.dropped_because for row in ledger.read(written) if row.response == "5")


def test_samples_of_one_prompt_differ_and_a_second_run_draws_the_same(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "model")
    signal = TextSignal(temperature=2.0, samples=5, max_new_tokens=8)  # type: ignore[call-arg]
    shards = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        with suppress(UserError):  # a random model may never end
            write_responses(
                LocalGenerator(tmp_path / "model", template="plain"), ROWS, signal, tmp_path / name, SilentProgress(),
                template="plain", system=None, seed=3, origin=ORIGIN,
            )  # fmt: skip
        shards.append((tmp_path / name / "shard-00000.jsonl").read_text())
    records = [json.loads(text) for text in shards[0].splitlines()]
    assert [record["id"] for record in records] == [row.id for row in ROWS for _ in range(5)]
    assert len({record["response"] for record in records[:5]}) > 1
    assert shards[0] == shards[1]


def test_likelihood_is_the_mean_over_the_response_tokens_of_the_teacher(tmp_path: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    model = tiny_llama(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    prompt, response = "Review: good", " film and music"
    ids = tokenizer(prompt + response)["input_ids"] + [2]
    begin = len(tokenizer(prompt)["input_ids"])
    with torch.no_grad():
        logp = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    mean = float(logp[torch.arange(begin - 1, len(ids) - 1), ids[begin:]].mean())
    tools = Tools(tmp_path / "model", "plain", None, tmp_path, SilentProgress())
    groups = [Group(prompt, (response, " other words here")), Group("x", (response,))]
    specs = [LikelihoodVerifier(min_mean_logprob=mean - 0.05), LikelihoodVerifier(min_mean_logprob=mean + 0.05)]
    with opened(specs, tools) as (below, above):
        assert below.verify(groups)[0][0].accepted
        said = float(below.verify(groups)[0][0].reason.split()[2].rstrip(","))
        assert said == pytest.approx(mean, abs=0.02)  # the teacher may run in bfloat16
        assert not above.verify(groups)[0][0].accepted
        assert [len(item) for item in above.verify(groups)] == [2, 1]


def test_a_judge_is_asked_once_for_each_response_and_its_reply_is_the_reason() -> None:
    asked: list[str] = []

    def write(prompts: Sequence[str]) -> list[str]:
        asked.extend(prompts)
        return ["Yes." if "4" in prompt else "no, wrong" for prompt in prompts]

    spec = JudgeVerifier(prompt="{{ prompt }} {{ response }}?")  # type: ignore[call-arg]
    said = Judge(spec, write).verify([Group("2+2=", ("4", "5", "4"))])[0]
    assert [verdict.outcome for verdict in said] == ["accepted", "rejected", "accepted"]
    assert asked == ["2+2= 4?", "2+2= 5?"]
    assert said[1].reason == "the judge says 'no, wrong'"


def test_a_judge_from_a_model_directory(tmp_path: Path) -> None:
    tiny_llama(tmp_path / "judge")
    (tmp_path / "judge" / "README.md").write_text("---\nlicense: mit\n---\n")
    spec = JudgeVerifier(model=str(tmp_path / "judge"), accept="(?s).*")  # type: ignore[call-arg]
    tools = Tools(tmp_path / "none", "plain", None, tmp_path / "work", SilentProgress())
    with opened([spec], tools) as (judge,):
        assert judge.verify([Group("q", ("a",))])[0][0].accepted
