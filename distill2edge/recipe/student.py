"""The student of a recipe: what it starts from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag

from distill2edge.errors import Problem
from distill2edge.models.config import MAX_SIZE
from distill2edge.models.widths import NAMES
from distill2edge.recipe.pretrain import Pretrain
from distill2edge.recipe.ranges import Epochs
from distill2edge.recipe.scratch import Scratch, StudentModel
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.training import Lora


def _impossible(name: str, layers: int | tuple[int, ...] | None, least: int = 1) -> Iterator[Problem]:
    """A count or list of layers that no model has; `least`: the fewest that one may have."""
    if isinstance(layers, int) and layers < least:
        yield Problem((name,), f"{layers} layers make no model", "keep at least one")
    if isinstance(layers, tuple):
        twice = sorted({number for number in layers if layers.count(number) > 1})
        if not layers or min(layers) < 0:
            yield Problem((name,), f"{list(layers)} names no layers", "0 is the first; write [0, 2, 4]")
        elif twice:
            yield Problem((name,), f"layer {twice[0]} is named twice", "name each layer once")
        elif list(layers) != sorted(layers):
            yield Problem((name,), "the layers are out of order", f"write {sorted(layers)}")


def counted(layers: int | tuple[int, ...]) -> int:
    """How many layers a number or a list asks for."""
    return layers if isinstance(layers, int) else len(layers)


class Width(Section):
    """Narrower layers: whole parts of them, those with the largest activations on the calibration split."""

    kv_groups: int | float | None = Field(
        None,
        ge=0.01,
        le=MAX_SIZE,
        description="key-value heads, each with the query heads that share it: how many to keep of each layer, or "
        "which share (0.5); null keeps all",
    )
    feed_forward: int | float | None = Field(
        None, ge=0.01, le=MAX_SIZE, description="channels inside each feed-forward block: a multiple of 32, or a share"
    )
    hidden: int | float | None = Field(
        None,
        ge=0.01,
        le=MAX_SIZE,
        description="hidden size, the same channels in all layers: a multiple of 32 and of the heads, or a share",
    )

    def problems(self) -> Iterator[Problem]:
        """Counts and shares that leave something; how much there is is known later."""
        wanted = self.wanted
        if not wanted:
            yield Problem((), "no width is given", "write {feed_forward: 0.5}, or leave width out")
        for name, value in wanted.items():
            if isinstance(value, float) and value > 1:
                yield Problem((name,), f"{value:g} is no share", "write a share such as 0.5, or a whole number")

    @property
    def wanted(self) -> dict[str, int | float]:
        """What is asked for, by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}


def wanted_widths(init: FromTeacher | FromModel) -> dict[str, int | float]:
    """The widths that a student is pruned to, by name; none where its layers stay as wide as they are."""
    return {} if init.width is None else init.width.wanted


class FromTeacher(Section):
    """A student made of the teacher's own layers."""

    source: Literal["teacher"] = Field("teacher", alias="from")
    layers: int | tuple[int, ...] = Field(
        description="how many layers, or which ones (0 is the first); of task embedding 0 "
        "too: a table of token vectors, whose mean is a text's"
    )
    decoder_layers: Annotated[int | tuple[int, ...] | None, LATER] = Field(
        None, description="of an encoder-decoder: those of its decoder, where other than `layers`"
    )
    select: Literal["even", "first", "similarity"] = Field(
        "even", description="even: evenly spaced; first: the lowest; similarity: drop the block that changes least"
    )
    width: Annotated[Width | None, LATER] = Field(
        None, description="narrower layers", examples=[{"kv_groups": 2, "feed_forward": 1024}, {"feed_forward": 0.5}]
    )
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def problems(self) -> Iterator[Problem]:
        """Layers that can be taken at all; how many the teacher has is known later."""
        for name in ("layers", "decoder_layers"):
            yield from _impossible(name, getattr(self, name), 0 if name == "layers" else 1)
        if self.is_table and self.width is not None:
            yield Problem(("width",), "a table of token vectors has no widths", "see student.dimensions")

    @property
    def is_table(self) -> bool:
        """Whether the student is a table of token vectors."""
        return self.layers == 0


