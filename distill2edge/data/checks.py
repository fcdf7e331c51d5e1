"""What is wrong with rows though each is sound: the answer in the prompt, a class or a type that never occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distill2edge.data import leakage
from distill2edge.data.choice_sets import OneChoice
from distill2edge.data.conversation import plain_answer, plain_prompt
from distill2edge.data.described import Described
from distill2edge.data.examples import Row
from distill2edge.errors import UserError
from distill2edge.models.tags import parsed
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.entity_rows import EntityRows

_LONG = 4  # words from which a response does not stand in a prompt by chance
_FEW = 20  # different responses that are names of classes


def check_prompts(rows: Sequence[Row], limit: float, *, shared: bool) -> None:
    """Refuse rows whose prompt holds the response: the student would learn to copy, and the test would praise it.

    A response of few words stands in many honest prompts (the answer to a question about a text). It counts where it
    ends the prompt, or where prompt and response are made of one and the same field.

    Args:
        rows: in no particular order; the first of them are looked at.
        limit: share of rows that may hold it.
        shared: whether a field that the response reads is printed whole in the prompt.

    Raises:
        UserError: more rows than that.
    """
    looked = rows[: Described.FIRST]
    few = len({row.response for row in looked}) <= min(_FEW, len(looked) // 5)
    found = [row for row in looked if _stands(row, anywhere=shared, short=shared or not few)]
    if looked and len(found) / len(looked) > limit:
        raise UserError(
            f"the response stands in the prompt of {len(found)} of {len(looked)} rows that were looked at: for "
            f"instance {plain_answer(found[0].response)[:60]!r} in {plain_prompt(found[0].prompt)[-120:]!r}",
            where="data.prompt",
            fix="take the answer out of the prompt; where answers are meant to be copied from it, raise "
            "data.leakage.response_in_prompt to 1",
        )


def _stands(row: Row, *, anywhere: bool, short: bool) -> bool:
    prompt = plain_prompt(row.prompt)
    prompt = prompt.replace("\\n", " ").replace('\\"', '"') if "\\" in prompt else prompt
    response = leakage.words(plain_answer(row.response))
    if not response or (not short and len(response) < _LONG):
        return False
    text, sought = f" {leakage.normal_form(prompt)} ", f" {' '.join(response)} "
    return sought in text and (anywhere or len(response) >= _LONG or text.endswith(sought))


def _only(splits: Mapping[str, Described], choices: Sequence[str], found: Counter[int], closed: OneChoice) -> str:
    """What all rows have alike, for people; empty where they differ."""
    if not closed.sets:
        return f"the class {choices[next(iter(found))]!r}" if sum(count > 0 for count in found.values()) == 1 else ""
    sets = set[str]().union(*(each.responses for each in splits.values()))
    return f"the labels {next(iter(sets))}" if len(sets) == 1 else ""


def check_classes(
    splits: Mapping[str, Described],
    choices: Sequence[str],
    found: Counter[int],
    progress: Progress,
    closed: OneChoice,
) -> list[str]:
    """Warn of classes that a split lacks, with the counts.

    Args:
        splits: what was counted, by split.
        found: rows of each class in the whole source.
        closed: which classes a row has.

    Returns:
        the warnings.

    Raises:
        UserError: the source has rows of one class alone, or of one set of them.
    """
    only = _only(splits, choices, found, closed)
    if only:
        raise UserError(
            f"every row of the source has {only}: there is nothing to learn, and a score of 1 would mean nothing",
            where="data.choices",
            fix="look at data.response and data.filter, or give rows of the other classes",
        )
    warnings = []
    for name in ("train", "test"):
        counts = splits[name].classes
        absent = [index for index in range(len(choices)) if not counts[index]]
        if absent:
            shown = ", ".join(f"{choices[index]!r} ({found[index]} in the source)" for index in absent[:10])
            more = f" and {len(absent) - 10} more" if len(absent) > 10 else ""
            meaning = "the student cannot learn it" if name == "train" else "the score says nothing about it"
            held = ", ".join(f"{choices[i]!r} {counts[i]}" for i in range(len(choices)) if counts[i])
            warnings.append(
                f"no row of {shown}{more} among the {splits[name].answered:,} {name} rows ({held[:200]}): {meaning}; "
                f"raise data.splits.{name}, or give more such rows"
            )
    for warning in warnings:
        progress.warn(warning)
    return warnings


def check_entities(entities: EntityRows, kept: Mapping[str, Sequence[Row]], progress: Progress) -> dict[str, Any]:
    """What data.json says of entities: how many of each type a split has, and how many begin with I-.

    Raises:
        UserError: rows have tags, and no training row or no test row has an entity.
    """
    counts = {
        name: Counter(entity.label for row in split if row.response for entity in parsed(row.response))
        for name, split in kept.items()
    }
    for name, meaning in (("train", "there is nothing to learn"), ("test", "a score would say nothing")):
        if any(row.response for row in kept[name]) and not counts[name]:
            fix = "look at the tags, or give rows with entities"
            raise UserError(f"no {name} row has an entity: {meaning}", where="data.entities", fix=fix)
    types = entities.tagset.types
    for name, meaning in (("train", "the student cannot learn it"), ("test", "the score says nothing about it")):
        if absent := [label for label in types if not counts[name][label] and counts[name]]:
            progress.warn(f"no {name} row has an entity of type {', '.join(absent[:10])}: {meaning}")
    if entities.strays:
        progress.say(f"data: {entities.strays:,} entities begin with I- and no B-: they are read all the same")
    shown = {name: {label: found[label] for label in types} for name, found in counts.items()}
    return {"entities": shown, "without_b": entities.strays}
