"""The fp32 base graph of a decoder: onnxruntime-genai's model builder, called in this process, quietly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault, UserError
from distill2edge.export.onnx_quiet import quiet

if TYPE_CHECKING:
    import onnx_ir as ir

BUILDER_FAMILIES = (
    "Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "Gemma3", "Phi", "Phi3", "SmolLM3", "Granite", "Olmo",
    "Ernie4_5", "Nemotron", "HunYuanDenseV1",
)  # fmt: skip


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
        UserError: an architecture that the builder does not know.
        EnvironmentFault: onnxruntime-genai is not installed.
    """
    import onnx_ir as ir

    try:
        with quiet():
            from onnxruntime_genai.models import builder
    except ImportError as error:
        raise EnvironmentFault(
            f"onnxruntime-genai cannot be imported: {error}", fix="pip install onnxruntime-genai"
        ) from error
    graph_dir, cache = scratch / "graph", scratch / "cache"
    options = ["hf_token=false", "hf_remote=false"]
    arguments = ("", str(model_dir), str(graph_dir), "fp32", "cpu", str(cache))
    try:
        with quiet():
            builder.create_model(*arguments, **builder.parse_extra_options(*arguments, options))
    except NotImplementedError as error:
        raise UserError(
            f"no ONNX exporter for the architecture {architecture(model_dir)}",
            where=str(model_dir),
            fix=f"use one of the families {', '.join(BUILDER_FAMILIES)}, or export to GGUF",
        ) from error
    config = json.loads((graph_dir / "genai_config.json").read_text(encoding="utf-8"))
    model = ir.load(graph_dir / "model.onnx")
    _fix_head_size(model, int(config["model"]["decoder"]["head_size"]))
    return model, config


def architecture(model_dir: Path) -> str:
    """The class name in config.json.

    Raises:
        UserError: no config.json, or it names none.
    """
    path = model_dir / "config.json"
    if not path.is_file():
        raise UserError("not a Hugging Face directory: config.json is missing", where=str(model_dir))
    names = json.loads(path.read_text(encoding="utf-8")).get("architectures") or []
    if not names:
        raise UserError("config.json names no architecture", where=str(path))
    return str(names[0])


def _fix_head_size(model: ir.Model, head_size: int) -> None:
    """The builder leaves the last dimension of the cache symbolic; a runtime has to know it to allocate."""
    import onnx_ir as ir

    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None and str(value.name).startswith(("past_key_values.", "present.")):
            value.shape = ir.Shape([*value.shape[:-1], head_size])
