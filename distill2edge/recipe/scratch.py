"""Models that a recipe makes from nothing, and where a recipe may name one in place of a checkpoint."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from distill2edge.recipe.section import Section


class Scratch(Section):
    """A model made from nothing: random weights, seeded. It takes the teacher's tokenizer."""

    architecture: Literal["llama", "t5"] = Field(description="llama: a decoder; t5: encoder and decoder (T5 v1.1)")
    layers: int = Field(ge=1, le=200, description="blocks; of a t5, in the encoder and again in the decoder")
    hidden: int = Field(ge=8, description="a multiple of 32, or most GGUF schemes fall back to larger types")
    heads: int = Field(ge=1, description="divides hidden into heads of an even size")
    intermediate: int | None = Field(None, ge=8, description="width of the feed-forward; null: 8/3 of hidden")

    @model_validator(mode="after")
    def _divisible(self) -> Scratch:
        if self.hidden % (2 * self.heads):
            raise ValueError(f"hidden ({self.hidden}) must be a multiple of twice the heads ({self.heads})")
        return self

    @property
    def width(self) -> int:
        """Of the feed-forward: as given, or 8/3 of hidden, rounded up to a multiple of 32."""
        return self.intermediate or -(-self.hidden * 8 // 96) * 32


class ScratchTeacher(Scratch):
    """A teacher made from nothing: random weights and a tokenizer trained on the train split."""

    vocabulary: int = Field(2048, ge=300, description="tokens of the byte-level BPE; fewer where the text gives fewer")


def _model_branch(value: Any) -> str:
    return "Scratch" if isinstance(value, dict | Scratch) else "name"


TeacherModel = Annotated[
    Annotated[str, Tag("name")] | Annotated[ScratchTeacher, Tag("Scratch")], Discriminator(_model_branch)
]
StudentModel = Annotated[Annotated[str, Tag("name")] | Annotated[Scratch, Tag("Scratch")], Discriminator(_model_branch)]
