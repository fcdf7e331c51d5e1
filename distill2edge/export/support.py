"""Which model goes out in which format: one table, read by `recipe check`, `plan`, the start of a run and the exports.

It reads configurations alone (`config.json` as a mapping): no weights, no torch. tests/export/test_export_matrix.py
tests every row in both directions: what is not refused gives PyTorch's distributions, and what is refused could not.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distill2edge.errors import UserError
from distill2edge.export import converted
from distill2edge.gguf.hyperparameters import POOLINGS
from distill2edge.models.kinds import CLASSIFIER, DECODER, EMBEDDER, ENCODER, ENCODER_DECODER, Kind, kind_of
from distill2edge.models.pooling import pooling_of
from distill2edge.quantize.schemes import DYNAMIC, Scheme

Config = Mapping[str, Any]


class Refusal(NamedTuple):
    """A scheme that cannot carry a model: why, and what to do."""

    scheme: Scheme
    reason: str
    fix: str


@dataclass(frozen=True)
class Carries:
    """What a format carries of one family (a Hugging Face `model_type`).

    Attributes:
        label: the family's name for people.
        ropes: rotary scalings, by `rope_type`; empty: the family has no rotary embedding.
        windows: sliding-window attention.
        partial: a rotary embedding of a part of each head.
        only: field -> the values that are carried.
        defaults: values of fields that `config.json` may leave out, where transformers' are not None.
        more: checks that no single field answers: configuration -> reasons.
        kinds: of model.
    """

    label: str
    ropes: tuple[str, ...] = ()
    windows: bool = False
    partial: bool = False
    only: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    more: Callable[[Config], Iterable[str]] = lambda config: ()
    kinds: tuple[Kind, ...] = (DECODER,)


_EVERY_ROPE = ("default", "linear", "dynamic", "yarn", "llama3", "longrope")
_GELU_TANH = ("gelu_new", "gelu_fast", "gelu_pytorch_tanh")
_ACTIVATIONS = ("silu", "swish", "gelu", *_GELU_TANH, "relu", "relu2")
_SILU = {"hidden_act": ("silu", "swish")}


def _onnx(label: str, only: Mapping[str, tuple[Any, ...]] | None = None, **defaults: Any) -> Carries:
    defaults = {"hidden_act": "silu", **defaults}
    return Carries(label, _EVERY_ROPE, True, True, {"hidden_act": _ACTIVATIONS, **(only or {})}, defaults)


_CAUSAL = {"use_bidirectional_attention": (None, False)}
_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "head_dim": 256}
ONNX_DECODERS: Mapping[str, Carries] = {
    "llama": _onnx("Llama"),
    "mistral": _onnx("Mistral", sliding_window=4096),
    "qwen2": _onnx("Qwen2"),
    "qwen3": _onnx("Qwen3", head_dim=128),
    "gemma": _onnx("Gemma", _CAUSAL, **_GEMMA),
    "gemma2": _onnx("Gemma 2", _CAUSAL, **_GEMMA, sliding_window=4096),
    "gemma3_text": _onnx("Gemma 3 (text)", _CAUSAL, **_GEMMA, sliding_window=4096),
    "phi": _onnx("Phi", {"qk_layernorm": (None, False)}, hidden_act="gelu_new"),
    "phi3": _onnx("Phi-3"),
    "smollm3": _onnx("SmolLM3"),
    "granite": _onnx("Granite"),
    "olmo": _onnx("OLMo", {"clip_qkv": (None,)}),
    "ernie4_5": _onnx("Ernie 4.5", head_dim=128),
    "nemotron": _onnx("Nemotron", hidden_act="relu2"),
    "hunyuan_v1_dense": _onnx("Hunyuan (dense)"),
}
"""Families of onnxruntime-genai's builder, as `onnx_graph` puts its graphs right."""


