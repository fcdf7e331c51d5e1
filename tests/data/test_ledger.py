"""The ledger: what is written is read back; reasons are counted; `data show`, `stats` and `why` tell them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.cli.main import main
from distill2edge.data import ledger
from distill2edge.data.examples import row_id
from distill2edge.data.filters import blank, blocked, refusal
from distill2edge.data.leakage import overlaps
from distill2edge.data.ledger import LedgerRow, Origin, Verdict
from distill2edge.errors import UserError

ORIGIN = Origin("bundled:teacher", "abc123", "apache-2.0", "permit")


def make(prompt: str, response: str, **more: object) -> LedgerRow:
    settings = {"temperature": 0.7, "seed": 0}
    return LedgerRow.make(
        prompt, response, ORIGIN, id=row_id(prompt, response), method="self-instruct", settings=settings, **more
    )  # type: ignore[arg-type]


ROWS = [
    make("Name a fruit.", "Apple.", overlap=0.25, response_tokens=3, cost_usd=0.002),
    make("Name a [red] fruit.", "Cherry \U0001f352", dropped_because="near-duplicate of 12ab: 0.81"),
    make("What is 2 + 2?", "5", verdicts=(Verdict("numeric", False, "4 is asked, 5 is given"),)),
    make("Say no.", "Sorry, I cannot help.", dropped_because="refusal", overlap=0.5),
]


def call(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["data", *map(str, args)], env={"COLUMNS": "120"})
    return result.exit_code, result.stdout, result.stderr


def test_rows_come_back_as_they_were_from_shards_and_from_the_whole(tmp_path: Path) -> None:
    assert ledger.append(tmp_path, []) is None
    ledger.append(tmp_path, ROWS[:1])
    ledger.append(tmp_path, ROWS[1:])
    assert ledger.read(tmp_path) == ROWS
    ledger.write(tmp_path, ROWS)
    assert ledger.read(tmp_path) == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.parquet"]


@given(prompt=st.text(), response=st.text(), overlap=st.none() | st.floats(0, 1), reason=st.text())
def test_any_text_survives(
    tmp_path_factory: pytest.TempPathFactory, prompt: str, response: str, overlap: float | None, reason: str
) -> None:
    directory = tmp_path_factory.mktemp("ledger")
    row = make(prompt, response, overlap=overlap, verdicts=(Verdict("v", True, reason),))
    ledger.write(directory, [row])
    assert ledger.read(directory) == [row]


def test_a_refusing_verdict_drops_the_row_with_its_reason() -> None:
    assert [row.kept for row in ROWS] == [True, False, False, False]
    assert ROWS[2].dropped_because == "numeric: 4 is asked, 5 is given"


def test_the_summary_counts_each_reason_once() -> None:
    facts = ledger.summary(ROWS)
    assert (facts["rows"], facts["kept"]) == (4, 1)
    assert facts["dropped"] == {"near-duplicate": 1, "numeric": 1, "refusal": 1}
    assert facts["verifiers"] == {"numeric": {"accepted": 0, "refused": 1}}
    assert facts["overlap"] == {"checked": 1, "highest": 0.25}
    assert facts["cost_per_kept_usd"] == pytest.approx(0.002)
    assert ledger.summary([])["kept"] == 0


def test_show_stats_and_why(tmp_path: Path) -> None:
    ledger.write(tmp_path, ROWS)
    code, out, _ = call("show", tmp_path, "--dropped")
    assert code == 0
    assert "near-duplicate" in out
    assert "Name a [red] fruit." in out
    assert "Apple" not in out
    code, out, _ = call("show", tmp_path, "--reason", "refusal", "--json")
    assert [json.loads(line)["prompt"] for line in out.splitlines()] == ["Say no."]
    assert json.loads(call("stats", tmp_path, "--json")[1])[tmp_path.name]["rows"] == 4
    assert "dropped: refusal" in call("stats", tmp_path)[1]
    code, out, _ = call("why", ROWS[2].id[:10], tmp_path)
    assert code == 0
    assert "4 is asked, 5 is given" in out
    assert "apache-2.0: permit" in out


def test_what_is_not_there_is_said_with_the_fix(tmp_path: Path) -> None:
    code, _, err = call("stats", tmp_path)
    assert code == 2
    assert "no ledger here" in err
    ledger.write(tmp_path, ROWS)
    code, _, err = call("why", "ffff", tmp_path)
    assert code == 2
    assert "data show" in err
    (tmp_path / "x.parquet").write_bytes(b"not parquet")
    with pytest.raises(UserError, match="not a ledger"):
        ledger.read(tmp_path / "x.parquet")


def test_the_stage_command_is_still_there() -> None:
    code, _, err = call("no-such-recipe.yaml")
    assert code == 2
    assert "no-such-recipe.yaml" in err
    assert "RECIPE" in CliRunner().invoke(main, ["data", "prepare", "--help"]).stdout


def test_overlap_is_the_similarity_of_the_nearest_held_out_text() -> None:
    test = ["one two three four five six seven", "a b c d e f"]
    found = overlaps(["ONE two, three four five six seven!", "one two three four five six nine", "z y x w v u"], test)
    assert found[0] == 1.0
    assert found[1] == pytest.approx(2 / 4)
    assert found[2] == 0.0
    assert overlaps(["one"], []) == [0.0]


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I\u2019m sorry, I do not have that information.",
        "Unfortunately, I cannot provide the text of the article.",
        "As an AI language model, I have no opinion.",
        "I am just an AI and cannot taste.",
        "I don't have access to the internet.",
    ],
)
def test_refusals_are_seen(text: str) -> None:
    assert refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "I can't believe how good this film is.",
        "Sorry, wrong number, said the old man.",
        "An AI language model predicts the next token.",
        "To apologise, write: I'm sorry I was late.",
        "It is not appropriate to wear shoes inside a Japanese house? Here is why.",
        "",
    ],
)
def test_answers_about_refusing_are_none(text: str) -> None:
    assert not refusal(text)


def test_blocked_words_are_whole_words_in_any_case() -> None:
    assert blocked("Draw an IMAGE, please", ["graph", "image"]) == "image"
    assert blocked("I imagine", ["image"]) is None
    assert blocked("see the file-name", ["file name"]) == "file name"
    assert blocked("anything", []) is None
    assert blank(" .,!\n")
    assert not blank("1")
