"""Exact match of what a dense model writes, row by row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.conversation import plain_answer
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.schema import TextSignal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from distill2edge.data.examples import Row
    from distill2edge.recipe.schema import Recipe


def exact_match(recipe: Recipe, model_dir: Path, rows: Sequence[Row]) -> list[float]:
    """[rows] 1 where the greedy answer is the response, without white space around it."""
    from distill2edge.data.encode import encode_prompts
    from distill2edge.data.tokens import stop_token_ids
    from distill2edge.generation.writers import open_writer

    assert isinstance(recipe.signal, TextSignal)
    data, tokenizer = recipe.data, load_tokenizer(model_dir)
    stop = stop_token_ids(tokenizer, data.template)
    greedy = TextSignal(max_new_tokens=recipe.signal.max_new_tokens)  # type: ignore[call-arg]
    writer = open_writer(model_dir, tokenizer, greedy, stop, "transformers", None)
    answers = writer(encode_prompts([row.prompt for row in rows], tokenizer, data.template, data.system), 0)
    texts = [str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]
    return [float(text == plain_answer(row.response).strip()) for text, row in zip(texts, rows, strict=True)]