def _own_yarn(config: Config) -> Iterator[str]:
    for rope in _ropes(config):
        own = [key for key in ("attention_factor", "mscale", "beta_fast", "beta_slow") if rope.get(key) is not None]
        if rope["rope_type"] == "yarn" and own:
            yield f"a YaRN scaling with factors of its own ({', '.join(own)})"


def _gemma3(config: Config) -> Iterator[str]:
    yield from _own_yarn(config)
    # llama.cpp scales by the head's width, and tells the 27B by its 62 layers.
    width = _count(config, "head_dim", 256)
    across = _count(config, "hidden_size", 2304) // _count(config, "num_attention_heads", 8)
    wanted = across if config.get("num_hidden_layers") == 62 else width
    if config["query_pre_attn_scalar"] != wanted:
        yield f"query_pre_attn_scalar {config['query_pre_attn_scalar']} (llama.cpp uses {wanted})"
    for kind, rope in _by_kind(config):
        if kind == "sliding_attention" and rope["rope_type"] != "default":
            yield f"rotary scaling {rope['rope_type']!r} of the sliding layers"


_BERT = "BertForSequenceClassification"
"""Whose head llama.cpp computes."""


def _bert(config: Config) -> Iterator[str]:
    names = _architectures(config)
    # A model without a head, or with another's, gets the right one when it becomes a student.
    if kind_of(config) is CLASSIFIER and names[0] != _BERT:
        yield f"{', '.join(names)} (not {_BERT})"
    if config.get("num_hidden_layers") == 0:
        yield "a table of token vectors (llama.cpp runs no model without layers)"
    pooling = pooling_of(config)
    if pooling is not None and pooling.mode not in POOLINGS:
        yield f"pooling {pooling.mode!r} (llama.cpp has {' and '.join(POOLINGS)})"


def _t5(config: Config) -> Iterator[str]:
    words = str(config["feed_forward_proj"])
    if words not in ("relu", "gated-gelu", "gated-gelu_new"):  # the gate decides it in llama.cpp
        yield f"activation {words!r}"
    layers = _count(config, "num_layers", 6)
    if (
        decoder := _count(config, "num_decoder_layers", layers)
    ) > layers:  # llama.cpp counts both by the encoder's, and stops
        yield f"a decoder of {decoder} blocks after an encoder of {layers}"


GGUF: Mapping[str, Carries] = {
    "llama": Carries("Llama, SmolLM", ("default", "linear", "yarn", "llama3"), only=_SILU,
                     defaults={"hidden_act": "silu"}, more=_own_yarn),
    "mistral": Carries("Mistral", ("default", "linear", "yarn", "llama3"), only=_SILU,
                       defaults={"hidden_act": "silu", "sliding_window": 4096}, more=_own_yarn),
    "qwen2": Carries("Qwen2 and Qwen2.5", ("default", "linear", "yarn"), only=_SILU,
                     defaults={"hidden_act": "silu"}, more=_own_yarn),
    "qwen3": Carries("Qwen3", ("default", "linear", "yarn"), only={**_SILU, "attention_bias": (None, False)},
                     defaults={"hidden_act": "silu"}, more=_own_yarn),
    "gemma3_text": Carries("Gemma 3 (text)", ("default", "linear", "yarn"), windows=True,
                           only={"hidden_act": ("gelu_pytorch_tanh",), "attn_logit_softcapping": (None,), **_CAUSAL},
                           defaults={**_GEMMA, "sliding_window": 4096, "query_pre_attn_scalar": 256}, more=_gemma3),
    "bert": Carries("BERT classifiers and embedders", kinds=(CLASSIFIER, EMBEDDER),
                    only={"hidden_act": ("gelu",), "position_embedding_type": (None, "absolute")},
                    defaults={"hidden_act": "gelu"}, more=_bert),
    "t5": Carries("T5", kinds=(ENCODER_DECODER,), only={"relative_attention_max_distance": (None, 128)},
                  defaults={"feed_forward_proj": "relu"}, more=_t5),
}  # fmt: skip
"""Families of the built-in GGUF writers: what llama.cpp computes of each."""


