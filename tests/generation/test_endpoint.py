"""An endpoint that behaves, and one that does not: retries are counted, budgets hold, nothing is paid twice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_endpoint import Handler, serving
from hypothesis import given
from hypothesis import strategies as st

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint import asking as module
from distill2edge.generation.endpoint.client import address
from distill2edge.generation.endpoint.generator import EndpointGenerator
from distill2edge.generation.endpoint.journal import Journal
from distill2edge.generation.endpoint.rate_limits import RateLimit, backoff, retry_after
from distill2edge.generation.endpoint.spending_limit import Budget, BudgetReached, Prices
from distill2edge.generation.generate import Ask
from distill2edge.generation.writers import Sampling
from distill2edge.pipeline.stage_files import EARLIER
from distill2edge.recipe.endpoint import Endpoint
from distill2edge.util.progress import SilentProgress

KEY = "sk-secret-0123456789"


def echo(handler: Handler, body: dict[str, Any], number: int) -> None:
    handler.answer("re: " + body["messages"][-1]["content"])


@pytest.fixture
def server() -> Iterator[Any]:
    with serving(echo) as found:
        yield found


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(module, "backoff", lambda attempt: 0.01)


class Said(SilentProgress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def ask(server: Any, work: Path, count: int = 6, prices: Prices | None = None, **settings: Any) -> tuple[Any, Any]:
    said = Said()
    section = {"model": "m", "key_env": "TEST_KEY", "max_tokens": 100_000, "timeout_s": 5, "retries": 3} | settings
    if prices:
        section |= {"input_usd": prices.input, "output_usd": prices.output}
    generator = EndpointGenerator(server.url, Endpoint(**section), prices, work, said)
    try:
        asks = [Ask((("user", f"question {n}"),), str(n)) for n in range(count)]
        return generator.generate(asks, Sampling(8, 0.7), 0), generator.facts
    finally:
        generator.close()
        server.said = said.lines


def test_answers_come_in_order_with_their_cost_and_the_key_is_sent_and_written_nowhere(
    server: Any, tmp_path: Path
) -> None:
    answers, facts = ask(server, tmp_path, 20, Prices(1.0, 2.0), max_usd=1.0, extra={"frequency_penalty": 0.5})
    assert [answer.text for answer in answers] == [f"re: question {n}" for n in range(20)]
    assert answers[0].cost_usd == pytest.approx((10 * 1.0 + 5 * 2.0) / 1e6)
    assert facts["usd"] == pytest.approx(20 * 20 / 1e6)
    headers, body = server.seen[0]
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert body["frequency_penalty"] == 0.5
    assert len({body["seed"] for _, body in server.seen}) == 20
    assert "budget $1" in server.said[0]
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_nothing_is_paid_twice_after_a_kill(server: Any, tmp_path: Path) -> None:
    ask(server, tmp_path, 4)
    with open(tmp_path / "answers.jsonl", "ab") as file:
        file.write(b'{"key": "half a li')
    answers, facts = ask(server, tmp_path, 6)
    assert len(server.seen) == 6
    assert [answer.text for answer in answers] == [f"re: question {n}" for n in range(6)]
    assert facts["tokens"] == 6 * 15  # what the first run paid counts too


def linked(work: Path, *others: Path) -> Path:
    """A stage's directory in which the store has linked the journals of others."""
    (work / EARLIER).mkdir(parents=True)
    for number, other in enumerate(others):
        (work / EARLIER / f"{number}-answers.jsonl").symlink_to(other / "answers.jsonl")
    return work


def test_what_another_stage_paid_for_is_taken_over_and_costs_nothing_again(server: Any, tmp_path: Path) -> None:
    prices = Prices(1.0, 2.0)
    _, paid = ask(server, tmp_path / "a", 4, prices, max_usd=1.0)
    work = linked(tmp_path / "b", tmp_path / "a", tmp_path / "gone")
    for _ in range(2):  # the second time from its own journal
        answers, facts = ask(server, work, 6, prices, max_usd=5 * paid["usd"] / 4)  # no room for six
        assert len(server.seen) == 6
        assert [answer.text for answer in answers] == [f"re: question {n}" for n in range(6)]
        assert facts["reused"] == 4
        assert facts["usd"] == pytest.approx(1.5 * paid["usd"])


def test_a_draw_that_no_request_seeds_is_drawn_again_elsewhere(server: Any, tmp_path: Path) -> None:
    ask(server, tmp_path / "a", 4, send_seed=False)
    _, facts = ask(server, linked(tmp_path / "b", tmp_path / "a"), 4, send_seed=False)
    assert (len(server.seen), facts["reused"]) == (8, 0)


