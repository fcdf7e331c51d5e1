"""The fp32 base graphs of encoders and sequence-to-sequence models, through transformers' own ONNX exporter."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.export.onnx_norms import split_skip_norms
from distill2edge.export.onnx_quiet import quiet
from distill2edge.models.checkpoint import load_checkpoint
from distill2edge.models.config import knows_segments
from distill2edge.models.loading import load_model
from distill2edge.models.pooling import OUTPUT, pooling_of

if TYPE_CHECKING:
    import onnx_ir as ir

_BATCH, _LENGTH, _PAST, _TARGET = 2, 7, 5, 3  # of the sample that is traced: all different, none 1


def classifier_graph(model_dir: Path) -> ir.Model:
    """Graph of a sequence classifier.

    Inputs input_ids, attention_mask and, where the model has them, token_type_ids, each int64 [batch, sequence];
    output logits [batch, labels]. Padding may lie on either side: the mask says where.

    Args:
        model_dir: Hugging Face directory.

    Raises:
        EnvironmentFault: onnx or onnxscript is missing.
    """
    from transformers import AutoModelForSequenceClassification

    return _logits_graph(AutoModelForSequenceClassification, model_dir)


def tagger_graph(model_dir: Path) -> ir.Model:
    """Graph of a token classifier: inputs as of a sequence classifier; output logits [batch, sequence, labels].

    Raises:
        EnvironmentFault: onnx or onnxscript is missing.
    """
    from transformers import AutoModelForTokenClassification

    return _logits_graph(AutoModelForTokenClassification, model_dir)


def _logits_graph(kind: Any, model_dir: Path) -> ir.Model:
    """Graph of an encoder with a head, in a class of transformers."""
    import torch

    with quiet():
        model = load_checkpoint(kind, model_dir, dtype=torch.float32).eval()
    graph = _export(model, inputs := _text_inputs(model))
    _keep_outputs(graph, {"logits": "logits"})
    _name_dimensions(graph, dict.fromkeys(inputs, ("batch_size", "sequence_length")))
    return graph


def embedder_graph(model_dir: Path) -> ir.Model:
    """Graph of an embedder: inputs as of a classifier; output sentence_embedding [batch, dimensions], pooled and
    normalised as the directory says.

    Raises:
        EnvironmentFault: onnx or onnxscript is missing.
    """
    import torch

    with quiet():
        model = load_model(model_dir, dtype=torch.float32).eval()
    graph = _export(_pooled(model), inputs := _text_inputs(model))
    _keep_outputs(graph, {OUTPUT: OUTPUT})
    _name_dimensions(graph, dict.fromkeys(inputs, ("batch_size", "sequence_length")))
    return graph


def _pooled(model: Any) -> Any:
    """A module around an embedder, whose output is the vector."""
    from torch import nn

    pooling = pooling_of(model.config)
    assert pooling is not None

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.config = model, model.config

        def forward(self, **inputs: Any) -> dict[str, Any]:
            return {OUTPUT: pooling.of(self.body(**inputs).last_hidden_state, inputs["attention_mask"])}

    return Pooled()


def _text_inputs(model: Any) -> dict[str, Any]:
    """A sample for a model that reads whole texts."""
    import torch

    ids = _sample(model.config.vocab_size, _LENGTH)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if knows_segments(model.config):
        inputs["token_type_ids"] = torch.zeros_like(ids)
    return inputs


def seq2seq_graphs(model_dir: Path) -> dict[str, ir.Model]:
    """Graphs of a sequence-to-sequence model: the encoder once per text, the decoder once per step.

    `encoder`: input_ids, attention_mask [batch, source] -> present.N.encoder.key|value [batch, heads, source, width],
    the keys and values of every cross-attention. They are all the decoder needs, so their projections are stored and
    computed once.
    `decoder`: decoder_input_ids [batch, target], encoder_attention_mask [batch, source], past_key_values.N.encoder.*
    and past_key_values.N.decoder.* [batch, heads, past, width] -> logits [batch, target, vocabulary] and
    present.N.decoder.*. It starts from an empty past.

    Args:
        model_dir: Hugging Face directory.

    Raises:
        EnvironmentFault: onnx or onnxscript is missing.
    """
    import torch
    from transformers import AutoModelForSeq2SeqLM

    with quiet():
        model = load_checkpoint(AutoModelForSeq2SeqLM, model_dir, dtype=torch.float32).eval()
    source = _sample(model.config.vocab_size, _LENGTH)
    mask = torch.ones_like(source)
    target = _sample(model.config.vocab_size, _PAST)
    encoder = _export(model, {"input_ids": source, "attention_mask": mask, "decoder_input_ids": target})
    _keep_outputs(encoder, _cache_outputs(encoder, "encoder"))
    _read_batch_from(encoder, "decoder_input_ids", "input_ids")
    _drop_input(encoder, "decoder_input_ids")
    _name_dimensions(encoder, dict.fromkeys(("input_ids", "attention_mask"), ("batch_size", "source_length")))

    with torch.no_grad():
        first = model(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=True)
    step = {
        "attention_mask": mask,
        "decoder_input_ids": _sample(model.config.vocab_size, _TARGET),
        "encoder_outputs": _base_output(first.encoder_last_hidden_state),
        "past_key_values": first.past_key_values,
    }
    decoder = _export(model, step)
    _keep_outputs(decoder, {"logits": "logits", **_cache_outputs(decoder, "decoder")})
    _rename_inputs(decoder)
    for value in list(decoder.graph.inputs):
        if not value.uses():
            _drop_input(decoder, str(value.name))
    shapes: dict[str, tuple[str | None, ...]] = {"decoder_input_ids": ("batch_size", "target_length"),
              "encoder_attention_mask": ("batch_size", "source_length")}  # fmt: skip
    for value in decoder.graph.inputs:
        if str(value.name).startswith("past_key_values."):
            length = "past_length" if ".decoder." in str(value.name) else "source_length"
            shapes[str(value.name)] = ("batch_size", None, length, None)
    _name_dimensions(decoder, shapes)
    return {"encoder": encoder, "decoder": decoder}


# --- the exporter -------------------------------------------------------------


def _export(model: Any, inputs: dict[str, Any]) -> ir.Model:
    """One traced graph with every dimension dynamic and those of ONNX Runtime's fused operators that are faster."""
    with quiet():
        try:
            from transformers.exporters.configs import OnnxConfig
            from transformers.exporters.exporter_onnx import OnnxExporter
        except ImportError as error:
            raise EnvironmentFault(
                f"transformers' ONNX exporter cannot be imported: {error}", fix="pip install onnx onnxscript"
            ) from error
        exporter: Any = OnnxExporter
        exported = exporter().export(model, inputs, config=OnnxConfig(dynamic=True, ort_fusions="cpu"))
    graph: ir.Model = exported.program
    split_skip_norms(graph)
    return graph


