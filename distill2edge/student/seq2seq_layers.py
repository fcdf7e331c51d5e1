"""A student of an encoder-decoder's own layers: some of its encoder's and some of its decoder's."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from distill2edge.errors import UserError
from distill2edge.models.loading import load_model
from distill2edge.recipe import schema
from distill2edge.student.chosen import chosen


def from_seq2seq_teacher(init: schema.FromTeacher, teacher_dir: Path, target: Path) -> dict[str, Any]:
    """Write the untrained student into `target`, without its tokenizer.

    Returns:
        facts: select, layers (kept of the encoder), decoder_layers, of, decoder_of, dropped, parameters.

    Raises:
        UserError: layers that the teacher does not have, `select: similarity`, or an architecture other than T5's.
    """
    if init.select == "similarity":
        raise UserError(
            "select: similarity compares the layers of a decoder alone",
            where="student.init.select",
            fix="set select: even or first, or list the layers",
        )
    model = load_model(teacher_dir, dtype="auto").eval()
    if not all(isinstance(getattr(part, "block", None), nn.ModuleList) for part in _halves(model)):
        raise UserError(
            f"the layers of {type(model).__name__} are not laid out as T5's",
            where="student.init",
            fix="start the student from a checkpoint instead: student.init: {model: ...}",
        )
    wanted = init.layers, init.layers if init.decoder_layers is None else init.decoder_layers
    totals = [len(half.block) for half in _halves(model)]
    kept = [chosen(layers, total, init.select) for layers, total in zip(wanted, totals, strict=True)]
    probe = {"input_ids": torch.arange(2, 10)[None], "decoder_input_ids": torch.arange(2, 7)[None]}
    keep_blocks(model, *kept)
    shutil.rmtree(target, ignore_errors=True)
    model.save_pretrained(target)
    saved = load_model(target, dtype="auto").eval()
    with torch.no_grad():
        if not torch.equal(model(**probe, use_cache=False).logits, saved(**probe, use_cache=False).logits):
            raise UserError(
                f"a {type(model).__name__} with fewer layers does not load as it was saved",
                where="student.init",
                fix="start the student from a checkpoint instead: student.init: {model: ...}",
            )
    return {
        "source": "teacher",
        "select": init.select if isinstance(init.layers, int) else "chosen",
        "layers": kept[0],
        "decoder_layers": kept[1],
        "of": totals[0],
        "decoder_of": totals[1],
        "dropped": [],
        "parameters": model.num_parameters(),
    }


def keep_blocks(model: Any, encoder: Sequence[int], decoder: Sequence[int]) -> None:
    """Reduce a T5 to some of its blocks, in place.

    The relative position bias lies in the first block of each half and serves them all: it moves to the block that
    becomes the first.
    """
    for half, kept in zip(_halves(model), (encoder, decoder), strict=True):
        first = half.block[0].layer[0].SelfAttention
        for new, old in enumerate(kept):
            for module in half.block[old].modules():
                if getattr(module, "layer_idx", None) == old:
                    module.layer_idx = new
        head = half.block[kept[0]].layer[0].SelfAttention
        if head is not first:
            head.relative_attention_bias = first.relative_attention_bias
            head.has_relative_attention_bias = True
        half.block = nn.ModuleList(half.block[old] for old in kept)
        half.config.num_layers = len(kept)
    model.config.num_layers = len(encoder)
    model.config.num_decoder_layers = len(decoder)


def _halves(model: Any) -> tuple[Any, Any]:
    return model.get_encoder(), model.get_decoder()
