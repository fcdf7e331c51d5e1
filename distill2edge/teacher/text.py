"""Responses that the teacher writes: batched generation in resumable shards, truncated ones dropped and counted."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from distill2edge.data import ledger
from distill2edge.data.conversation import plain_prompt
from distill2edge.data.examples import Row, row_id
from distill2edge.data.filters import refusal
from distill2edge.data.leakage import overlaps
from distill2edge.errors import UserError
from distill2edge.generation.generate import Answer, Ask, Generator, drop_reason
from distill2edge.teacher.turns import Written, write_turns
from distill2edge.util.files import write_text
from distill2edge.util.progress import Progress
from distill2edge.workers.mapping import map_shards

if TYPE_CHECKING:
    from distill2edge.recipe.schema import TextSignal

DROPS = ("truncated", "empty", "refusal")


@dataclass(frozen=True)
class Text:
    """One response that is to be checked.

    Attributes:
        prompt_id: what all samples of one prompt share.
        reference: the data's own response.
    """

    prompt_id: str
    prompt: str
    response: str
    reference: str


@dataclass(frozen=True)
class Checked:
    """What was said of one response: for the ledger, and why it is dropped (empty where it is not)."""

    verdicts: tuple[ledger.Verdict, ...] = ()
    dropped_because: str = ""


Check: TypeAlias = Callable[[Mapping[int, Sequence[Text]], Path, Progress], tuple[list[Checked], dict[str, Any]]]
"""Texts by shard, all samples of a prompt in one; where to keep verdicts; -> one `Checked` for each, and facts."""


def write_responses(
    generator: Generator,
    rows: Sequence[Row],
    signal: TextSignal,
    work: Path,
    progress: Progress,
    *,
    template: str,
    system: str | None,
    seed: int,
    origin: ledger.Origin,
    test: Sequence[Row] = (),
    check: Check | None = None,
) -> dict[str, Any]:
    """Write `shard-00000.jsonl`, ..., check what was written, and write the ledger.

    A line has id of the data's row, prompt (with the teacher's own earlier answers where `turns` is all), response,
    thinking (what the teacher thought aloud: no part of the response), finish (`stop`, `length`, `filtered`,
    `refused: ...`), prompt_tokens, tokens, cost_usd; the samples of one prompt follow each other. A shard is written
    whole or not at all, so a killed run loses one shard at most (and of an endpoint's answers none). What is drawn
    depends on the seed and the shard alone, so a resumed run draws the same. A shard of other rows is written again.

    Args:
        generator: what writes; closed at the end.
        origin: the teacher, for the ledger.
        test: held-out rows, whose overlap with each written row the ledger states.
        check: the verifiers; None where there are none.

    Returns:
        counts: rows, written, truncated, empty, refusal, duplicate, refused (by a verifier), tokens; the ledger's
        summary; of an endpoint `endpoint`: what it was paid; and with a check `verify`: its facts, and how many
        prompts were left without a response.

    Raises:
        UserError: template `text`, llama.cpp without a GGUF, a prompt too long for the teacher, or no usable response.
    """
    if template == "text":
        raise UserError(
            "template text has no prompts to answer", where="data.template", fix="set chat or plain, or signal: logits"
        )
    head = (("system", system),) if system and template == "chat" else ()
    try:
        _write_shards(generator, rows, head, signal, seed, work, progress)
    finally:
        generator.close()
    records = list(_records(work))
    checked, found = _check(records, rows, check, work, progress)
    settings = {**signal.model_dump(mode="json", exclude={"kind", "verify"}), "seed": seed, "backend": generator.name}
    written = _enter(records, checked, origin, settings, test)
    ledger.write(work, written)
    facts = _count(written, records, checked)
    if generator.facts:
        facts["endpoint"] = generator.facts
    if check is not None:
        answered = {record["id"] for record, row in zip(records, written, strict=True) if row.kept}
        facts["verify"] = {**found, "prompts": len(rows), "prompts_without_a_response": len(rows) - len(answered)}
    _tell_dropped(written, checked, progress)
    return {**facts, "ledger": ledger.summary(written)}


def _write_shards(
    generator: Generator,
    rows: Sequence[Row],
    head: tuple[tuple[str, str], ...],
    signal: TextSignal,
    seed: int,
    work: Path,
    progress: Progress,
) -> None:
    """Ask for the shards that are not there yet.

    Args:
        head: turns before each prompt.
    """
    step = generator.shard_rows
    shards = [rows[begin : begin + step] for begin in range(0, len(rows), step)]
    for stale in sorted(work.glob("shard-*.jsonl"))[len(shards) :]:
        stale.unlink()
    asked = [[(row, sample) for row in shard for sample in range(signal.samples)] for shard in shards]
    paths = [work / f"shard-{number:05d}.jsonl" for number in range(len(shards))]
    todo = [n for n, each in enumerate(asked) if not _answers(paths[n], [row.id for row, _ in each])]
    with progress.task("teacher writes", len(rows) * signal.samples) as task:
        task.advance(len(rows) * signal.samples - sum(len(asked[number]) for number in todo))
        given = ((n, (n, [(row.prompt, str(sample) if sample else "") for row, sample in asked[n]])) for n in todo)
        writing = _Writing(generator, signal, head, seed)
        for number, written in map_shards(writing, given, len(todo), task, reads=generator.reads):
            lines = (_line(row, one) for (row, _), one in zip(asked[number], written, strict=True))
            write_text(paths[number], "".join(lines))


@dataclass(frozen=True)
class _Writing:
    """As `workers.mapping.Pass`: what the teacher writes to the prompts of a shard.

    Attributes:
        head: turns before each prompt.
    """

    generator: Generator
    signal: TextSignal
    head: tuple[tuple[str, str], ...]
    seed: int

    def __call__(self, shard: tuple[int, list[tuple[str, str]]], done: Callable[..., None]) -> list[Written]:
        """`shard`: its number, by which it is drawn, and its prompts with their tags."""
        number, prompts = shard
        whole = self.signal.turns == "all"

        def write(asks: Sequence[Ask], turn: int) -> list[Answer]:
            drawn = (self.seed * 1_000_003 + number + 7_919 * turn) % (1 << 31)
            return self.generator.generate(asks, self.signal, drawn, None if whole else done)

        written = write_turns(prompts, self.signal.turns, self.head, write)
        if whole:
            done(len(prompts))
        return written


def _tell_dropped(written: Sequence[ledger.LedgerRow], checked: Sequence[Checked], progress: Progress) -> None:
    """Say how many responses are kept, and why the others are not.

    Raises:
        UserError: none is kept.
    """
    dropped = Counter(ledger.reason_kind(row.dropped_because) for row in written if not row.kept)
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.most_common())
    kept = len(written) - dropped.total()
    if dropped:
        progress.say(f"  {kept:,} of {len(written):,} responses kept; dropped: {reasons}")
    if kept:
        return
    first = next((row.dropped_because for row, item in zip(written, checked, strict=True) if item.verdicts), "")
    raise UserError(
        f"no usable response: {reasons} of {len(written):,}" + (f"; the first: {first}" if first else ""),
        where="signal.verify" if first else "signal",
        fix=_FIXES["check" if first else dropped.most_common(1)[0][0] if dropped else ""],
    )


_FIXES = defaultdict(
    lambda: "raise signal.max_new_tokens, or fit the teacher to the task first",
    check="look at the responses in the ledger (distill2edge data show), then correct the check, or the teacher",
    refused="look at the reasons in the ledger (distill2edge data show), then ask otherwise, or take another teacher",
)
"""What helps, by what most responses were dropped for."""


def read_responses(directory: Path) -> list[Row]:
    """The usable responses as rows, in the data's order."""
    return [Row(row.id, row.prompt, row.response) for row in ledger.read(directory) if row.kept]


def _check(
    records: Sequence[dict[str, Any]], rows: Sequence[Row], check: Check | None, work: Path, progress: Progress
) -> tuple[list[Checked], dict[str, Any]]:
    """What the check says of each record; nothing where the record is dropped anyway, or there is no check."""
    if check is None:
        return [Checked()] * len(records), {}
    references = {row.id: row.response for row in rows}
    sound = [number for number, record in enumerate(records) if _drop(record) is None]
    shards: dict[int, list[Text]] = {}
    for number in sound:
        record = records[number]
        text = Text(record["id"], record["prompt"], record["response"], references[record["id"]])
        shards.setdefault(record["shard"], []).append(text)
    said, facts = check(shards, work, progress)
    found = dict(zip(sound, said, strict=True))
    return [found.get(number, Checked()) for number in range(len(records))], facts


def _enter(
    records: Sequence[dict[str, Any]],
    checked: Sequence[Checked],
    origin: ledger.Origin,
    settings: dict[str, Any],
    test: Sequence[Row],
) -> list[ledger.LedgerRow]:
    """The ledger's rows, in the order of the records. Of samples that are alike the first is kept."""
    asked = overlaps((plain_prompt(record["prompt"]) for record in records), [plain_prompt(row.prompt) for row in test])
    created = ledger.now()
    entered: list[ledger.LedgerRow] = []
    kept: set[tuple[str, str]] = set()
    for record, item, overlap in zip(records, checked, asked, strict=True):
        sample = (record["id"], record["response"])
        because = (
            _drop(record) or item.dropped_because or ("duplicate" if settings["samples"] > 1 and sample in kept else "")
        )
        if not because:
            kept.add(sample)
        entered.append(
            ledger.LedgerRow.make(
                record["prompt"],
                record["response"],
                origin,
                id=row_id(record["prompt"], record["response"]),
                method="text",
                settings=settings,
                verdicts=item.verdicts,
                dropped_because=because,
                overlap=overlap if test else None,
                prompt_tokens=record.get("prompt_tokens", 0),
                response_tokens=record["tokens"],
                cost_usd=record.get("cost_usd", 0.0),
                thinking=record.get("thinking", ""),
                parent=record["id"],
                created=created,
            )
        )
    return entered


def _count(
    written: Sequence[ledger.LedgerRow], records: Sequence[dict[str, Any]], checked: Sequence[Checked]
) -> dict[str, Any]:
    counts = Counter(
        "written" if row.kept else "refused" if item.dropped_because else ledger.reason_kind(row.dropped_because)
        for row, item in zip(written, checked, strict=True)
    )
    names = ("written", *DROPS, "duplicate", "refused")
    return {
        "rows": len(written),
        **{name: counts[name] for name in names},
        "tokens": sum(record["tokens"] for record in records),
    }


def _answers(path: Path, ids: Sequence[str]) -> bool:
    """Whether a shard is there, of these rows: a run that resumes elsewhere (on a GPU) may cut them otherwise."""
    if not path.is_file():
        return False
    return [json.loads(line)["id"] for line in path.read_text(encoding="utf-8").splitlines()] == list(ids)


def _records(directory: Path) -> Iterator[dict[str, Any]]:
    for number, path in enumerate(sorted(directory.glob("shard-*.jsonl"))):
        for line in path.read_text(encoding="utf-8").splitlines():
            yield {**json.loads(line), "shard": number}


def _drop(record: dict[str, Any]) -> str | None:
    if ended := drop_reason(record["finish"]):
        return ended
    if not record["response"].strip():
        return "empty"
    return "refusal" if refusal(record["response"]) else None


def _line(row: Row, written: Written) -> str:
    answer = written.answer
    assert answer is not None
    record = {
        "id": row.id,
        "prompt": written.prompt,
        "response": answer.text,
        "thinking": answer.thinking,
        "finish": answer.finish,
        "prompt_tokens": answer.prompt_tokens,
        "tokens": answer.tokens,
        "cost_usd": answer.cost_usd,
    }
    return json.dumps(record, ensure_ascii=True) + "\n"
