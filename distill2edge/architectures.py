"""Which kind of language model a Hugging Face directory holds: a decoder, or an encoder with a decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def is_encoder_decoder(model_dir: Path | str) -> bool:
    """Whether the directory's config.json says so; False without one."""
    path = Path(model_dir) / "config.json"
    return path.is_file() and bool(json.loads(path.read_text(encoding="utf-8")).get("is_encoder_decoder"))


def load_language_model(model_dir: Path | str, **options: Any) -> Any:
    """`from_pretrained` of the class that generates text: causal, or sequence to sequence. Local files, no remote code.

    Raises:
        ValueError: neither (transformers says which class it is).
    """
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind: Any = AutoModelForSeq2SeqLM if is_encoder_decoder(model_dir) else AutoModelForCausalLM
    return kind.from_pretrained(model_dir, local_files_only=True, trust_remote_code=False, **options)


def start_token_id(config: Any) -> int:
    """The token that a decoder's output begins after, in an encoder-decoder."""
    for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"):
        value = getattr(config, name, None)
        if isinstance(value, int):
            return value
    raise ValueError("the configuration names no token that a decoder starts from")


def pair_inputs(config: Any, ids: Sequence[int], prompt: int) -> dict[str, Any]:
    """One pair as tensors for an encoder-decoder.

    Args:
        ids: source and target tokens.
        prompt: count of source tokens.

    Returns:
        input_ids [1, S]; decoder_input_ids [1, 1 + T]: the start token and every target token, so that row i of the
        logits is the distribution of target token i, and the last row that of what would follow.
    """
    import torch

    target = [start_token_id(config), *ids[prompt:]]
    return {"input_ids": torch.tensor([list(ids[:prompt])]), "decoder_input_ids": torch.tensor([target])}
