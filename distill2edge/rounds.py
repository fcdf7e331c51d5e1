"""Rounds of self-improvement: a model writes, what it wrote is checked, it is trained on what is left. The graph part.

Every round is three stages like any other (`signal`, `distill`, `merge`), cached and resumed by the store. The
student's own path is the verified arm, whose last round carries the plain names; beside it the same without checks; and
the model as it was, which trains no more. The warning is Llama 3's (Grattafiori 2024, arXiv 2407.21783).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from distill2edge import steps
from distill2edge.checkpoint import load_tokenizer
from distill2edge.files import write_json
from distill2edge.pipeline import Inputs
from distill2edge.progress import Progress
from distill2edge.recipe.canonical import canonical
from distill2edge.recipe.schema import Recipe, TextSignal
from distill2edge.tasks import task_of
from distill2edge.tasks.base import Facts

Add = Callable[[str, Any, tuple[str, ...], Any], str]
VERIFIED, UNVERIFIED, NONE = "verified", "unverified", "no self-training"
_NO_PART = {"control", "on_policy", "quantization_aware"}
"""Of `distill`: other arms and later stages, no part of a round."""
_SEEDS = 7919  # between the seeds of two rounds, so that no round draws what another drew


def add_rounds(
    add: Add, recipe: Recipe, rows: Any, read: Any, data: str, base: str, teacher: str, student: str
) -> tuple[str, str]:
    """Add the stages of every round and arm, and the one that scores them.

    Args:
        add: of `stages.build_stages`: name, section, parents, what writes -> name.
        rows: the part of the data section that keys depend on.
        read: contents of the files that the verifiers name.
        data, base, teacher, student: names of those stages.

    Returns:
        names of the last verified merge, and of the scores.
    """
    assert recipe.rounds is not None
    arms = (VERIFIED, UNVERIFIED) if recipe.rounds.unverified else (VERIFIED,)
    last = ""
    merged: dict[str, list[str]] = {arm: [student] for arm in arms}
    signals: dict[str, list[str]] = {arm: [] for arm in arms}
    for arm in arms:
        for number in range(1, recipe.rounds.count + 1):
            plain = arm == VERIFIED and number == recipe.rounds.count
            suffix = "" if plain else f" {arm} {number}"
            model, own = merged[arm][-1], _of_round(recipe, arm, number)
            section = {
                "signal": canonical(own.signal), "rows": rows, "ledger": 3, "round": number,
                "read": read if arm == VERIFIED else None,
            }  # fmt: skip
            parents = tuple(dict.fromkeys((data, base, teacher, model)))
            signal = add(f"signal{suffix}", section, parents, partial(_write_signal, own, model))
            section = {"distill": canonical(recipe.distill, _NO_PART), "lora": canonical(recipe.student.lora)}
            trained = add(
                f"distill{suffix}",
                {**section, "rows": rows, "signal": "text", "round": number},
                (data, model, signal),
                partial(steps.write_distill, own, own.distill, "text", model, signal),
            )
            last = add(
                f"merge{suffix}",
                {"rows": rows},
                (data, model, trained),
                partial(steps.write_merge, own, model, trained),
            )
            merged[arm].append(last)
            signals[arm].append(signal)
    everything = tuple(dict.fromkeys((data, *(name for arm in arms for name in (*merged[arm], *signals[arm])))))
    section = {"verify_rows": recipe.verify.rows, "rows": rows, "count": recipe.rounds.count, "arms": list(arms)}
    scores = add("rounds", section, everything, partial(_write_scores, recipe, merged, signals))
    return merged[VERIFIED][-1], scores


def _of_round(recipe: Recipe, arm: str, number: int) -> Recipe:
    signal = recipe.signal
    assert isinstance(signal, TextSignal)
    if arm == UNVERIFIED:
        signal = signal.model_copy(update={"verify": ()})
    return recipe.model_copy(update={"signal": signal, "seed": recipe.seed + _SEEDS * number})


def _write_signal(recipe: Recipe, model: str, work: Path, inputs: Inputs, progress: Progress) -> Facts:
    model_dir = inputs[model].path / "model"
    return task_of(recipe).signal(recipe, model_dir, inputs["teacher"].facts, steps.rows_dir(inputs), work, progress)


def _write_scores(
    recipe: Recipe,
    merged: dict[str, list[str]],
    signals: dict[str, list[str]],
    work: Path,
    inputs: Inputs,
    progress: Progress,
) -> Facts:
    """`rounds.json`: the exact match of every model of every arm on the held-out rows, row by row."""
    from distill2edge.bench.proportions import proportion_interval
    from distill2edge.data.encode import read_rows

    rows = read_rows(steps.rows_dir(inputs), "test")[: recipe.verify.rows]
    right: dict[str, list[float]] = {}
    with progress.task("score rounds", len({name for names in merged.values() for name in names})) as task:
        for name in dict.fromkeys(name for names in merged.values() for name in names):
            right[name] = exact_match(recipe, inputs[name].path / "model", rows)
            task.advance(note=f"{sum(right[name]) / len(rows):.3f}")
    arms: dict[str, list[dict[str, Any]]] = {}
    for arm, names in merged.items():
        arms[arm] = []
        for number, name in enumerate(names):
            facts = inputs[signals[arm][number - 1]].facts if number else {}
            arms[arm].append(
                {
                    "round": number,
                    "score": proportion_interval(right[name]).as_dict(),
                    "written": facts.get("rows"),
                    "passed": facts["written"] + facts["duplicate"] if facts else None,
                    "kept": facts.get("written"),
                    "right": right[name],
                }
            )
    start = arms[VERIFIED][0]
    arms[NONE] = [{**start, "round": number} for number in range(len(arms[VERIFIED]))]
    document = {"schema_version": 1, "metric": "exact_match", "rows": len(rows), "arms": arms}
    write_json(work / "rounds.json", document)
    return {arm: [item["score"]["value"] for item in items] for arm, items in arms.items()}


def exact_match(recipe: Recipe, model_dir: Path, rows: Any) -> list[float]:
    """[rows] 1 where the greedy answer is the response, without white space around it."""
    from distill2edge.data.encode import encode_prompts, stop_token_ids
    from distill2edge.teacher.writers import open_writer

    assert isinstance(recipe.signal, TextSignal)
    data, tokenizer = recipe.data, load_tokenizer(model_dir)
    stop = stop_token_ids(tokenizer, data.template)
    greedy = TextSignal(max_new_tokens=recipe.signal.max_new_tokens)  # type: ignore[call-arg]
    writer = open_writer(model_dir, tokenizer, greedy, stop, "transformers", None)
    answers = writer(encode_prompts([row.prompt for row in rows], tokenizer, data.template, data.system), 0)
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]
    return [float(text == row.response.strip()) for text, row in zip(texts, rows, strict=True)]
