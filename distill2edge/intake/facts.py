"""What a model file or directory is, from its headers alone: for checks before anything is loaded. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from distill2edge.errors import UserError
from distill2edge.gguf.reader import GgufFile, read_gguf
from distill2edge.models.directory import Directory, read_directory
from distill2edge.models.kinds import Kind, kind_of, kind_of_gguf
from distill2edge.models.shape import shape_of
from distill2edge.util.files import read_object

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt", "vocab.json")


@dataclass(frozen=True)
class ModelFacts:
    """A model by its headers.

    Attributes:
        format: `directory` (Hugging Face) or `gguf`.
        kind: of model.
        model_type: of transformers; for a GGUF the type it is converted to, None where it cannot be loaded.
        architecture: the class that a directory was saved as, or a GGUF's `general.architecture`.
        layers, hidden, vocabulary: None where the config does not say.
        positions: tokens that it reads at most; None without a limit.
        dtypes: types that the weights are stored in.
        parameters: weights in the files; tied ones count once.
        size_bytes: of the weights' files.
        tied: output head and embedding are one.
        labels: names of the classes of a classifier.
        config: content of config.json; for a GGUF the one it is converted to, empty where it cannot be loaded.
    """

    format: Literal["directory", "gguf"]
    kind: Kind
    model_type: str | None
    architecture: str | None
    layers: int | None
    hidden: int | None
    vocabulary: int | None
    positions: int | None
    dtypes: tuple[str, ...]
    parameters: int
    size_bytes: int
    tied: bool
    has_tokenizer: bool
    has_chat_template: bool
    labels: tuple[str, ...]
    config: Mapping[str, Any]


def model_facts(path: Path) -> ModelFacts:
    """Facts of a `.gguf` file or a Hugging Face directory, checked as far as headers allow.

    A GGUF of a family that can be loaded as a teacher must have every tensor that its metadata asks for. A directory
    must have a config with plausible values, and an index that agrees with its files; whether the tensors are those of
    its architecture is checked when it is loaded (`intake.model_files.describe`).

    Raises:
        UserError: names the file, and the field or tensor.
    """
    path = Path(path)
    return _of_gguf(read_gguf(path)) if path.is_file() else _of_directory(read_directory(path))


def _of_directory(found: Directory) -> ModelFacts:
    text, config = found.text, found.config
    names = config.get("architectures") or [None]
    template = (found.path / "chat_template.jinja").is_file() or (found.path / "chat_template.json").is_file()
    settings = found.path / "tokenizer_config.json"
    if not template and settings.is_file():
        template = bool(read_object(settings).get("chat_template"))
    labels, shape = config.get("id2label") or {}, shape_of(text)
    return ModelFacts(
        format="directory",
        kind=kind_of(config),
        model_type=config["model_type"],
        architecture=names[0],
        layers=shape.layers,
        hidden=shape.hidden,
        vocabulary=found.vocabulary,
        positions=found.positions,
        dtypes=tuple(sorted({each.dtype for each in found.tensors.values() if each.dtype.startswith(("F", "BF"))})),
        parameters=found.parameters,
        size_bytes=sum((found.path / name).stat().st_size for name in {each.file for each in found.tensors.values()}),
        tied=bool(text.get("tie_word_embeddings", False)),
        has_tokenizer=any((found.path / name).is_file() for name in _TOKENIZERS),
        has_chat_template=template,
        labels=tuple(str(labels[key]) for key in sorted(labels, key=int)),
        config=config,
    )


def _of_gguf(file: GgufFile) -> ModelFacts:
    import gguf

    from distill2edge.gguf.complete import check_complete
    from distill2edge.gguf.families import by_architecture
    from distill2edge.gguf.fields import items
    from distill2edge.gguf.hyperparameters import config_of

    family = by_architecture(file.architecture)
    vocabulary = len(items(file, "tokenizer.ggml.tokens", str)) if "tokenizer.ggml.tokens" in file.fields else None
    embedding = file.tensors.get("token_embd.weight")
    config: dict[str, Any] = {}
    if family is not None:
        if embedding is None or vocabulary is None or embedding.shape[0] < vocabulary:
            raise UserError("its embedding does not fit its vocabulary", where=str(file.path),
                            fix="use a complete GGUF")  # fmt: skip
        config = config_of(file, family, embedding.shape[0])
        check_complete(file, family, config)
    labels = file.get(".classifier.output_labels")
    return ModelFacts(
        format="gguf",
        kind=kind_of_gguf(file.architecture, labels, file.get(".pooling_type")),
        model_type=family.model_types[0] if family else None,
        architecture=file.architecture,
        layers=config.get("num_hidden_layers"),
        hidden=config.get("hidden_size"),
        vocabulary=embedding.shape[0] if embedding is not None else vocabulary,
        positions=config.get("max_position_embeddings"),
        dtypes=tuple(sorted({gguf.GGMLQuantizationType(info.type).name for info in file.tensors.values()})),
        parameters=sum(info.elements for info in file.tensors.values()),
        size_bytes=file.size,
        tied="output.weight" not in file.tensors,
        has_tokenizer=vocabulary is not None,
        has_chat_template=bool(file.get("tokenizer.chat_template")),
        labels=tuple(map(str, labels)) if isinstance(labels, list) else (),
        config={"model_type": family.model_types[0], **config} if family else {},
    )
