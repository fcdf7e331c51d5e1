"""The methods: how requests for instructions are made, and when there are enough."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from distill2edge.data.examples import Row
from distill2edge.data.templates import Template
from distill2edge.generation.generate import Answer, Ask, Message
from distill2edge.synthesis.candidates import Candidate, candidate

if TYPE_CHECKING:
    from distill2edge.recipe.synthesis import Evolve, Method, Reverse, SelfInstruct, Synthesis, Writing
    from distill2edge.synthesis.similarity import Pool

Request = tuple[Message, ...]
"""A conversation whose last message is the request; what comes before are examples, each a request and its answer."""

Write = Callable[[Sequence[Request], "Writing"], list[Answer]]
"""Requests, and how to draw -> the answers."""


def instructions(
    method: Method,
    rules: Synthesis,
    seeds: Sequence[Row],
    kept: Sequence[Candidate],
    pool: Pool,
    write: Write,
    seed: int,
) -> Iterator[list[Candidate]]:
    """Candidates of one method, batch by batch; those that are in have joined the pool.

    Args:
        seeds: the data's train rows.
        kept: what earlier methods kept.
        seed: of the choice of examples.

    Raises:
        UserError: as the teacher's `generate`; a template that does not render.
    """
    if method.kind == "self-instruct":
        return _self_instruct(method, rules, seeds, pool, write, seed)
    if method.kind == "evolve":
        return _evolve(method, rules, seeds, kept, pool, write)
    return _reverse(method, rules, seeds, pool, write)


def _self_instruct(
    method: SelfInstruct, rules: Synthesis, seeds: Sequence[Row], pool: Pool, write: Write, seed: int
) -> Iterator[list[Candidate]]:
    template = Template(method.prompt, "synthesis.methods.prompt")
    draw, own, asked, found = random.Random(f"{seed} self-instruct"), list[str](), 0, 0
    most = method.max_requests or 8 * method.instructions
    while found < method.instructions and asked < most:
        # Not more than could be needed: what is asked is paid for.
        count = min(method.batch, most - asked, max(4, 2 * (method.instructions - found)))
        requests: list[Request] = []
        for number in range(asked, asked + count):
            mine = draw.sample(own, min(method.of_own, len(own)))
            shown = [*draw.sample([row.prompt for row in seeds], min(method.shown - len(mine), len(seeds))), *mine]
            draw.shuffle(shown)
            ask = template.render({"number": number}, number)
            turns = [turn for task in shown for turn in (("user", ask), ("assistant", task))]
            requests.append((*turns, ("user", ask)))
        asked += count
        batch = []
        for answer in write(requests, method.writing):
            item = candidate(answer, method.kind, pool, rules)
            if not item.dropped:
                own.append(item.text)
                found += 1
            batch.append(item)
        yield batch


def _evolve(
    method: Evolve, rules: Synthesis, seeds: Sequence[Row], kept: Sequence[Candidate], pool: Pool, write: Write
) -> Iterator[list[Candidate]]:
    template = Template(method.prompt, "synthesis.methods.prompt")
    sources = [(item.id, item.text) for item in kept if item.response is None]
    sources = (sources + [(row.id, row.prompt) for row in seeds])[: method.instructions]
    for turn in range(method.rounds):
        requests: list[Request] = []
        for number, (_, text) in enumerate(sources):
            operation = method.operations[(number + turn) % len(method.operations)]
            requests.append((("user", template.render({"task": text, "operation": operation}, number)),))
        answers = write(requests, method.writing) if requests else []
        batch = [
            candidate(answer, method.kind, pool, rules, parent)
            for answer, (parent, _) in zip(answers, sources, strict=True)
        ]
        yield batch
        sources = [(item.id, item.text) for item in batch if not item.dropped]


def _reverse(
    method: Reverse, rules: Synthesis, seeds: Sequence[Row], pool: Pool, write: Write
) -> Iterator[list[Candidate]]:
    template = Template(method.prompt, "synthesis.methods.prompt")
    chosen = seeds[: method.texts]
    requests: list[Request] = []
    for number, row in enumerate(chosen):
        others = [other for other in seeds if other.id != row.id]
        shown = [others[(number * method.shown + turn) % len(others)] for turn in range(method.shown)] if others else []
        turns: list[Message] = []
        for example in shown:
            turns += [("user", template.render({"text": example.response}, number)), ("assistant", example.prompt)]
        requests.append((*turns, ("user", template.render({"text": row.response}, number))))
    answers = write(requests, method.writing)
    yield [
        candidate(answer, method.kind, pool, rules, row.id, row.response)
        for answer, row in zip(answers, chosen, strict=True)
    ]


def ask_of(request: Request, tag: str, system: str | None, template: str) -> Ask:
    """One request under the system message of the recipe."""
    head = (("system", system),) if system and template == "chat" else ()
    return Ask((*head, *request), tag)