def test_answers_of_another_address_are_not_taken_over(server: Any, tmp_path: Path) -> None:
    ask(server, tmp_path / "a", 4)
    server.url = server.url.replace("127.0.0.1", "localhost")
    _, facts = ask(server, linked(tmp_path / "b", tmp_path / "a"), 4)
    assert (len(server.seen), facts["reused"]) == (8, 0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_faults_are_tried_again_and_counted(server: Any, tmp_path: Path, status: int) -> None:
    def behaviour(handler: Handler, body: dict[str, Any], number: int) -> None:
        handler.reply(status, {"error": {"message": "busy"}}, Retry_After="0") if number <= 2 else echo(
            handler, body, number
        )

    server.behaviour = behaviour
    answers, facts = ask(server, tmp_path, concurrency=1)
    assert all(answer.finish == "stop" for answer in answers)
    assert facts["retries"] == {str(status): 2}
    assert facts["charged_without_answer"] == 0


def test_half_a_stream_and_garbage_are_tried_again_and_count_against_the_budget(server: Any, tmp_path: Path) -> None:
    def behaviour(handler: Handler, body: dict[str, Any], number: int) -> None:
        if number == 1:
            handler.send_response(200)
            handler.send_header("Content-Length", "1000")
            handler.end_headers()
            handler.wfile.write(b'{"choices": [{"mess')
            handler.close_connection = True
        elif number == 2:
            handler.reply(200, b"<html>gateway</html>")
        elif number == 3:
            handler.reply(200, {"choices": []})
        else:
            echo(handler, body, number)

    server.behaviour = behaviour
    answers, facts = ask(server, tmp_path, concurrency=1)
    assert [answer.text for answer in answers][:2] == ["re: question 0", "re: question 1"]
    assert facts["retries"] == {"garbage": 2, "cut off": 1}
    assert facts["charged_without_answer"] == 3
    assert facts["tokens"] > 6 * 15


def test_a_server_that_stays_silent_is_a_timeout_with_the_fix(server: Any, tmp_path: Path) -> None:
    server.behaviour = lambda handler, body, number: time.sleep(1.0)
    with pytest.raises(EnvironmentFault, match="no answer within") as caught:
        ask(server, tmp_path, 2, timeout_s=0.2, retries=1)
    assert "timeout_s" in caught.value.fix


def test_a_server_that_dribbles_is_a_timeout_too(server: Any, tmp_path: Path) -> None:
    def behaviour(handler: Handler, body: dict[str, Any], number: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        for _ in range(12):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.1)

    server.behaviour = behaviour
    with pytest.raises(EnvironmentFault, match="within"):
        ask(server, tmp_path, 1, timeout_s=0.3, retries=0)


def test_a_server_that_fails_for_good_says_how_to_go_on(server: Any, tmp_path: Path) -> None:
    ask(server, tmp_path, 3)
    server.behaviour = lambda handler, body, number: handler.reply(500, b"boom")
    with pytest.raises(EnvironmentFault, match="failed 2 times") as caught:
        ask(server, tmp_path, 6, retries=1)
    assert "3 answers are kept" in caught.value.fix
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(("status", "where"), [(401, "key_env"), (403, "key_env"), (404, "model"), (302, "model")])
def test_what_no_retry_can_mend_stops_at_once(server: Any, tmp_path: Path, status: int, where: str) -> None:
    server.behaviour = lambda handler, body, number: handler.reply(
        status, {"error": {"message": f"Incorrect key {KEY}"}}
    )
    with pytest.raises(UserError) as caught:
        ask(server, tmp_path, 50, concurrency=2)
    assert where in caught.value.where
    assert KEY not in str(caught.value)
    assert len(server.seen) <= 6


def test_no_credit_stops_at_once(server: Any, tmp_path: Path) -> None:
    server.behaviour = lambda handler, body, number: handler.reply(429, {"error": {"code": "insufficient_quota"}})
    with pytest.raises(EnvironmentFault, match="no credit"):
        ask(server, tmp_path, 3)


def test_one_refused_row_is_dropped_with_its_reason_and_the_rest_go_on(server: Any, tmp_path: Path) -> None:
    def behaviour(handler: Handler, body: dict[str, Any], number: int) -> None:
        if body["messages"][-1]["content"] == "question 2":
            handler.reply(400, {"error": {"message": "content policy"}})
        else:
            echo(handler, body, number)

    server.behaviour = behaviour
    answers, _ = ask(server, tmp_path)
    assert answers[2].finish == "refused: 'content policy'"
    assert sum(answer.finish == "stop" for answer in answers) == 5


def test_a_recipe_that_the_endpoint_never_takes_is_an_error(server: Any, tmp_path: Path) -> None:
    server.behaviour = lambda handler, body, number: handler.reply(400, {"error": {"message": "unknown field seed"}})
    with pytest.raises(UserError, match="refuses every request: 'unknown field seed'"):
        ask(server, tmp_path, 20)


def test_the_budget_stops_cleanly_and_raised_it_goes_on(server: Any, tmp_path: Path) -> None:
    prices = Prices(1000.0, 1000.0)  # 15 tokens a row: $0.015; at most $0.058 + 8 new ones
    with pytest.raises(BudgetReached) as caught:
        ask(server, tmp_path, 40, prices, max_usd=0.3)
    assert "max_usd" in caught.value.fix
    assert caught.value.exit_code == 2
    paid = len(server.seen)
    assert 0 < paid * 0.015 <= 0.3
    answers, facts = ask(server, tmp_path, 40, prices, max_usd=10)
    assert len(server.seen) == 40
    assert len(answers) == 40
    assert facts["usd"] == pytest.approx(40 * 0.015)


def test_a_missing_key_and_unsafe_addresses_are_refused(monkeypatch: pytest.MonkeyPatch, server: Any, tmp_path: Path):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EnvironmentFault, match="TEST_KEY is not set"):
        ask(server, tmp_path)
    monkeypatch.setenv("TEST_KEY", KEY)
    server.url = "http://example.org/v1"
    with pytest.raises(UserError, match="unencrypted"):
        ask(server, tmp_path)
    for url in (
        "ftp://x/v1", "x/v1", "https://user:pw@host/v1", "https://host/v1?key=abc", "http://[::1", "https://host:99999/v1",
        "https://host:port/v1", "https://", "https://ho st/v1", "https://host\x1b[2J/v1", "https://host\n/v1", "https://a..b/v1",
        "https://[::1]]/v1", "https://host/v1#x", "", "https:///v1", "http://\udcff/v1", "https://" + "a" * 300 + "/v1",
    ):  # fmt: skip
        with pytest.raises(UserError):
            address(url)
    assert address("https://host/v1/") == "https://host/v1/chat/completions"
    assert address("https://host/v1/chat/completions") == "https://host/v1/chat/completions"


