"""Requests to an endpoint: many at once, counted, limited, retried, and each answer kept, whatever is asked for."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint.client import WHERE, Again, Client, Refused
from distill2edge.generation.endpoint.journal import Journal, earlier_answers
from distill2edge.generation.endpoint.rate_limits import RateLimit, backoff
from distill2edge.generation.endpoint.reply import Failure
from distill2edge.generation.endpoint.spending_limit import Budget, Prices
from distill2edge.util.quantities import readable_usd

if TYPE_CHECKING:
    from distill2edge.recipe.endpoint import Endpoint
    from distill2edge.util.progress import Progress

_HOPELESS = 5  # refused requests, and not one answered: the recipe is wrong, not the rows


@dataclass(frozen=True)
class Request:
    """One request.

    Attributes:
        body: its JSON.
        prompt, new: tokens of the prompt and of the answer, at most.
        tag: distinguishes two requests of the same body, so that each keeps its answer.
        repeatable: whether it gets the same answer again, so that one that another stage was given serves.
    """

    body: Mapping[str, Any]
    prompt: int
    new: int
    tag: str = ""
    repeatable: bool = True

    @cached_property
    def key(self) -> str:
        """Hash of body and tag: 32 hexadecimal digits."""
        return hashlib.sha256(json.dumps([self.body, self.tag], sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Heard:
    """A reply that could be read.

    Attributes:
        kept: what the journal keeps of it.
        prompt_tokens: as the endpoint counts; None where it does not.
        tokens: of the answer, counted by the endpoint or bounded by what came.
    """

    kept: Mapping[str, Any]
    prompt_tokens: int | None
    tokens: int


Read = Callable[[bytes], Heard | Failure]
"""Reads the body of a response with status 200; raises `reply.Unreadable` where it cannot."""


class Asking:
    """Asks an OpenAI-compatible endpoint.

    Args:
        url: as `Client`.
        path: of the requests under it.
        work: directory of the answers; a later run of the same stage finds them there. What other stages of the store
            were told by the same endpoint, on the same requests, is taken over.
        prices: None where nothing is charged.
        room: bytes that one answer may take in the journal.

    Raises:
        UserError: the environment variable with the key is not set, or the address is not one.
    """

    def __init__(
        self, url: str, path: str, endpoint: Endpoint, prices: Prices | None, work: Path, progress: Progress, room: int
    ) -> None:
        self._endpoint, self._progress = endpoint, progress
        self._client = Client(
            url, read_key(endpoint.key_env), path=path, timeout_s=endpoint.timeout_s, connections=endpoint.concurrency
        )
        self._budget = Budget(prices, endpoint.max_usd, endpoint.max_tokens)
        self._priced = prices is not None
        self._stop = threading.Event()
        self._limit = RateLimit(endpoint.requests_per_minute, endpoint.tokens_per_minute, sleep=self._stop.wait)
        self._journal = Journal(work, endpoint.concurrency * room)
        self._retries, self._lock = Counter[str](), threading.Lock()
        self._refused, self._answered, self._unreadable = 0, 0, 0
        self._at = hashlib.sha256(url.encode()).hexdigest()[:12]
        self._earlier = earlier_answers(work, self._at)
        own = [record for record in self._journal.answers.values() if not record.get("reused")]
        for record in (*own, *self._journal.charges):
            self._budget.count(record["cost_usd"], record["prompt_tokens"] + record["tokens"])
        if self._journal.answers:
            progress.say(f"endpoint: {len(self._journal.answers):,} answers are here already ({self._budget.note()})")
        self._told = 0

    @property
    def url(self) -> str:
        """The address that is asked."""
        return self._client.url

    def ask(
        self, requests: Sequence[Request], read: Callable[[Request], Read], done: Callable[..., None] | None = None
    ) -> list[dict[str, Any]]:
        """The journal's record of each request, in order; `finish` is `refused: reason` where there is none.

        Args:
            read: gives what reads the reply to a request.
            done: called with the number of newly finished requests, and a note.

        Raises:
            BudgetReached: the next request could go over the budget. What was answered is kept.
            EnvironmentFault: the endpoint stays unreachable, overloaded or broken after all tries, or has no credit.
            UserError: it refuses the key, the address, the model, or every request.
        """
        refused: dict[str, str] = {}
        self._tell(requests)

        def one(request: Request) -> None:
            if request.key not in self._journal.answers and not self._take_over(request):
                try:
                    self._ask(request, read(request))
                except Refused as fault:
                    refused[request.key] = str(fault)
                    self._check_hope(str(fault))
            if done:
                done(1, self._budget.note())

        self._run(one, requests)
        return [self._journal.answers.get(each.key) or _refusal(refused[each.key]) for each in requests]

    @property
    def facts(self) -> dict[str, Any]:
        """What the answers have cost, and which faults were met: {usd, tokens, reused, retries {kind: count}}.

        Those of `reused` were paid for by an earlier stage, whose prices are in the sums all the same.
        """
        reused = [record for record in self._journal.answers.values() if record.get("reused")]
        return {
            "usd": round(self._budget.usd + sum(record["cost_usd"] for record in reused), 6),
            "tokens": self._budget.tokens + sum(record["prompt_tokens"] + record["tokens"] for record in reused),
            "reused": len(reused),
            "priced": self._priced,
            "retries": dict(self._retries.most_common()),
            "charged_without_answer": len(self._journal.charges),
        }

    def close(self) -> None:
        """Close connections and the file of answers."""
        self._client.close()
        self._journal.close()
        if self._retries:
            faults = ", ".join(f"{count} x {kind}" for kind, count in self._retries.most_common())
            self._progress.say(f"endpoint: retried after {faults}; {self._budget.note()} spent")

    # --- one request ----------------------------------------------------------------

    def _reusable(self, request: Request) -> bool:
        """Whether another stage has the answer."""
        return request.repeatable and request.key in self._earlier

    def _take_over(self, request: Request) -> bool:
        """Enter the answer that another stage has paid for, if there is one."""
        if not self._reusable(request):
            return False
        self._journal.append({**self._earlier[request.key], "reused": True})
        return True

    def _ask(self, request: Request, read: Read) -> None:
        for attempt in range(self._endpoint.retries + 1):
            held = self._budget.reserve(request.prompt, request.new)
            used = (0.0, 0)
            try:
                self._limit.take(held.tokens)
                if self._stop.is_set():
                    return
                record = self._record(request, self._client.send(request.body, read))
                used = (record["cost_usd"], record["prompt_tokens"] + record["tokens"])
                self._journal.append(record)  # before anything else can fail
                with self._lock:
                    self._answered, self._unreadable = self._answered + 1, 0
                return
            except Again as fault:
                if fault.charged:
                    # Nobody knows whether it was charged, so a hard budget must count it in full.
                    used = (held.usd, held.tokens)
                    self._journal.append(
                        {"charged": fault.kind, "cost_usd": held.usd, "prompt_tokens": request.prompt,
                         "tokens": request.new}
                    )  # fmt: skip
                if self._stop.is_set():
                    return
                if attempt == self._endpoint.retries:
                    if not self._may_drop(fault):
                        raise self._gives_up(fault) from fault
                    self._journal.append(_dropped(request.key, fault))
                    return
                pause = self._pause(fault, attempt)
            finally:
                self._budget.settle(held, *used)
            if self._stop.wait(pause):
                return

    def _pause(self, fault: Again, attempt: int) -> float:
        """Count a fault; seconds before the next try. What the server asks for holds for every request."""
        with self._lock:
            self._retries[fault.kind] += 1
        if fault.wait_s is None:
            return backoff(attempt)
        self._limit.pause(fault.wait_s)
        return fault.wait_s + backoff(0)

    def _may_drop(self, fault: Again) -> bool:
        """Whether one row is at fault rather than the server: its reply cannot be read, and those to others can."""
        if fault.kind != "garbage":
            return False
        with self._lock:
            self._unreadable += 1
            return self._unreadable < _HOPELESS and bool(self._answered or self._journal.answers)

    def _gives_up(self, fault: Again) -> EnvironmentFault:
        tries = self._endpoint.retries + 1
        fixes = {
            "unreachable": "start the server, or check the address",
            "timeout": "raise teacher.endpoint.timeout_s, or lower teacher.endpoint.concurrency",
            "429": "set teacher.endpoint.requests_per_minute or tokens_per_minute to what you may use",
        }
        fix = fixes.get(fault.kind, "try later, or raise teacher.endpoint.retries")
        return EnvironmentFault(
            f"the endpoint failed {tries} times on one request; the last time: {fault.what}",
            where=WHERE,
            fix=f"{fix}; the same command resumes: {len(self._journal.answers):,} answers are kept",
        )

    def _check_hope(self, said: str) -> None:
        with self._lock:
            self._refused += 1
            hopeless = not self._answered and not self._journal.answers and self._refused >= _HOPELESS
        if hopeless:
            raise UserError(
                f"the endpoint refuses every request: {said}",
                where=WHERE,
                fix="check teacher.endpoint.model, limit_field, send_seed and extra against what the server knows",
            )

    def _record(self, request: Request, heard: Heard) -> dict[str, Any]:
        """The journal's line. Where the endpoint does not count, the most it can have been is counted."""
        prompt = request.prompt if heard.prompt_tokens is None else heard.prompt_tokens
        return {
            "key": request.key,
            "at": self._at,
            **heard.kept,
            "prompt_tokens": prompt,
            "tokens": heard.tokens,
            "cost_usd": self._budget.prices.cost(prompt, heard.tokens),
        }

    # --- many -----------------------------------------------------------------------

    def _tell(self, requests: Sequence[Request]) -> None:
        """Before anything is spent: the limit, and what these requests may take at most; again only of more of them."""
        if len(requests) <= self._told:
            return
        self._told = len(requests)
        missing = {each.key: each for each in requests if each.key not in self._journal.answers}
        new = [each for each in missing.values() if not self._reusable(each)]
        if len(new) < len(missing):
            self._progress.say(
                f"endpoint: {len(missing) - len(new):,} of {len(missing):,} answers were paid for by an earlier run"
            )
        prompt, tokens = sum(each.prompt for each in new), sum(each.new for each in new)
        most = f"at most {prompt + tokens:,} tokens"
        most += f", {readable_usd(self._budget.prices.cost(prompt, tokens))}" if self._priced else ""
        endpoint = self._endpoint
        limits = [f"${endpoint.max_usd:g}"] if endpoint.max_usd is not None else []
        limits += [f"{endpoint.max_tokens:,} tokens"] if endpoint.max_tokens is not None else []
        self._progress.say(
            f"endpoint {endpoint.model}: budget {' and '.join(limits)}, {self._budget.note()} spent; "
            f"the next {len(new):,} requests take {most}"
        )

    def _run(self, one: Callable[[Request], None], requests: Sequence[Request]) -> None:
        """Every request in a pool of threads; the first error stops the rest, and answers under way are waited for."""

        def guarded(request: Request) -> None:
            try:
                one(request)
            except BaseException:
                self._stop.set()  # at once: what waits in the queue is not sent
                raise

        pool = ThreadPoolExecutor(self._endpoint.concurrency)
        futures: list[Future[None]] = []
        try:
            # The same request twice in one call is asked once.
            futures = [pool.submit(guarded, each) for each in {each.key: each for each in requests}.values()]
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            self._stop.set()
            if any(not future.done() for future in futures):
                self._progress.say("endpoint: waiting for the answers in flight, so that they are not paid for twice")
            pool.shutdown(wait=True, cancel_futures=True)
            self._stop.clear()
        for future in futures:
            if not future.cancelled() and (fault := future.exception()):
                raise fault


def read_key(name: str | None) -> str | None:
    """The key of an environment variable; None where the recipe names none.

    Raises:
        EnvironmentFault: it is not set.
    """
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise EnvironmentFault(
            f"the environment variable {name} is not set", where=f"{WHERE}.key_env", fix=f"export {name}=..."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise EnvironmentFault(
            f"{name} holds characters that no key can have", where=f"{WHERE}.key_env", fix="set it again"
        )
    return key


def _refusal(said: str) -> dict[str, Any]:
    """In place of the record of a request that the endpoint does not take."""
    return _nothing(f"refused: {said}")


def _dropped(key: str, fault: Again) -> dict[str, Any]:
    """The journal's line of a row that no reply can be read of; each try is counted in a line of its own."""
    return {"key": key, **_nothing(f"unreadable: {fault.what}")}


def _nothing(finish: str) -> dict[str, Any]:
    return {"text": "", "thinking": "", "finish": finish, "prompt_tokens": 0, "tokens": 0, "cost_usd": 0.0}
