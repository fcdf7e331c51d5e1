"""Models that a recipe makes from nothing, and where a recipe may name one in place of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from distill2edge.errors import Problem
from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import Section


class Scratch(Section):
    """A randomly initialised model: random weights, seeded. It takes the teacher's tokenizer."""

    architecture: Literal["llama", "t5"] = Field(description="llama: a decoder; t5: encoder and decoder (T5 v1.1)")
    layers: int = Field(ge=1, le=200, description="blocks; of a t5, in the encoder and again in the decoder")
    hidden: int = Field(ge=8, le=65_536, description="a multiple of 32, or most GGUF schemes fall back to larger types")
    heads: int = Field(ge=1, le=4096, description="divides hidden into heads of an even size")
    intermediate: int | None = Field(None, ge=8, le=2**20, description="width of the feed-forward; null: 8/3 of hidden")

    def problems(self) -> Iterator[Problem]:
        """Heads of an even size."""
        if self.hidden % (2 * self.heads):
            what = f"hidden ({self.hidden}) must be a multiple of twice the heads ({self.heads})"
            yield Problem(("hidden",), what, f"write {max(1, self.hidden // (2 * self.heads)) * 2 * self.heads}")

    @property
    def width(self) -> int:
        """Of the feed-forward: as given, or 8/3 of hidden, rounded up to a multiple of 32."""
        return self.intermediate or -(-self.hidden * 8 // 96) * 32


class ScratchTeacher(Scratch):
    """A randomly initialised teacher: random weights and a tokenizer trained on the train split."""

    vocabulary: int = Field(
        2048, ge=300, le=10**7, description="tokens of the byte-level BPE; fewer where the text gives fewer"
    )


def _model_branch(value: Any) -> str:
    return "Scratch" if isinstance(value, dict | Scratch) else "name"


TeacherModel = Annotated[
    Annotated[PathText, Tag("name")] | Annotated[ScratchTeacher, Tag("Scratch")], Discriminator(_model_branch)
]
StudentModel = Annotated[
    Annotated[PathText, Tag("name")] | Annotated[Scratch, Tag("Scratch")], Discriminator(_model_branch)
]
