"""The `synthesis` stage: instructions, responses, filters, held-out rows; every generated row is in the ledger."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data import ledger
from distill2edge.data.conversation import is_chat
from distill2edge.data.encode import SPLITS
from distill2edge.data.examples import Row, row_id
from distill2edge.data.leakage import overlaps
from distill2edge.data.split_files import describe_rows, read_rows, write_split
from distill2edge.errors import UserError
from distill2edge.generation.generate import Answer, Generator
from distill2edge.synthesis.candidates import Candidate, response_fault
from distill2edge.synthesis.methods import Request, ask_of, instructions
from distill2edge.synthesis.recorded import Recorded
from distill2edge.synthesis.similarity import Pool
from distill2edge.util.files import read_json, write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.recipe.synthesis import Synthesis, Writing


def synthesise(
    spec: Synthesis,
    data_dir: Path,
    generator: Generator,
    work: Path,
    progress: Progress,
    *,
    origin: ledger.Origin,
    template: str,
    system: str | None,
    seed: int,
) -> dict[str, Any]:
    """Write the splits, `data.json` and `ledger.parquet` in the layout of the data stage.

    A killed run resumes from the last whole shard (`written-*.jsonl`); what follows from answers is computed again and
    comes out the same. The data's own instructions, held-out ones included, are in the pool from the start, so that no
    generated row is nearly one of them.

    Args:
        data_dir: the data stage's artifact.
        generator: what writes; closed at the end.
        origin: the teacher, for the ledger.
        template, system: as the recipe's data has them.

    Returns:
        rows of each split, requests, the ledger's summary, and of an endpoint what it was paid.

    Raises:
        UserError: template `text`; nothing is left, or less than the held-out splits take; as the teacher's `generate`.
    """
    own = {name: read_rows(data_dir, name) for name in SPLITS}
    _refuse_rows(own["train"], template)
    pool = Pool(spec.near_duplicate)
    for row in (row for name in SPLITS for row in own[name]):
        pool.add(row.prompt, row.id)
    recorded = Recorded(generator, work, seed)
    try:
        found = _instructions(spec, own["train"], pool, recorded, progress, (template, system), seed)
        answered = _responses(spec, found, recorded, progress, (template, system))
    finally:
        generator.close()
    splits = _splits(spec, own, _kept(answered), seed)
    for name in SPLITS:
        write_split(work / f"{name}.parquet", splits[name])
    rows = _ledger(spec, answered, splits, origin, {"seed": seed, "backend": generator.name})
    ledger.write(work, rows)
    summary = ledger.summary(rows)
    facts = {
        "splits": {name: describe_rows(splits[name]) for name in SPLITS},
        "methods": [method.kind for method in spec.methods],
        "ledger": summary,
        **({"endpoint": generator.facts} if generator.facts else {}),
    }
    write_json(work / "data.json", {**read_json(data_dir / "data.json"), "splits": facts["splits"], "synthesis": facts})
    dropped = ", ".join(f"{count:,} {reason}" for reason, count in summary["dropped"].items())
    progress.say(f"synthesis: {summary['kept']:,} of {summary['rows']:,} rows kept; dropped: {dropped or 'none'}")
    return facts


def _refuse_rows(rows: Sequence[Row], template: str) -> None:
    if template == "text":
        raise UserError("template text has no instructions", where="data.template", fix="set chat or plain")
    if not rows:
        raise UserError("there are no rows to start from", where="data", fix="give data.splits.train some rows")
    if any(is_chat(row.prompt) for row in rows):
        raise UserError(
            "synthesis starts from prompts of one message, and these rows are conversations",
            where="synthesis",
            fix="leave synthesis out, or give rows of one question and one answer",
        )


def _instructions(
    spec: Synthesis,
    seeds: Sequence[Row],
    pool: Pool,
    recorded: Recorded,
    progress: Progress,
    frame: tuple[str, str | None],
    seed: int,
) -> list[Candidate]:
    found: list[Candidate] = []
    for method in spec.methods:
        made = 0

        def write(requests: Sequence[Request], writing: Writing) -> list[Answer]:
            nonlocal made
            asks = [ask_of(one, str(made + number), frame[1], frame[0]) for number, one in enumerate(requests)]
            made += len(asks)
            return recorded.ask(asks, writing)

        kept = [item for item in found if not item.dropped]
        wanted = method.texts if method.kind == "reverse" else method.instructions
        with progress.task(f"{method.kind} instructions", wanted) as task:
            for batch in instructions(method, spec, seeds, kept, pool, write, seed):
                found += batch
                new = sum(not item.dropped for item in batch)
                task.advance(new, f"{made:,} requests")
        whole = [item for item in found if item.method == method.kind]
        progress.say(
            f"  {method.kind}: {sum(not item.dropped for item in whole):,} of {len(whole):,} instructions kept"
        )
        if method.kind == "self-instruct" and sum(not item.dropped for item in whole) < method.instructions:
            progress.warn(f"self-instruct stopped at {made:,} requests, before it had {method.instructions:,}")
    return found


def _responses(
    spec: Synthesis, found: Sequence[Candidate], recorded: Recorded, progress: Progress, frame: tuple[str, str | None]
) -> list[tuple[Candidate, Answer | None, str]]:
    """Every candidate with its response (None where it was out before, or brings one), and why it is dropped."""
    waiting = [number for number, item in enumerate(found) if not item.dropped and item.response is None]
    asked = {number: ask_of((("user", found[number].text),), "", frame[1], frame[0]) for number in waiting}
    fits = recorded.generator.fits(list(asked.values()), spec.responses.max_new_tokens)
    too_long = {number for number, room in zip(waiting, fits, strict=True) if not room}
    waiting = [number for number in waiting if number not in too_long]
    answers: dict[int, Answer] = {}
    with progress.task("the teacher answers", len(waiting)) as task:
        step = recorded.generator.shard_rows
        for begin in range(0, len(waiting), step):
            part = waiting[begin : begin + step]
            asks = [asked[number] for number in part]
            answers |= dict(zip(part, recorded.ask(asks, spec.responses, task.advance), strict=True))
    entries: list[tuple[Candidate, Answer | None, str]] = []
    for number, item in enumerate(found):
        answer = answers.get(number)
        if number in too_long:
            item = replace(item, dropped="too long for the teacher")
        fault = item.dropped or (response_fault(answer, spec) if answer is not None else "")
        entries.append((item if answer is None else replace(item, response=answer.text), answer, fault))
    return entries


def _kept(answered: Sequence[tuple[Candidate, Answer | None, str]]) -> list[tuple[Candidate, Answer | None]]:
    """The rows without a fault.

    Raises:
        UserError: there is none.
    """
    kept = [(item, answer) for item, answer, fault in answered if not fault]
    if not kept:
        reasons = Counter(ledger.reason_kind(fault) for _, _, fault in answered)
        said = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
        raise UserError(
            f"nothing is left of {len(answered):,} generated rows: {said or 'none was written'}",
            where="synthesis",
            fix="raise synthesis.responses.max_new_tokens or near_duplicate, or take a more able teacher",
        )
    return kept


def _splits(
    spec: Synthesis, own: dict[str, list[Row]], kept: Sequence[tuple[Candidate, Answer | None]], seed: int
) -> dict[str, list[Row]]:
    """Held-out rows are the teacher's alone: a human text says nothing about what the teacher would answer."""
    taught = [(_row(item), answer is not None) for item, answer in kept]
    taught.sort(key=lambda pair: hashlib.sha256(f"{seed}\0{pair[0].id}".encode()).digest())
    splits = dict(own)
    taken: set[str] = set()
    for name in ("test", "validation", "calibration"):
        wanted = getattr(spec.held_out, name)
        if not wanted:
            continue
        pick = [row for row, distilled in taught if distilled and row.id not in taken][:wanted]
        if len(pick) < wanted:
            raise UserError(
                f"{sum(distilled for _, distilled in taught)} rows written by the teacher were kept, but the "
                "held-out splits take more",
                where=f"synthesis.held_out.{name}",
                fix="lower it, or raise the instructions of synthesis.methods",
            )
        taken |= {row.id for row in pick}
        splits[name] = pick
    train = [row for row, _ in taught if row.id not in taken]
    if not train:
        raise UserError(
            "no row is left to train on", where="synthesis.held_out", fix="lower it, or ask for more instructions"
        )
    splits["train"] = train + (own["train"] if spec.keep_data else [])
    return splits