@pytest.mark.parametrize(
    "section",
    [
        {"model": "m"},
        {"model": "m", "max_usd": 1},
        {"model": "m", "max_usd": 1, "input_usd": 1},
        {"model": "m", "max_tokens": 5, "price": "x", "input_usd": 1, "output_usd": 1},
        {"model": "m", "max_tokens": 5, "key_env": "sk-abc"},
        {"model": "m", "max_tokens": 5, "extra": {"stream": True}},
    ],
)
def test_an_endpoint_without_a_budget_or_with_a_key_in_the_recipe_is_no_recipe(section: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"budget|prices|together|not both|pattern|must not hold"):
        Endpoint(**section)


@given(costs=st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), max_size=40), limit=st.integers(1, 500))
def test_a_budget_is_never_overspent(costs: list[tuple[int, int]], limit: int) -> None:
    budget = Budget(Prices(3.0, 7.0), None, limit)
    for prompt, tokens in costs:
        try:
            held = budget.reserve(prompt, tokens)
        except BudgetReached:
            assert budget.tokens + prompt + tokens > limit
            continue
        budget.settle(held, held.usd, prompt + tokens)
        assert budget.tokens <= limit


def test_a_request_waits_for_what_others_hold(tmp_path: Path) -> None:
    budget = Budget(None, None, 100)
    first = budget.reserve(40, 40)
    passed: list[int] = []
    thread = threading.Thread(target=lambda: passed.append(budget.reserve(30, 30).tokens))
    thread.start()
    time.sleep(0.05)
    assert not passed
    budget.settle(first, 0.0, 10)
    thread.join(2)
    assert passed == [60]


def test_rates_hold_over_a_minute() -> None:
    now = [0.0]

    def sleep(seconds: float) -> bool:
        now[0] += seconds
        return False

    limit = RateLimit(60, 1000, clock=lambda: now[0], sleep=sleep)
    times = []
    for _ in range(60):
        limit.take(50)
        times.append(now[0])
    within = [sum(start <= at < start + 60 for at in times) for start in times]
    assert max(within) * 50 <= 1000 + 100 + 50
    limit.pause(20)
    before = now[0]
    limit.take(1)
    assert now[0] >= before + 20


def test_waits() -> None:
    assert retry_after("3") == 3
    assert retry_after("Wed, 21 Oct 2026 07:28:00 GMT", now=1792567660.0) == pytest.approx(20)
    assert retry_after("soon") is None
    assert retry_after("nan") is None
    assert retry_after("1e9") == 300
    # A date without a zone is in UTC, as HTTP has it, wherever this machine is.
    assert retry_after("Wed, 21 Oct 2026 07:28:00", now=1792567660.0) == pytest.approx(20)
    for strange in ("Wed, 99 Foo 2026", "Mon, 01 Jan 0000 00:00:00 GMT", "9" * 5000, "-5", "120, 120", "\x00", "1e400"):
        wait = retry_after(strange)
        assert wait is None or 0 <= wait <= 300
    assert backoff(0, lambda: 1.0) == 0.5
    assert backoff(30, lambda: 1.0) == 60
    assert 0.05 <= backoff(0) <= 0.5


def test_a_journal_keeps_whole_lines_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append({"key": "a", "text": "1"})
    journal.append({"charged": "timeout", "cost_usd": 1})
    journal.close()
    with open(tmp_path / "answers.jsonl", "ab") as file:
        file.write(b'{"key": "b", "te')
    again = Journal(tmp_path)
    again.append({"key": "c", "text": "3"})
    again.close()
    last = Journal(tmp_path)
    assert set(last.answers) == {"a", "c"}
    assert len(last.charges) == 1
    last.close()
