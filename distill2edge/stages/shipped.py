"""What ships is what was verified: held-out rows in the tokens of the tokenizers inside the files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distill2edge.data.encode import prompt_text
from distill2edge.data.model_inputs import form_of
from distill2edge.data.split_files import read_rows
from distill2edge.data.tokens import tokenize
from distill2edge.errors import UserError
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.recipe.schema import Recipe
from distill2edge.tasks import task_of
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.models.model_file import ModelFile


def check_tokenizers(
    recipe: Recipe, models: Sequence[ModelFile], trained: dict[str, Path], rows_dir: Path, progress: Progress
) -> dict[str, int]:
    """Compare the tokens that every exported file's own tokenizer gives the held-out rows with those of training.

    Args:
        trained: role -> the directory whose tokens its files are measured in.

    Returns:
        model's id -> held-out rows that llama.cpp would read in other tokens; it is measured in those of training.

    Raises:
        UserError: a shipped tokenizer.json that reads a row otherwise.
    """
    encoded = task_of(recipe).work.encoded
    rows = read_rows(rows_dir, "test")[: recipe.verify.rows]
    unlike = {}
    known = {role: [row.ids for row in encoded(recipe, rows_dir, place, "test")] for role, place in trained.items()}
    for model in models:
        if model.runtime == "onnxruntime" and model.role in known:
            shipped = [row.ids for row in encoded(recipe, rows_dir, model.path, "test")]
            different = sum(a != b for a, b in zip(shipped, known[model.role], strict=False))
            if different or len(shipped) != len(known[model.role]):
                raise UserError(
                    f"the tokenizer that ships reads {different} of {len(shipped)} held-out rows in other tokens",
                    where=str(model.path / "tokenizer.json"),
                    fix="run the recipe again with --force export",
                )
        elif model.runtime == "llama.cpp" and model.role in trained:
            count = _unlike(recipe, model.path / "model.gguf", trained[model.role], [row.prompt for row in rows])
            if count:
                unlike[model.id] = count
                progress.warn(
                    f"{model.id}: programs built on llama.cpp read {count} of {len(rows)} held-out prompts otherwise "
                    "than in training: their answers to those can be worse than the figures here. Ship an ONNX export, "
                    "or give such programs token ids of the model's own tokenizer (USE.md)"
                )
    return unlike


def _unlike(recipe: Recipe, gguf: Path, model_dir: Path, prompts: Sequence[str]) -> int:
    from distill2edge.gguf import llama_process

    tokenizer, form = load_tokenizer(model_dir), form_of(recipe, model_dir)
    texts = [prompt_text(prompt, tokenizer, form.template, form.system) for prompt in prompts]
    return sum(a != b for a, b in zip(tokenize(tokenizer, texts), llama_process.tokenize(gguf, texts), strict=True))
