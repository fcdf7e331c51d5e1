"""What kind of model this is: asked and answered here alone, of directories, GGUF and ONNX files and models in memory.

A kind says what follows from it for every room: how the library loads and adapts it, where its layers are, what its
logits are. What a room does for each kind of its own stands in one table of that room, with kinds as its keys.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from distill2edge.models.config import knows_segments
from distill2edge.models.placement import device_of
from distill2edge.models.pooling import FIELD, OUTPUT, pooling_of
from distill2edge.util.files import read_object


class Kind(ABC):
    """One kind of model.

    Attributes:
        name: in files (`input.json`, `export.json`) and as the key of tables.
        label: for people.
        does: what a model of it does, after "this model".
        hub_task: what it does, in the hub's terms: which of transformers' classes loads it.
        adapter: peft's task type.
        writes: whether it writes text; else it reads one and says something of it.
        pairs: whether what it writes stands alone, after a start token, apart from the source that it reads.
        problem: transformers' `problem_type` of its head; empty where it has none.
        heads: what the names of its classes end with after `For`, where a head is asked for.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    does: ClassVar[str]
    hub_task: ClassVar[str]
    adapter: ClassVar[str]
    writes: ClassVar[bool]
    pairs: ClassVar[bool] = False
    problem: ClassVar[str] = ""
    heads: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """Logits of one text alone, a row for each position that predicts something.

        Args:
            ids: [L] tokens.
            prompt: count of tokens before the response.
            types: [L] segment ids, of two texts that an encoder reads.
        """

    def body(self, model: Any) -> Any:
        """The part of a model in memory that turns ids into hidden states."""
        return model.get_decoder()

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Of `from_pretrained`, beside its class."""
        return {}

    def labels(self, config: Mapping[str, Any]) -> list[str] | None:
        """Names of the classes that it tells apart, in the order of its logits; None without such a head."""
        return None

    def __str__(self) -> str:
        return self.label


class Decoder(Kind):
    """Continues a text."""

    name, label, hub_task, adapter, writes = "decoder", "decoder", "text-generation", "CAUSAL_LM", True
    does = "is a decoder alone"
    heads = ("CausalLM",)

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[L, V]."""
        import torch

        return model(torch.tensor([list(ids)], device=device_of(model)), use_cache=False).logits[0]


class EncoderDecoder(Kind):
    """Reads a source, then writes a target."""

    name, label, hub_task = "seq2seq", "encoder-decoder", "text2text-generation"
    adapter, writes, pairs = "SEQ_2_SEQ_LM", True, True
    does = "has an encoder and a decoder"
    heads = ("ConditionalGeneration",)

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[1 + T, V]: of every target token, and of what would follow."""
        inputs = {name: part.to(device_of(model)) for name, part in pair_inputs(model.config, ids, prompt).items()}
        return model(**inputs, use_cache=False).logits[0]


class Classifier(Kind):
    """Reads a text and says which class it is of."""

    name, label, hub_task, adapter, writes = "classifier", "classifier", "text-classification", "SEQ_CLS", False
    problem = "single_label_classification"
    does = "reads texts and writes none"

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[C]."""
        return model(**text_inputs(model, ids, types)).logits[0]

    def body(self, model: Any) -> Any:
        """All but the head."""
        return getattr(model, model.base_model_prefix, None) or model.get_decoder()

    def labels(self, config: Mapping[str, Any]) -> list[str] | None:
        """As `config.json` names them; transformers writes none where they are the default two."""
        stated = config.get("id2label") or {}
        return [str(stated.get(str(index), f"LABEL_{index}")) for index in range(len(stated) or 2)]


class MultiLabel(Classifier):
    """Reads a text and says of each label whether it has it: a head of sigmoids, each label apart from the others."""

    name, label, problem = "multi-label", "multi-label classifier", "multi_label_classification"


class Regressor(Classifier):
    """Reads a text and says a number of it: a head of one output."""

    name, label, problem = "regressor", "regressor", "regression"


class Tagger(Classifier):
    """Reads a text and says a tag of each of its tokens."""

    name, label, problem = "tagger", "token classifier", ""
    hub_task, adapter = "token-classification", "TOKEN_CLS"

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[L, C]."""
        return super().logits(model, ids, prompt, types)


class Encoder(Kind):
    """Reads a text, and has no head for a class yet: that of masked tokens, or none."""

    name, label, hub_task, adapter, writes = "encoder", "encoder", "fill-mask", "FEATURE_EXTRACTION", False
    does = "reads texts and writes none"

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[L, V], of masked tokens."""
        return model(**text_inputs(model, ids, types)).logits[0]


