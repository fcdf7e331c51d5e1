"""A decoder by the headers of its weights, and narrower, shallower ones of it: names and shapes, no weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from distill2edge.errors import UserError
from distill2edge.gguf.families import Family, by_architecture, by_model_type, refuse
from distill2edge.gguf.mixtures import EMBEDDING, HEAD, Place
from distill2edge.gguf.reader import read_gguf
from distill2edge.intake.glance import Glance
from distill2edge.models.directory import read_directory
from distill2edge.models.widths import Widths, widths_of
from distill2edge.student.tensor_roles import CHANNELS, HEADS, HIDDEN, KV, Axes, axes_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A tensor of every layer, or one outside the layers.

    Attributes:
        name: in a GGUF, without `blk.N.`: `attn_q.weight`.
        shape: [rows, columns], or [length].
        axes: which width each of them is; None for a length that stays.
    """

    name: str
    shape: Shape
    axes: Axes

    @property
    def role(self) -> str:
        """`attn_q` of `attn_q.weight`."""
        return self.name.rpartition(".")[0]


@dataclass(frozen=True)
class Decoder:
    """A decoder by its shape.

    Attributes:
        architecture: as `general.architecture` of a GGUF.
        layer: tensors of each layer.
        top: tensors outside the layers.
        vocabulary: rows of the embedding.
    """

    architecture: str
    layers: int
    widths: Widths
    vocabulary: int
    layer: tuple[Part, ...]
    top: tuple[Part, ...]

    @property
    def tied(self) -> bool:
        """The embedding is the head."""
        return all(part.role != HEAD for part in self.top)

    def place(self, layer: int) -> Place:
        """A layer, for the table of mixtures."""
        return Place(layer, self.layers, self.widths.queries)

    def sized(self, layers: int, widths: Widths, vocabulary: int) -> Decoder:
        """The same family in another shape."""
        sizes = {HEADS: widths.heads * widths.head, KV: widths.kv_groups * widths.head,
                 CHANNELS: widths.feed_forward, HIDDEN: widths.hidden}  # fmt: skip

        def of(part: Part) -> Part:
            axes = part.axes or (None,) * len(part.shape)
            shape = tuple(size if axis is None else sizes[axis] for axis, size in zip(axes, part.shape, strict=True))
            if part.role in (EMBEDDING, HEAD):
                shape = (vocabulary, *shape[1:])
            return replace(part, shape=shape)

        return replace(
            self, layers=layers, widths=widths, vocabulary=vocabulary,
            layer=tuple(map(of, self.layer)), top=tuple(map(of, self.top)),
        )  # fmt: skip

    def tensors(self) -> Iterator[tuple[int, Part, str]]:
        """Layer, part and name in the file of each tensor; those outside the layers have layer 0."""
        yield from ((0, part, part.name) for part in self.top)
        for index in range(self.layers):
            yield from ((index, part, f"blk.{index}.{part.name}") for part in self.layer)

    @property
    def body(self) -> int:
        """Weights of all layers."""
        return self.layers * sum(count_of(part.shape) for part in self.layer)

    @property
    def embedding(self) -> int:
        """Weights of the embedding and, where it is apart, of the head."""
        return sum(count_of(part.shape) for part in self.top if part.role in (EMBEDDING, HEAD))


def decoder_of(looked: Glance) -> Decoder:
    """The decoder that a model is.

    Raises:
        UserError: another kind of model, a family without a GGUF writer here, or layers that differ in their widths.
    """
    facts, where = looked.facts, str(looked.path)
    if not facts.kind.writes or facts.kind.pairs:
        raise UserError(f"the teacher is a model of the kind {facts.kind}, and fit sizes decoders", where=where,
                        fix="give a language model")  # fmt: skip
    family = by_model_type(str(facts.model_type)) if looked.path.is_dir() else by_architecture(str(facts.architecture))
    if family is None:
        raise refuse(str(facts.model_type or facts.architecture), where)
    config = looked.text
    widths = widths_of(config)
    if widths is None:
        heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
        raise UserError(
            f"{groups} key-value heads do not divide {heads} heads, or its layers have widths of their own",
            where=where,
            fix="give a decoder whose layers are all alike",
        )
    stored = _stored(looked.path, family, int(config["num_hidden_layers"]))
    if any(len(shape) > 2 for _, _, shape in stored):
        raise UserError("its layers have experts, whose files are not sized here", where=where,
                        fix="give a decoder without experts")  # fmt: skip
    return Decoder(
        family.architecture,
        int(config["num_hidden_layers"]),
        widths,
        int(facts.vocabulary or 0),
        tuple(_part(name, theirs, shape) for name, theirs, shape in stored if name.startswith("blk.0.")),
        tuple(_part(name, theirs, shape) for name, theirs, shape in stored if not name.startswith("blk.")),
    )


def _stored(path: Path, family: Family, layers: int) -> list[tuple[str, str, Shape]]:
    """Name in a GGUF, name in a directory and shape of the tensors that there are."""
    names = family.names(layers)
    if path.is_dir():
        shapes = {name: tensor.shape for name, tensor in read_directory(path).tensors.items()}
        tied = bool((read_directory(path).text).get("tie_word_embeddings", False))
        found = [(ours, theirs, shapes[theirs]) for ours, theirs in names.items() if theirs in shapes]
        return [each for each in found if not (tied and each[0] == f"{HEAD}.weight")]
    tensors = read_gguf(path).tensors
    return [(ours, theirs, tuple(tensors[ours].shape)) for ours, theirs in names.items() if ours in tensors]


def _part(name: str, theirs: str, shape: Shape) -> Part:
    return Part(name.removeprefix("blk.0."), shape, axes_of(theirs) or (None,) * len(shape))


def count_of(shape: Shape) -> int:
    """Weights of a tensor."""
    found = 1
    for size in shape:
        found *= size
    return found
