"""A teacher behind an endpoint that writes: conversations in, answers out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.generation.endpoint.asking import Asking, Heard, Read, Request
from distill2edge.generation.endpoint.client import CHAT, conversation_of
from distill2edge.generation.endpoint.reply import Failure, read_reply
from distill2edge.generation.generate import Answer, Ask
from distill2edge.generation.writers import Sampling

if TYPE_CHECKING:
    from distill2edge.generation.endpoint.spending_limit import Prices
    from distill2edge.recipe.endpoint import Endpoint
    from distill2edge.util.progress import Progress

_FRAME = 16  # tokens that a chat template may put around a message
_ALTERNATIVES = 20  # first tokens to name: the most that the protocol allows
_ROOM = 64 << 10  # bytes that an answer may take in the journal


class EndpointGenerator:
    """Asks an OpenAI-compatible endpoint for texts.

    Args:
        url, prices, work: as `Asking`.

    Raises:
        UserError: the environment variable with the key is not set, or the address is not one.
    """

    shard_rows = 1024
    reads = ()

    def __init__(self, url: str, endpoint: Endpoint, prices: Prices | None, work: Path, progress: Progress) -> None:
        self._endpoint = endpoint
        self.name = f"endpoint {endpoint.model}"
        self._asking = Asking(url, CHAT, endpoint, prices, work, progress, _ROOM)

    def generate(
        self, asks: Sequence[Ask], sampling: Sampling, seed: int, done: Callable[..., None] | None = None
    ) -> list[Answer]:
        """As `generation.generate.Generator.generate`.

        Raises:
            UserError, EnvironmentFault: as `Asking.ask`.
        """
        # A draw that the request names no seed of is to be drawn again.
        repeatable = sampling.temperature == 0 or self._endpoint.send_seed
        requests = [self._request(ask, sampling, seed, repeatable) for ask in asks]
        return [_answer(record) for record in self._asking.ask(requests, _reader, done)]

    def fits(self, asks: Sequence[Ask], new: int) -> list[bool]:
        """As `Generator.fits`: nobody says how much an endpoint takes; what it refuses is dropped with its reason."""
        return [True for _ in asks]

    @property
    def facts(self) -> dict[str, Any]:
        """As `Asking.facts`."""
        return self._asking.facts

    def close(self) -> None:
        """Close connections and the file of answers."""
        self._asking.close()

    def _request(self, ask: Ask, sampling: Sampling, seed: int, repeatable: bool) -> Request:
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
        body |= endpoint.extra
        return Request(body, _most_tokens(body), sampling.max_new_tokens, ask.tag, repeatable)


def _reader(request: Request) -> Read:
    return partial(_read, limit=request.new)


def _read(content: bytes, limit: int) -> Heard | Failure:
    reply = read_reply(content, limit)
    if isinstance(reply, Failure):
        return reply
    tokens = reply.tokens
    if tokens is None:
        tokens = min(limit, len(reply.text.encode()) + len(reply.thinking.encode()) + 1)
    kept = {"text": reply.text, "finish": reply.finish, "thinking": reply.thinking}
    return Heard(kept | ({"first": reply.first} if reply.first else {}), reply.prompt_tokens, tokens)


def _answer(record: Mapping[str, Any]) -> Answer:
    counts = record["prompt_tokens"], record["tokens"], record["cost_usd"]
    first = tuple((token, value) for token, value in record.get("first", ()))
    return Answer(record["text"], record["finish"], *counts, record.get("thinking", ""), first)


def _most_tokens(body: Mapping[str, Any]) -> int:
    """No tokenizer takes more tokens than a text has bytes; with what a template adds."""
    said = [message["content"] for message in body["messages"]]
    said += [json.dumps(body[key], ensure_ascii=False) for key in ("tools",) if key in body]
    said += [json.dumps(call, ensure_ascii=False) for each in body["messages"] for call in each.get("tool_calls", ())]
    return sum(len(text.encode("utf-8", "surrogatepass")) + _FRAME for text in said) + _FRAME


def _draw_seed(seed: int, tag: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}\0{tag}".encode()).digest()[:4], "little") >> 1
