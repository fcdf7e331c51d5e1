"""onnxruntime-genai's model builder, with corrections for what it misreads.

The builder writes a decoder's graph layer by layer, from its own reading of the configuration. It ignores rotary
scalings that a family's class does not know, sees sliding windows only where the configuration lists every layer's
kind, rounds Gemma's embedding scale, and takes the root mean square for OLMo's norm. So the rotary tables come
from the model's own module in transformers, the windows from the layers, and each family has its corrections here.
Whether the graph then computes what the model does, `faithful` finds out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.errors import EnvironmentFault
from distill2edge.export.onnx_quiet import quiet
from distill2edge.export.support import window_of
from distill2edge.models.loading import load_model

if TYPE_CHECKING:
    import torch

# `model_type` -> the builder's class. One that `support.ONNX_DECODERS` lists and that is not here would be a defect.
_CLASSES = {
    "llama": "LlamaModel", "mistral": "MistralModel", "qwen2": "QwenModel", "qwen3": "Qwen3Model",
    "gemma": "GemmaModel", "gemma2": "Gemma2Model", "gemma3_text": "Gemma3Model", "phi": "PhiModel",
    "phi3": "Phi3MiniModel", "smollm3": "LlamaModel", "granite": "GraniteModel", "olmo": "OLMoModel",
    "ernie4_5": "ErnieModel", "nemotron": "NemotronModel", "hunyuan_v1_dense": "HunyuanDenseV1Model",
}  # fmt: skip
_RUN_AS = {"gemma3_text": "gemma3_text"}
"""`model_type` -> `model.type` for onnxruntime-genai, where the class would name the family's reader of images."""
_OPTIONS = ["hf_token=false", "hf_remote=false", "windowed_kv_cache=false"]


def build(model_dir: Path, target: Path, cache: Path) -> None:
    """Write `model.onnx`, its weights and `genai_config.json` into `target`.

    Args:
        model_dir: Hugging Face directory of a family in `support.ONNX_DECODERS`.
        target: directory to make.
        cache: directory for the builder's own files.

    Raises:
        EnvironmentFault: onnxruntime-genai is not installed.
    """
    import onnx_ir as ir
    from transformers import AutoConfig

    try:
        with quiet():
            from onnxruntime_genai.models import builder
    except ImportError as error:
        raise EnvironmentFault(
            f"onnxruntime-genai cannot be imported: {error}", fix="pip install onnxruntime-genai"
        ) from error
    config: Any = AutoConfig.from_pretrained(model_dir, trust_remote_code=False, local_files_only=True)
    family = config.model_type
    tables = rotary_tables(config)
    kind = _corrected(getattr(builder, _CLASSES[family]), family)
    arguments = ("", str(model_dir), str(target), "fp32", "cpu", str(cache))
    with quiet():
        options = builder.parse_extra_options(*arguments, _OPTIONS)
        for name in ("hf_details", "_effective_builder_config"):  # for the command line's own dispatch
            options.pop(name, None)
        built = kind(_readable(config), ir.DataType.FLOAT, ir.DataType.FLOAT, "cpu", str(cache), options)
        built.model_type = _RUN_AS.get(family, built.model_type)
        target.mkdir(parents=True)
        built.make_model(str(model_dir))
        _set_tables(built.model.graph, tables)
        built.save_model(str(target))
        built.make_genai_config(built.plain_config, {}, str(target))