def _ledger(
    spec: Synthesis,
    entries: Sequence[tuple[Candidate, Answer | None, str]],
    splits: dict[str, list[Row]],
    origin: ledger.Origin,
    settings: dict[str, Any],
) -> list[ledger.LedgerRow]:
    places = {row.id: name for name in SPLITS for row in splits[name]}
    near = overlaps((item.text for item, _, _ in entries), [row.prompt for row in splits["test"]])
    created, drawn = ledger.now(), spec.responses.model_dump(mode="json")
    rows = []
    for (item, answer, fault), overlap in zip(entries, near, strict=True):
        identity = row_id(item.text, item.response or "")
        split = places.get(identity, "") if not fault else ""
        rows.append(
            ledger.LedgerRow.make(
                item.text,
                item.response or "",
                origin,
                id=identity,
                method=item.method,
                settings={**settings, **({"split": split} if split else {}), **drawn},
                dropped_because=fault,
                distillation=item.method != "reverse",
                overlap=None if split == "test" else overlap,
                # Of both requests: the one that wrote the instruction, and the one that answered it.
                prompt_tokens=item.prompt_tokens + (answer.prompt_tokens if answer else 0),
                response_tokens=item.tokens + (answer.tokens if answer else 0),
                cost_usd=item.cost_usd + (answer.cost_usd if answer else 0.0),
                thinking=answer.thinking if answer else "",
                parent=item.parent,
                created=created,
            )
        )
    return rows


def _row(item: Candidate) -> Row:
    return Row(row_id(item.text, item.response or ""), item.text, item.response or "")