class FromModel(Section):
    """A student that starts from a checkpoint."""

    model: StudentModel = Field(
        description="hub id | local directory | file.gguf | bundled:NAME | a randomly initialised model: "
        "{architecture: llama, layers: 4, hidden: 128, heads: 4}",
        examples=[
            "owner/name",
            "bundled:all-minilm-l6-v2",
            {"architecture": "llama", "layers": 2, "hidden": 64, "heads": 2},
        ],
    )
    revision: str | None = None
    layers: Annotated[int | tuple[int, ...] | None, LATER] = Field(
        None, description="keep so many of its layers, evenly spaced, or these (0 is the first); null keeps all"
    )
    width: Annotated[Width | None, LATER] = Field(None, description="narrower layers", examples=[{"feed_forward": 0.5}])

    def problems(self) -> Iterator[Problem]:
        """Layers that can be taken at all."""
        yield from _impossible("layers", self.layers)
        if self.width is not None and isinstance(self.model, Scratch):
            what = "a randomly initialised model has the sizes that its section gives"
            yield Problem(("width",), what, "leave width out")


def _init_branch(value: Any) -> str:
    has_model = "model" in value if isinstance(value, dict) else isinstance(value, FromModel)
    return "FromModel" if has_model else "FromTeacher"


Init = Annotated[
    Annotated[FromTeacher, Tag("FromTeacher")] | Annotated[FromModel, Tag("FromModel")], Discriminator(_init_branch)
]


class Trim(Section):
    """A smaller vocabulary for the student."""

    trim: Literal["corpus"] = Field("corpus", description="corpus: the tokens that the training rows use")
    keep: tuple[str, ...] = Field(
        (), description="further texts whose tokens stay, as they stand in a text: with a space before a word inside it"
    )
    max_unseen: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest share of the validation rows' tokens that may be outside it, so that the student has to "
        "write them in smaller pieces; more is an error before the training; null: any",
    )
    min_frequency: Annotated[int, LATER] = Field(
        1,
        ge=1,
        le=MAX_SIZE,
        description="of an encoder: tokens that the training rows use less often go too, and words with them are "
        "written in smaller pieces; from 2 on a BERT's characters that are in none of them go as well, but for ASCII: "
        "a word of another script becomes its unknown token",
    )

    def problems(self) -> Iterator[Problem]:
        """Texts that keep something."""
        for index, text in enumerate(self.keep):
            if not text:
                yield Problem(("keep", index), "an empty text keeps no token", "write a text, or take it out")


def _vocabulary_branch(value: Any) -> str:
    return "Trim" if isinstance(value, dict | Trim) else "name"


Vocabulary = Annotated[
    Annotated[Literal["keep", "trim"], Tag("name")] | Annotated[Trim, Tag("Trim")], Discriminator(_vocabulary_branch)
]


class Assistant(Section):
    """A larger student that is taught first, and of which the student then takes its layers: a teacher assistant.

    Mirzadeh et al. 2020 (arXiv 1902.03393) have it write the labels; here the teacher's serve both, and the weights of
    the assistant are what the student starts from.
    """

    layers: int | tuple[int, ...] | None = Field(
        None,
        description="how many layers it has of the teacher or the checkpoint, or which ones; null: all of the "
        "checkpoint's. student.init.layers then counts the assistant's layers",
        examples=[6, [0, 2, 4, 6, 8, 10]],
    )
    epochs: Epochs | None = Field(None, description="passes of its own; null: distill.epochs")

    def problems(self) -> Iterator[Problem]:
        """Layers that can be taken at all."""
        yield from _impossible("layers", self.layers)


