"""The fp32 base graph of a decoder: onnxruntime-genai's model builder, called in this process, quietly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.export import onnx_builder

if TYPE_CHECKING:
    import onnx_ir as ir


def decoder_graph(model_dir: Path, scratch: Path) -> tuple[ir.Model, dict[str, Any]]:
    """Build the graph of a causal language model.

    One graph serves prefill and decode: inputs input_ids [batch, sequence], attention_mask [batch, past + sequence]
    (right-padded), past_key_values.N.key|value [batch, key-value heads, past, head size]; outputs logits [batch,
    sequence, vocabulary] and present.N.key|value. Attention is GroupQueryAttention with the rotary embedding inside,
    the query, key and value projections are one product.

    Args:
        model_dir: Hugging Face directory with safetensors and a tokenizer.
        scratch: empty directory for the builder's files; the graph reads its weights from there until it is written.

    Returns:
        the graph, and the `genai_config.json` that the builder wrote.

    Raises:
        EnvironmentFault: onnxruntime-genai is not installed.
    """
    import onnx_ir as ir

    graph_dir = scratch / "graph"
    onnx_builder.build(model_dir, graph_dir, scratch / "cache")
    config = json.loads((graph_dir / "genai_config.json").read_text(encoding="utf-8"))
    model = ir.load(graph_dir / "model.onnx")
    _fix_head_size(model, int(config["model"]["decoder"]["head_size"]))
    return model, config


def _fix_head_size(model: ir.Model, head_size: int) -> None:
    """The builder leaves the last dimension of the cache symbolic; a runtime has to know it to allocate."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and str(value.name).startswith(("past_key_values.", "present.")):
            value.shape = ir.Shape([*value.shape[:-1], head_size])