def refusals(
    config: Config,
    kind: Kind,
    schemes: Iterable[Scheme],
    *,
    length: int | None = None,
    known: Collection[str] | None = frozenset(),
) -> list[Refusal]:
    """The schemes that cannot carry a model, each with its first reason.

    Args:
        config: its `config.json`.
        kind: of its files; a classifier may get its head later, whatever the configuration names.
        schemes: those asked for.
        length: tokens of the longest text, where it is known.
        known: classes of transformers that the pinned llama.cpp's converter knows, once it was fetched; None: another
            llama.cpp's converter writes every GGUF, and may know more.
    """
    found = []
    for scheme in schemes:
        if scheme.format == "gguf" and known is None:
            continue
        for reason, fix in _reasons(config, kind, scheme, length, known or ()):
            found.append(Refusal(scheme, reason, fix))
            break
    return found


def refuse(config: Config, kind: Kind, scheme: Scheme, where: str, known: Collection[str] | None = frozenset()) -> None:
    """Raise what `refusals` says of one scheme.

    Raises:
        UserError: the format cannot carry the model.
    """
    for refusal in refusals(config, kind, [scheme], known=known):
        raise UserError(f"{scheme}: {refusal.reason}", where=where, fix=refusal.fix)


def needs_converter(config: Config, kind: Kind) -> bool:
    """Whether a GGUF of this model is llama.cpp's own converter's to write: a decoder that no writer here covers."""
    return kind is DECODER and str(config.get("model_type")) not in GGUF


def window_of(config: Config) -> int | None:
    """Positions that an ONNX file carries; None: no bound is known.

    Under `longrope` every factor changes with the length of the whole text, also of tokens that were read before, which
    no key-value cache can follow: the file stays within the length of the first factors. `dynamic` is alike.
    """
    name = "original_max_position_embeddings"
    found = [_count(config, "max_position_embeddings", 0)]
    for rope in _ropes(config):
        if rope["rope_type"] == "longrope":
            found.append(_count(rope, name, _count(config, name, 0)))
    return min((count for count in found if count), default=None)


# --- reasons --------------------------------------------------------------------


def _reasons(
    config: Config, kind: Kind, scheme: Scheme, length: int | None, known: Collection[str]
) -> Iterator[tuple[str, str]]:
    family = str(config.get("model_type") or "unknown")
    if kind is ENCODER:
        named = ", ".join(_architectures(config)) or f"an encoder of type {family}"
        yield f"{named} has no head that a file carries", "fit a classifier's head to it (task: classification)"
    for name in _architectures(config):
        head = name.rpartition("For")[2] if "For" in name else ""
        if head and kind.heads and head not in kind.heads:
            yield f"{name} cannot be exported", f"use a model with one of the heads {', '.join(kind.heads)}"
    if str(scheme) == DYNAMIC and kind.writes:
        yield f"is for encoders, not for models of the kind {kind}", "use onnx:int8"
    if scheme.format == "gguf":
        yield from _no_gguf(config, kind, family, known)
        return
    if kind is not DECODER:
        return  # traced from the model itself, and compared with it
    carries = ONNX_DECODERS.get(family)
    if carries is None:
        fix = f"export to GGUF, or use one of the families {listed(ONNX_DECODERS)}"
        yield f"no ONNX exporter here for a decoder of type {family}", fix
        return
    for reason in _lacks(config, carries):
        yield f"{reason} cannot be expressed in the ONNX graph of a {family}", "use another model, or export to GGUF"
    window = window_of(config)
    if length is not None and window is not None and length > window:
        fix = f"set data.max_length to {window} or less"
        yield f"its positions end at {window}, and texts have up to {length} tokens", fix


