"""Layers, width and heads by optimum's names, held against what transformers itself reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill2edge.models.shape import layers_field, shape_of

# Those that call them otherwise, and some that optimum does not list.
TYPES = (
    "bert",
    "distilbert",
    "gpt2",
    "gpt_neo",
    "t5",
    "bart",
    "bloom",
    "llama",
    "gemma3_text",
    "lfm2",
    "modernbert",
    "mpnet",
)


@pytest.mark.parametrize("model_type", TYPES)
def test_a_configuration_and_its_file_have_the_same_shape(model_type: str, tmp_path: Path) -> None:
    from transformers import AutoConfig

    config = AutoConfig.for_model(model_type)
    config.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    shape = shape_of(written)
    assert shape == shape_of(config)
    assert shape.layers == config.num_hidden_layers
    assert shape.hidden == config.hidden_size
    assert shape.heads == config.num_attention_heads
    assert shape.vocabulary == config.vocab_size
    assert layers_field(written) in written


def test_what_a_configuration_does_not_say_is_none() -> None:
    assert shape_of({}) == shape_of({"model_type": "nobody's"}) == (None, None, None, None)
    assert shape_of({"model_type": "distilbert", "n_layers": 4}).layers == 4