def rotary_tables(config: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Kind of layer -> cosines and sines [positions, rotated width / 2] float32, scaled as attention wants them.

    They are what the model's own rotary module gives, for every position of the file.
    """
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"), quiet():
        empty = AutoModelForCausalLM.from_config(config)
    found = [type(module) for module in empty.modules() if type(module).__name__.endswith("RotaryEmbedding")]
    module: Any = found[0](config)
    positions = torch.arange(_positions(config))[None]
    states = torch.zeros(1, dtype=torch.float32)
    kinds = sorted(kind for kind, rope in config.rope_parameters.items() if isinstance(rope, Mapping))
    kinds = [kind for kind in kinds if kind in config.layer_types]  # a student may have kept one kind alone
    tables = {}
    with torch.no_grad():
        for kind in kinds or ["full_attention"]:
            more = {"layer_type": kind} if kinds else {}
            cosines, sines = (table[0].float() for table in module(states, positions, **more))
            half = cosines.shape[-1] // 2  # the other half repeats it
            tables[kind] = (cosines[:, :half].contiguous(), sines[:, :half].contiguous())
    return tables


def _positions(config: Any) -> int:
    return window_of(config.to_dict()) or int(config.max_position_embeddings)


def _readable(config: Any) -> Any:
    """The configuration in the terms that the builder reads."""
    config.max_position_embeddings = _positions(config)
    if config.model_type in ("mistral", "phi3") and config.sliding_window is not None:
        config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    if config.model_type == "gemma3_text":
        config.rope_local_base_freq = 10_000.0  # for a table that is replaced
    for name in ("norm_eps", "layer_norm_eps"):
        if not hasattr(config, "rms_norm_eps") and hasattr(config, name):
            config.rms_norm_eps = getattr(config, name)
    if config.model_type == "olmo":
        config.rms_norm_eps = 1e-5  # a constant of its code
    return config


def _set_tables(graph: Any, tables: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Put the rotary tables in the place of the builder's."""
    from onnx_ir import tensor_adapters

    names = {"": "full_attention", "_global": "full_attention", "_local": "sliding_attention"}
    seen = 0
    for end, kind in names.items():
        for part, table in zip(("cos_cache", "sin_cache"), tables.get(kind, ()), strict=False):
            if (value := graph.initializers.get(f"{part}{end}")) is not None:
                if tuple(value.const_value.shape) != tuple(table.shape):
                    raise AssertionError(f"{value.name}: {value.const_value.shape}, not {tuple(table.shape)}")
                value.const_value = tensor_adapters.TorchTensor(table, name=value.name)
                seen += 1
    if seen != 2 * len(tables):
        raise AssertionError(f"{seen} rotary tables in the graph, {2 * len(tables)} in the model")


def _corrected(kind: Any, family: str) -> Any:
    """A subclass of a builder's class."""

    class Corrected(kind):  # type: ignore[misc]
        def __init__(self, config: Any, *more: Any) -> None:
            super().__init__(config, *more)
            self.plain_config = config
            if family.startswith("gemma"):
                self.embed_attrs["scale"] = float(config.hidden_size) ** 0.5
            if family == "olmo":
                self.layernorm_attrs["simple"] = False
            self._rotates = [bool(each) for each in getattr(config, "no_rope_layers", None) or ()]

        def make_rope_init(self, config: Any) -> None:
            """No scaling: `_set_tables` puts the model's own tables in."""

        def is_fused_rope_supported(self) -> bool:
            # GroupQueryAttention rotates whole heads.
            return self._whole() and super().is_fused_rope_supported()

        def is_packed_matmul_supported(self) -> bool:
            return self._whole() and super().is_packed_matmul_supported()  # else rotated one by one

        def _whole(self) -> bool:
            return bool(self.rope_attrs["partial_rotary_factor"] == 1.0)

        def load_weights(self, input_path: str) -> Any:
            import torch

            # In the stored type, "1 + weight" of a norm would be rounded to it.
            return load_model(input_path, dtype=torch.float32)

        def make_attention(self, layer_id: int, *arguments: Any, **named: Any) -> None:
            before = self.attention_attrs["rope"], self.attention_attrs["use_rope_in_attn"]
            if self._rotates and not self._rotates[layer_id]:  # SmolLM3: some layers see no positions
                self.attention_attrs |= {"rope": False, "use_rope_in_attn": False}
            super().make_attention(layer_id, *arguments, **named)
            self.attention_attrs |= dict(zip(("rope", "use_rope_in_attn"), before, strict=True))

    return Corrected