def _no_gguf(config: Config, kind: Kind, family: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    # Traced from the model itself, or of a family that the graph builder has.
    onnx = kind is not DECODER or family in ONNX_DECODERS
    newer = "give --converter PATH (another llama.cpp's convert_hf_to_gguf.py)"
    fix = f"use ONNX, or {newer}" if onnx else newer
    if needs_converter(config, kind):
        named = (_architectures(config) or [family])[0]
        if named not in known:
            here = f"neither a writer here ({listed(GGUF)}) nor llama.cpp's converter"
            yield f"nothing writes {named} as GGUF, {here}", fix
        for reason, instead in converted.refused(config):
            yield f"{reason} cannot be expressed in a {family} GGUF", f"{instead}; or {fix}" if instead else fix
        return
    carries = GGUF.get(family)
    if carries is None or kind not in carries.kinds:
        yield f"no GGUF writer here for models of the kind {kind} and type {family}; supported: {listed(GGUF)}", fix
        return
    for reason in _lacks(config, carries):
        yield f"{reason} cannot be expressed in a {family} GGUF", fix


def _lacks(config: Config, carries: Carries) -> Iterator[str]:
    config = _filled(config, carries)
    for name, allowed in carries.only.items():
        if config.get(name) not in allowed:
            yield f"activation {config[name]!r}" if name == "hidden_act" else f"{name} {config[name]!r}"
    for rope in _ropes(config) if carries.ropes else ():
        if rope["rope_type"] not in carries.ropes:
            yield f"rotary scaling {rope['rope_type']!r}"
        part = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0
        if part != 1.0 and not carries.partial:
            yield "a rotary embedding of a part of each head"
    if not carries.windows and _slides(config):
        yield "sliding-window attention"
    yield from carries.more(config)


def _filled(config: Config, carries: Carries) -> dict[str, Any]:
    filled = dict(carries.defaults)
    filled |= {name: value for name, value in config.items() if value is not None or name == "sliding_window"}
    if filled.get("hidden_activation") is not None:  # Gemma's name for it, the newer of the two
        filled["hidden_act"] = filled["hidden_activation"]
    return filled


def _slides(config: Config) -> bool:
    """Whether a layer looks at a window alone."""
    family, kinds = config.get("model_type"), config.get("layer_types")
    if family in ("mistral", "phi3"):
        return config.get("sliding_window") is not None
    if family not in ("qwen2", "qwen3", "gemma2", "gemma3_text", "smollm3"):
        return False  # transformers reads no window there
    if isinstance(kinds, list | tuple):
        return any(kind == "sliding_attention" for kind in kinds)
    if family.startswith("gemma"):
        return True
    if not config.get("use_sliding_window") or config.get("sliding_window") is None:
        return False
    first = 0 if family == "smollm3" else _count(config, "max_window_layers", 28)
    return _count(config, "num_hidden_layers", 32) > first


def _ropes(config: Config) -> list[dict[str, Any]]:
    return [rope for _, rope in _by_kind(config)]


def _by_kind(config: Config) -> list[tuple[str, dict[str, Any]]]:
    """Kind of layer -> rotary parameters, from each way that `config.json` writes them; `rope_type` is always there."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(given, Mapping):
        return [("full_attention", {"rope_type": "default"})]
    nested = {str(kind): value for kind, value in given.items() if isinstance(value, Mapping)}
    found = []
    for kind, rope in (nested or {"full_attention": given}).items():
        name = rope.get("rope_type") or rope.get("type") or "default"
        found.append((kind, {**rope, "rope_type": "longrope" if name == "su" else str(name)}))
    return found


def _architectures(config: Config) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list | tuple) else []


def _count(config: Config, name: str, default: int) -> int:
    """A number above zero; the default where the field is missing or anything else (loading it says so)."""
    value = config.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else default


def listed(table: Mapping[str, Carries]) -> str:
    """A table's families in words."""
    return ", ".join(f"{carries.label} ({name})" for name, carries in table.items())
