"""Randomly initialised models: random weights from a seed, and a tokenizer trained on the train split."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import UserError
from distill2edge.intake import licence as gate
from distill2edge.intake.model_files import describe
from distill2edge.models.checkpoint import load_tokenizer
from distill2edge.models.kinds import kind_of_gguf
from distill2edge.recipe.scratch import Scratch, ScratchTeacher
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.data.examples import Row

PAD, END = "<|pad|>", "<|end|>"
"""The special tokens, ids 0 and 1: what T5 expects, and a decoder's end apart from its padding."""

CONTEXT = 2048
"""Positions of a decoder, unless the rows are longer. Rotary positions cost no weights."""

LICENCE = "own-weights"


def materialise_scratch(
    model: ScratchTeacher,
    rows: Sequence[Row],
    work: Path,
    progress: Progress,
    *,
    licence: str | None,
    accept_licence: str | None,
    max_length: int,
    seed: int,
) -> dict[str, Any]:
    """As `intake.obtain.materialise`, for a randomly initialised teacher: `model/` and `teacher.json`.

    Args:
        rows: the train split; the tokenizer is trained on its prompts and responses.
        licence: under which its owner wants it; none is needed, since nobody else's weights are in it.
        max_length: tokens of the longest row.

    Returns:
        the content of `teacher.json`; `parameters`, `vocabulary` and the like are of what was made.

    Raises:
        UserError: rows without text, or a stated licence that the gate refuses.
    """
    record = own_licence(licence, accept_licence)
    gate.announce(record, progress)
    out = emptied(work / "model")
    texts = (text for row in rows for text in _texts(row, model.architecture))
    train_tokenizer(texts, model.vocabulary, out, ends_source=kind_of_gguf(model.architecture).pairs)
    write_weights(model, out, seed, max(CONTEXT, max_length))
    facts = {
        "schema_version": 1,
        "name": name_of(model),
        "source": name_of(model),
        "kind": "scratch",
        "revision": None,
        "sha256": None,
        "home": None,
        "licence": record.to_json(),
        "gguf": None,
        **describe(out, "teacher.model"),
    }
    write_json(work / "teacher.json", facts)
    return facts


def name_of(model: Scratch) -> str:
    """`scratch-t5-4x128`: architecture, layers and hidden size."""
    return f"scratch-{model.architecture}-{model.layers}x{model.hidden}"


def own_licence(licence: str | None, accept_licence: str | None) -> gate.LicenceRecord:
    """The gate's record for weights that this recipe trains itself.

    Raises:
        UserError: the recipe states a licence that the gate refuses.
    """
    if licence is not None:
        return gate.check("the randomly initialised teacher", recipe=licence, accept=accept_licence)
    return gate.LicenceRecord(
        licence=LICENCE,
        title="Weights made by this recipe",
        verdict="permit",
        clause="Random weights trained on the recipe's own data: no other model's weights or outputs are in them, so "
        "no model licence applies. The terms of the data still do.",
        conditions=(),
        name_prefix=None,
        notice=None,
        source=None,
        version=None,
        read=None,
        basis="none",
        declared=None,
        found_in="teacher.model is randomly initialised",
        accepted=None,
        derivative=False,
    )


def train_tokenizer(texts: Iterable[str], vocabulary: int, out: Path, *, ends_source: bool) -> None:
    """Save a byte-level BPE whose digits stand alone, with `<|pad|>` 0 and `<|end|>` 1, and no chat template.

    Byte-level BPE has no unknown text, its training has no random ties (that of Unigram has), and llama.cpp cuts
    text in the very same way (pre-tokenizer `smollm`).

    Args:
        vocabulary: tokens at most; text with little variety gives fewer.
        ends_source: the tokenizer itself puts `<|end|>` after a text, as T5's does.

    Raises:
        UserError: there is no text.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    from distill2edge.gguf import pretokenizers

    texts = [text for text in texts if text]
    if not texts:
        raise UserError("there is no text to train a tokenizer on", where="teacher.model", fix="check data.splits")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pretokenizers.build("smollm")
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if ends_source:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", pair=f"$A {END} $B {END}", special_tokens=[(END, 1)]
        )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=PAD)
    fast.save_pretrained(out)


def write_weights(model: Scratch, out: Path, seed: int, context: int) -> None:
    """Random weights (float32) for the tokenizer that lies in `out`, under `transformers`' own initialisation."""
    import torch

    tokenizer: Any = load_tokenizer(out)
    rows = max(tokenizer.get_vocab().values()) + 1
    torch.manual_seed(seed)
    made = {"llama": _llama, "t5": _t5}[model.architecture](model, tokenizer, rows, context)
    made.save_pretrained(out)


def _llama(model: Scratch, tokenizer: Any, rows: int, context: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows,
            hidden_size=model.hidden,
            intermediate_size=model.width,
            num_hidden_layers=model.layers,
            num_attention_heads=model.heads,
            num_key_value_heads=model.heads,
            max_position_embeddings=context,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _t5(model: Scratch, tokenizer: Any, rows: int, context: int) -> Any:
    """T5 v1.1's gated feed-forward with the first T5's tied and scaled output; no dropout."""
    from transformers import T5Config, T5ForConditionalGeneration

    start = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=rows,
            d_model=model.hidden,
            d_kv=model.hidden // model.heads,
            d_ff=model.width,
            num_layers=model.layers,
            num_heads=model.heads,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            decoder_start_token_id=start,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def _texts(row: Row, architecture: str) -> tuple[str, ...]:
    # A decoder sees the response right after the prompt, and its pieces must be learned that way.
    return (row.prompt, row.response) if kind_of_gguf(architecture).pairs else (row.prompt + row.response,)


def emptied(out: Path) -> Path:
    """An empty directory in its place."""
    shutil.rmtree(out, ignore_errors=True)  # the leftover of a killed try
    out.mkdir(parents=True)
    return out