def _sample(vocabulary: int, length: int) -> Any:
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, vocabulary, (_BATCH, length), generator=generator)


def _base_output(hidden: Any) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    return BaseModelOutput(last_hidden_state=hidden)


# --- inputs and outputs -------------------------------------------------------

_CACHE = re.compile(r"(?P<part>self|cross)_attention_cache\.layers\.(?P<layer>\d+)\.(?P<kind>key|value)s$")
_PARTS = {"self": "decoder", "cross": "encoder"}


def _cache_outputs(model: ir.Model, part: str) -> dict[str, str]:
    """Exporter's output name -> present.N.PART.key|value, of one part of the cache, in order of layers."""
    names = {}
    for value in model.graph.outputs:
        found = _CACHE.search(str(value.name))
        if found and _PARTS[found["part"]] == part:
            names[str(value.name)] = f"present.{found['layer']}.{part}.{found['kind']}"
    return names


def _rename_inputs(model: ir.Model) -> None:
    for value in model.graph.inputs:
        found = _CACHE.search(str(value.name))
        if found:
            value.name = f"past_key_values.{found['layer']}.{_PARTS[found['part']]}.{found['kind']}"
        elif value.name == "attention_mask":
            value.name = "encoder_attention_mask"


def _keep_outputs(model: ir.Model, names: dict[str, str]) -> None:
    """Keep these outputs, under their new names, and only the nodes and weights they need."""
    kept = [value for value in model.graph.outputs if value.name in names]
    model.graph.outputs.clear()
    model.graph.outputs.extend(kept)
    for value in kept:
        value.name = names[str(value.name)]
    for node in reversed(list(model.graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            model.graph.remove(node, safe=True)


def _read_batch_from(model: ir.Model, old: str, new: str) -> None:
    """The tracer takes the batch size from any one of the inputs; let it be this one."""
    inputs = {value.name: value for value in model.graph.inputs}
    for node, _ in list(inputs[old].uses()):
        first = [node.attributes[key].value for key in ("start", "end") if key in node.attributes]
        if node.op_type == "Shape" and first == [0, 1]:
            node.replace_input_with(0, inputs[new])


def _drop_input(model: ir.Model, name: str) -> None:
    for value in list(model.graph.inputs):
        if value.name == name:
            if value.uses():
                raise RuntimeError(f"the exported graph still reads {name}")
            model.graph.inputs.remove(value)


def _name_dimensions(model: ir.Model, names: dict[str, tuple[str | None, ...]]) -> None:
    """Give the inputs' dimensions names that mean something (None keeps one), and the outputs' the same ones."""
    import onnx_ir as ir

    renamed: dict[str, str] = {}
    for value in model.graph.inputs:
        pairs = list(zip(value.shape or (), names[str(value.name)], strict=True))
        for dimension, name in pairs:
            if name is not None:
                renamed.setdefault(str(dimension), name)
        value.shape = ir.Shape([name or _fixed(dimension) for dimension, name in pairs])
    for value in model.graph.outputs:
        # past + target is a sum of the tracer's symbols
        shape = [renamed.get(str(each), _fixed(each)) for each in value.shape or ()]
        value.shape = ir.Shape(["total_length" if "+" in str(each) else each for each in shape])
    for node in model.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None  # it is in the tracer's symbols


def _fixed(dimension: Any) -> int | str:
    """The tracer writes some fixed dimensions as text."""
    text = str(dimension)
    return int(text) if text.isdigit() else text