class Student(Section):
    """The model that is trained and shipped."""

    init: Init = Field(
        description="what its weights start from",
        examples=[
            {"from": "teacher", "layers": 16, "select": "first"},
            {"from": "teacher", "layers": [1, 3, 5]},
            {"model": "owner/name"},
        ],
    )
    vocabulary: Annotated[Vocabulary, LATER] = Field(
        "keep",
        description="trim: only the tokens that the training rows use, single characters or bytes, and special tokens; "
        "{trim: corpus, keep: [...], max_unseen: 0.05}: also those of further texts, and no more unseen ones than that",
        examples=[{"trim": "corpus", "keep": ["a text of the users"], "max_unseen": 0.05}],
    )
    dimensions: Annotated[tuple[int, ...] | None, LATER] = Field(
        None,
        min_length=1,
        description="of task embedding: lengths of the vector that are to serve, the whole first; a shorter one is its "
        "first numbers. null: the whole alone. A table of token vectors may be narrower than the teacher: by principal "
        "components",
        examples=[[384, 128, 64]],
    )
    thresholds: Annotated[Literal["half", "f1"], LATER] = Field(
        "half",
        description="of data.multi: probability above which a text has a label. half: .5; f1: the one with the best "
        "F1 on the validation rows, for each label, kept with the model and its files; chosen of a fitted teacher too",
    )
    pretrain: Annotated[Pretrain | None, LATER] = Field(
        None, description="of an encoder: masked-language-model distillation from the unfitted teacher first"
    )
    assistant: Annotated[Assistant | None, LATER] = Field(
        None,
        description="a larger student that the teacher teaches first, by the same signal and section distill; the "
        "student starts from its layers, and distill.loss.hidden and attention compare it with them. {}: one of all "
        "layers",
        examples=[{}, {"layers": 6}],
    )
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="null trains every weight")  # type: ignore[call-arg]

    @property
    def trim(self) -> Trim | None:
        """How its vocabulary is trimmed; None where it is kept."""
        if isinstance(self.vocabulary, Trim):
            return self.vocabulary
        return Trim() if self.vocabulary == "trim" else None  # type: ignore[call-arg]

    def problems(self) -> Iterator[Problem]:
        """What a randomly initialised student does not have; and lengths of the vector that do not get shorter."""
        sizes = self.dimensions or ()
        if list(sizes) != sorted(set(sizes), reverse=True) or any(size < 1 for size in sizes):
            wanted = sorted({size for size in sizes if size > 0}, reverse=True) or [384, 128]
            what = f"{list(sizes)} are not lengths of a vector, the longest first"
            yield Problem(("dimensions",), what, f"write {wanted}")
        if self.pretrain is not None and self.init.width is not None:
            what = "student.pretrain distils whole layers of the teacher"
            yield Problem(("init", "width"), what, "take one of the two out")
        yield from self._of_assistant()
        if isinstance(self.init, FromModel) and isinstance(self.init.model, Scratch):
            if self.lora is not None:
                yield Problem(("lora",), "a randomly initialised student is trained whole", "set student.lora: null")
            if self.init.revision is not None:
                yield Problem(
                    ("init", "revision"),
                    "a randomly initialised student has no revision",
                    "leave student.init.revision out",
                )

    def _of_assistant(self) -> Iterator[Problem]:
        """An assistant that is larger than the student, and that can be made of what the student is made of."""
        if self.assistant is None:
            return
        where, init, larger = ("assistant",), self.init, self.assistant.layers
        if self.pretrain is not None:
            what = "student.pretrain and student.assistant both prepare the student's layers"
            yield Problem(where, what, "take one of the two out")
        if isinstance(init, FromModel) and isinstance(init.model, Scratch):
            what = "a randomly initialised student takes no layers from an assistant"
            yield Problem(where, what, "leave it out, or name a pretrained model: student.init: {model: ...}")
            return
        if isinstance(init, FromTeacher) and (init.is_table or larger is None):
            fix = "give its student.init.layers" if init.is_table else "give fewer than it has: assistant: {layers: N}"
            what = "a table of token vectors takes no layers" if init.is_table else "all layers of the teacher are it"
            yield Problem(where, what, fix)
            return
        count, of = (None if layers is None else counted(layers) for layers in (init.layers, larger))
        if count is None and init.width is None:
            what = "the student has all layers of its assistant, which is to be larger"
            yield Problem(("init", "layers"), what, "give fewer layers, or leave student.assistant out")
        elif of is not None and count is not None and init.width is None and count >= of:
            what = f"an assistant of {of} layers is no larger than its student of {count}"
            yield Problem((*where, "layers"), what, f"give it more than {count}")
        elif of is not None and isinstance(init.layers, tuple) and init.layers and init.layers[-1] >= of:
            what = f"layer {init.layers[-1]} is out of range: the assistant has {of} layers, and they are counted"
            yield Problem(("init", "layers"), what, f"use 0 to {of - 1}")
