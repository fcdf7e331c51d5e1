"""A teacher behind an endpoint: many requests at once, counted, limited, retried, and each answer kept."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.generation.endpoint.client import WHERE, Again, Client, Refused, Reply, conversation_of
from distill2edge.generation.endpoint.journal import Journal, earlier_answers
from distill2edge.generation.endpoint.rate_limits import RateLimit, backoff
from distill2edge.generation.endpoint.spending_limit import Budget, Prices
from distill2edge.generation.generate import Answer, Ask
from distill2edge.generation.writers import Sampling
from distill2edge.util.quantities import readable_usd

if TYPE_CHECKING:
    from distill2edge.recipe.endpoint import Endpoint
    from distill2edge.util.progress import Progress

_FRAME = 16  # tokens that a chat template may put around a message
_ALTERNATIVES = 20  # first tokens to name: the most that the protocol allows
_ROOM = 64 << 10  # bytes that an answer may take in the journal
_HOPELESS = 5  # refused requests, and not one answered: the recipe is wrong, not the rows


class EndpointGenerator:
    """Asks an OpenAI-compatible endpoint.

    Args:
        url: as `Client`.
        work: directory of the answers; a later run of the same stage finds them there. What other stages of the store
            were told by the same endpoint, on the same requests, is taken over.
        prices: None where nothing is charged.

    Raises:
        UserError: the environment variable with the key is not set, or the address is not one.
    """

    shard_rows = 1024

    def __init__(self, url: str, endpoint: Endpoint, prices: Prices | None, work: Path, progress: Progress) -> None:
        self._endpoint, self._progress = endpoint, progress
        self.name = f"endpoint {endpoint.model}"
        self._client = Client(
            url, read_key(endpoint.key_env), timeout_s=endpoint.timeout_s, connections=endpoint.concurrency
        )
        self._budget = Budget(prices, endpoint.max_usd, endpoint.max_tokens)
        self._priced = prices is not None
        self._stop = threading.Event()
        self._limit = RateLimit(endpoint.requests_per_minute, endpoint.tokens_per_minute, sleep=self._stop.wait)
        self._journal = Journal(work, endpoint.concurrency * _ROOM)
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

    def generate(
        self, asks: Sequence[Ask], sampling: Sampling, seed: int, done: Callable[..., None] | None = None
    ) -> list[Answer]:
        """As `generation.generate.Generator.generate`.

        Raises:
            BudgetReached: the next request could go over the budget. What was answered is kept.
            EnvironmentFault: the endpoint stays unreachable, overloaded or broken after all tries, or has no credit.
            UserError: it refuses the key, the address, the model, or every request.
        """
        bodies = [self._body(ask, sampling, seed) for ask in asks]
        keys = [_key(body, ask.tag) for body, ask in zip(bodies, asks, strict=True)]
        refused: dict[str, str] = {}
        self._tell(bodies, keys, sampling)

        def one(key: str, body: Mapping[str, Any]) -> None:
            if key not in self._journal.answers and not self._take_over(key, sampling):
                try:
                    self._ask(key, body, sampling)
                except Refused as fault:
                    refused[key] = str(fault)
                    self._check_hope(str(fault))
            if done:
                done(1, self._budget.note())

        self._run(one, list(zip(keys, bodies, strict=True)))
        return [self._answer(key, refused) for key in keys]

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        """As `Generator.fits`: nobody says how much an endpoint takes; what it refuses is dropped with its reason."""
        return [True for _ in asks]

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

    def _reusable(self, key: str, sampling: Sampling) -> bool:
        """Whether another stage has the answer; a draw that the request names no seed of is to be drawn again."""
        return key in self._earlier and (sampling.temperature == 0 or self._endpoint.send_seed)

    def _take_over(self, key: str, sampling: Sampling) -> bool:
        """Enter the answer that another stage has paid for, if there is one."""
        if not self._reusable(key, sampling):
            return False
        self._journal.append({**self._earlier[key], "reused": True})
        return True

    def _ask(self, key: str, body: Mapping[str, Any], sampling: Sampling) -> None:
        most = most_tokens(body)
        for attempt in range(self._endpoint.retries + 1):
            held = self._budget.reserve(most, sampling.max_new_tokens)
            used = (0.0, 0)
            try:
                self._limit.take(held.tokens)
                if self._stop.is_set():
                    return
                reply = self._client.complete(body, sampling.max_new_tokens)
                record = self._record(key, reply, most, sampling)
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
                        {"charged": fault.kind, "cost_usd": held.usd, "prompt_tokens": most,
                         "tokens": sampling.max_new_tokens}
                    )  # fmt: skip
                if self._stop.is_set():
                    return
                if attempt == self._endpoint.retries:
                    if not self._may_drop(fault):
                        raise self._gives_up(fault) from fault
                    self._journal.append(_dropped(key, fault))
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

    def _record(self, key: str, reply: Reply, most: int, sampling: Sampling) -> dict[str, Any]:
        """The journal's line. Where the endpoint does not count, the most it can have been is counted."""
        prompt = most if reply.prompt_tokens is None else reply.prompt_tokens
        tokens = reply.tokens
        if tokens is None:
            tokens = min(sampling.max_new_tokens, len(reply.text.encode()) + len(reply.thinking.encode()) + 1)
        return {
            "key": key,
            "at": self._at,
            "text": reply.text,
            "finish": reply.finish,
            "thinking": reply.thinking,
            **({"first": reply.first} if reply.first else {}),
            "prompt_tokens": prompt,
            "tokens": tokens,
            "cost_usd": self._budget.prices.cost(prompt, tokens),
        }

    def _body(self, ask: Ask, sampling: Sampling, seed: int) -> dict[str, Any]:
        endpoint = self._endpoint
        body = {
            "model": endpoint.model,
            **conversation_of(ask.messages),
            endpoint.limit_field: sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
        }
        if endpoint.send_seed:
            body["seed"] = _draw_seed(seed, ask.tag)
        if ask.logprobs:
            body |= {"logprobs": True, "top_logprobs": _ALTERNATIVES}
        return {**body, **endpoint.extra}

    def _answer(self, key: str, refused: Mapping[str, str]) -> Answer:
        record = self._journal.answers.get(key)
        if record is None:
            return Answer("", f"refused: {refused[key]}", 0, 0)
        counts = record["prompt_tokens"], record["tokens"], record["cost_usd"]
        first = tuple((token, value) for token, value in record.get("first", ()))
        return Answer(record["text"], record["finish"], *counts, record.get("thinking", ""), first)

    # --- many -----------------------------------------------------------------------

    def _tell(self, bodies: Sequence[Mapping[str, Any]], keys: Sequence[str], sampling: Sampling) -> None:
        """Before anything is spent: the limit, and what these requests may take at most; again only of more of them."""
        if len(bodies) <= self._told:
            return
        self._told = len(bodies)
        missing = {key: body for key, body in zip(keys, bodies, strict=True) if key not in self._journal.answers}
        new = [body for key, body in missing.items() if not self._reusable(key, sampling)]
        if len(new) < len(missing):
            self._progress.say(
                f"endpoint: {len(missing) - len(new):,} of {len(missing):,} answers were paid for by an earlier run"
            )
        prompt, tokens = sum(map(most_tokens, new)), len(new) * sampling.max_new_tokens
        most = f"at most {prompt + tokens:,} tokens"
        most += f", {readable_usd(self._budget.prices.cost(prompt, tokens))}" if self._priced else ""
        endpoint = self._endpoint
        limits = [f"${endpoint.max_usd:g}"] if endpoint.max_usd is not None else []
        limits += [f"{endpoint.max_tokens:,} tokens"] if endpoint.max_tokens is not None else []
        self._progress.say(
            f"endpoint {endpoint.model}: budget {' and '.join(limits)}, {self._budget.note()} spent; "
            f"the next {len(new):,} requests take {most}"
        )

    def _run(
        self, one: Callable[[str, Mapping[str, Any]], None], work: Sequence[tuple[str, Mapping[str, Any]]]
    ) -> None:
        """Every request in a pool of threads; the first error stops the rest, and answers under way are waited for."""

        def guarded(key: str, body: Mapping[str, Any]) -> None:
            try:
                one(key, body)
            except BaseException:
                self._stop.set()  # at once: what waits in the queue is not sent
                raise

        pool = ThreadPoolExecutor(self._endpoint.concurrency)
        futures: list[Future[None]] = []
        try:
            # The same request twice in one call is asked once.
            futures = [pool.submit(guarded, key, body) for key, body in dict(work).items()]
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


def most_tokens(body: Mapping[str, Any]) -> int:
    """No tokenizer takes more tokens than a text has bytes; with what a template adds."""
    said = [message["content"] for message in body["messages"]]
    said += [json.dumps(body[key], ensure_ascii=False) for key in ("tools",) if key in body]
    said += [json.dumps(call, ensure_ascii=False) for each in body["messages"] for call in each.get("tool_calls", ())]
    return sum(len(text.encode("utf-8", "surrogatepass")) + _FRAME for text in said) + _FRAME


def _dropped(key: str, fault: Again) -> dict[str, Any]:
    """The journal's line of a row that no reply can be read of; each try is counted in a line of its own."""
    nothing = {"text": "", "thinking": "", "prompt_tokens": 0, "tokens": 0, "cost_usd": 0.0}
    return {"key": key, "finish": f"unreadable: {fault.what}", **nothing}


def _key(body: Mapping[str, Any], tag: str) -> str:
    return hashlib.sha256(json.dumps([body, tag], sort_keys=True).encode()).hexdigest()[:32]


def _draw_seed(seed: int, tag: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{tag}".encode()).digest()[:4], "little") >> 1