class Embedder(Kind):
    """Reads a text and makes one vector of it."""

    name, label, hub_task, adapter, writes = "embedder", "embedder", "feature-extraction", "FEATURE_EXTRACTION", False
    does = "reads texts and writes none"

    def logits(self, model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
        """[D]: the vector of the text, pooled and normalised as the configuration says."""
        import torch

        tokens = torch.tensor([list(ids)], device=device_of(model))
        mask = torch.ones_like(tokens)
        pooling = pooling_of(model.config)
        assert pooling is not None
        return pooling.of(model(tokens, attention_mask=mask).last_hidden_state, mask)[0]

    def body(self, model: Any) -> Any:
        """All of it."""
        return model

    def options(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """As `Kind.options`: without the layer over the first token that other tasks have under their heads."""
        from inspect import signature

        from transformers import CONFIG_MAPPING, MODEL_MAPPING

        known = MODEL_MAPPING.get(CONFIG_MAPPING[str(config["model_type"])], None)
        pools = known is not None and "add_pooling_layer" in signature(known).parameters
        return {"add_pooling_layer": False} if pools else {}


DECODER, ENCODER_DECODER, CLASSIFIER, MULTI_LABEL, REGRESSOR, TAGGER, ENCODER, EMBEDDER = _ALL = (
    Decoder(), EncoderDecoder(), Classifier(), MultiLabel(), Regressor(), Tagger(), Encoder(), Embedder(),
)  # fmt: skip
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in _ALL}

_CLASSIFIER, _TAGGER = "ForSequenceClassification", "ForTokenClassification"
# `model_type`s whose models read a text and write none. Everything else without a head of its own is a decoder.
_ENCODERS = re.compile(
    r"(albert|bert|camembert|convbert|data2vec-text|deberta|deberta-v2|distilbert|electra|ernie|esm|flaubert|fnet|ibert|"
    r"longformer|luke|mobilebert|modernbert|mpnet|nystromformer|rembert|roberta|roberta-prelayernorm|roformer|"
    r"squeezebert|xlm-roberta|xlm-roberta-xl|xmod)$"
)


def kind_of(config: Mapping[str, Any]) -> Kind:
    """The kind of a model by its `config.json`."""
    names = config.get("architectures")
    first = str(names[0]) if isinstance(names, list | tuple) and names else ""
    if first.endswith(_CLASSIFIER):
        one = REGRESSOR if len(config.get("id2label") or ()) == 1 else CLASSIFIER
        return MULTI_LABEL if config.get("problem_type") == MULTI_LABEL.problem else one
    if first.endswith(_TAGGER):
        return TAGGER
    if config.get(FIELD) is not None:
        return EMBEDDER
    if config.get("is_encoder_decoder"):
        return ENCODER_DECODER
    if _ENCODERS.match(str(config.get("model_type"))) and not config.get("is_decoder"):
        return ENCODER
    return DECODER


def kind_of_directory(model_dir: Path | str) -> Kind:
    """The kind of a Hugging Face directory, or of an export with its `config.json`; a decoder without one."""
    path = Path(model_dir) / "config.json"
    return kind_of(read_object(path)) if path.is_file() else DECODER


def kind_of_model(model: Any) -> Kind:
    """The kind of a model of transformers in memory, with adapters or without."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = ("model_type", "is_encoder_decoder", "is_decoder", "id2label", "problem_type", FIELD)
    stated = {name: getattr(base.config, name, None) for name in names}
    return kind_of({**stated, "architectures": [type(base).__name__]})


PAIRS = "is_encoder_decoder"
"""The field of a `config.json` that says so."""


def misstates(config: Any, stated: Mapping[str, Any]) -> bool:
    """Whether a `config.json` denies or claims a source apart from the target, against its `model_type`.

    Args:
        config: as transformers reads it. stated: as it stands in the file.
    """
    return bool(getattr(config, PAIRS)) != bool(stated.get(PAIRS))


def logits_of(model: Any, ids: Sequence[int], prompt: int, types: Sequence[int] | None = None) -> Any:
    """Logits of one text alone in a model in memory, as its kind gives them: see `Kind.logits`."""
    return kind_of_model(model).logits(model, ids, prompt, types)


def text_inputs(model: Any, ids: Sequence[int], types: Sequence[int] | None) -> dict[str, Any]:
    """One text (or two) as tensors [1, L] for an encoder; segment ids where it knows any."""
    import torch

    found = {"input_ids": torch.tensor([list(ids)], device=device_of(model))}
    if types is not None and knows_segments(model.config):
        found["token_type_ids"] = torch.tensor([list(types)], device=device_of(model))
    return found


def kind_of_gguf(architecture: str, labels: Any = None, pooling: Any = None) -> Kind:
    """The kind of a GGUF.

    Args:
        architecture: `general.architecture`.
        labels: `ARCHITECTURE.classifier.output_labels`, where there are any.
        pooling: `ARCHITECTURE.pooling_type`, likewise.
    """
    if architecture == "t5":
        return ENCODER_DECODER
    if labels:
        return CLASSIFIER
    if pooling:
        return EMBEDDER
    return ENCODER if architecture.endswith("bert") else DECODER


_TAGGED = 3
"""Dimensions of a token classifier's logits: texts, tokens, tags."""


def kind_of_onnx(directory: Path) -> Kind:
    """The kind of a directory of ONNX graphs (or of one graph), by their names, inputs and outputs; no weights."""
    if (directory / "encoder.onnx").is_file():
        return ENCODER_DECODER
    import onnx
    from google.protobuf.message import DecodeError

    try:
        path = directory / "model.onnx" if directory.is_dir() else directory
        graph = onnx.load(str(path), load_external_data=False).graph
    except (DecodeError, FileNotFoundError):
        return DECODER  # missing or damaged: the runtime says so, with the fix
    given = {value.name for value in graph.input}
    if not given <= {"input_ids", "attention_mask", "token_type_ids"}:
        return DECODER
    output = graph.output[0]
    sizes = output.type.tensor_type.shape.dim
    head = REGRESSOR if len(sizes) and sizes[-1].dim_value == 1 else CLASSIFIER
    if len(sizes) == _TAGGED:
        head = TAGGER
    return {"logits": head, OUTPUT: EMBEDDER}.get(output.name, DECODER)


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
