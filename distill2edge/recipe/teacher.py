"""The teacher of a recipe: a model that runs here, or one behind an endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from distill2edge.recipe.endpoint import PREFIX, Endpoint
from distill2edge.recipe.scratch import Scratch, TeacherModel
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.training import Lora, Training


class Fit(Training):
    """A short fit of the teacher to the task, on the data's own responses."""

    max_rows: int | None = Field(None, ge=1, description="training rows to use; null uses all")
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="null trains every weight")  # type: ignore[call-arg]


class Teacher(Section):
    """The model that gives the signal."""

    model: TeacherModel = Field(
        description="hub id | local directory | file.gguf | bundled:NAME | endpoint:URL | a model made from nothing: "
        "{architecture: llama, layers: 4, hidden: 128, heads: 4}"
    )
    endpoint: Annotated[Endpoint | None, LATER] = Field(None, description="how to ask, where model is endpoint:URL")
    revision: str | None = Field(None, description="commit of a hub model")
    backend: Literal["auto", "transformers", "llama.cpp"] = Field(
        "auto",
        description="what runs it for the signal; auto: transformers; for text, llama.cpp where the teacher is an "
        "unfitted GGUF on a CPU",
    )
    licence: str | None = Field(None, description="SPDX or table name, when the model does not say it")
    accept_licence: str | None = Field(
        None, min_length=12, description="written reason to go on where the gate says deny or unknown"
    )
    fit: Fit | None = Field(None, description="fit the teacher to the task first; null uses it as it is")

    @property
    def url(self) -> str | None:
        """The address of an endpoint; None for a model that runs here."""
        named = isinstance(self.model, str) and self.model.startswith(PREFIX)
        return str(self.model).removeprefix(PREFIX).strip() if named else None

    @model_validator(mode="after")
    def _endpoint_is_asked_for_text(self) -> Teacher:
        if (self.url is None) != (self.endpoint is None):
            raise ValueError(
                "model: endpoint:URL and the section teacher.endpoint belong together: give both, or neither"
            )
        if self.url is None:
            return self
        if self.fit is not None:
            raise ValueError("an endpoint's model cannot be fitted: take teacher.fit out")
        if self.backend != "auto" or self.revision is not None:
            raise ValueError("an endpoint runs its model itself: leave teacher.backend and teacher.revision out")
        return self

    @model_validator(mode="after")
    def _scratch_is_trained(self) -> Teacher:
        if not isinstance(self.model, Scratch):
            return self
        if self.fit is None:
            raise ValueError("a teacher made from nothing knows nothing: add teacher.fit")
        if self.fit.lora is not None:
            raise ValueError("a teacher made from nothing is trained whole: set teacher.fit.lora: null")
        if self.backend == "llama.cpp":
            raise ValueError("a teacher made from nothing has no GGUF file: set teacher.backend: transformers")
        if self.revision is not None:
            raise ValueError("a teacher made from nothing has no revision: leave teacher.revision out")
        return self
