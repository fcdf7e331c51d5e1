"""The teacher of a recipe: a model that runs here, or one behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field

from distill2edge.errors import Problem
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.models.pooling import Mode
from distill2edge.recipe.ask import Ask
from distill2edge.recipe.endpoint import PREFIX, Endpoint
from distill2edge.recipe.scratch import Scratch, TeacherModel
from distill2edge.recipe.section import LATER, Section
from distill2edge.recipe.teacher_load import Load
from distill2edge.recipe.teacher_workers import Workers
from distill2edge.recipe.training import Lora, Training


class Fit(Training):
    """A short fit of the teacher to the task, on the data's own responses."""

    max_rows: int | None = Field(None, ge=1, description="training rows to use; null uses all")
    lora: Lora | None = Field(default_factory=lambda: Lora(), description="null trains every weight")  # type: ignore[call-arg]


class Teacher(Section):
    """The model that gives the signal."""

    model: TeacherModel = Field(
        description="hub id | local directory | file.gguf | bundled:NAME | endpoint:URL | a new random model: "
        "{architecture: llama, layers: 4, hidden: 128, heads: 4}",
        examples=[
            "owner/name",
            "models/teacher",
            "models/teacher.gguf",
            "bundled:smollm2-135m-instruct",
            "endpoint:https://example.org/v1",
            {"architecture": "llama", "layers": 4, "hidden": 128, "heads": 4},
        ],
    )
    endpoint: Annotated[Endpoint | None, LATER] = Field(None, description="how to ask, where model is endpoint:URL")
    revision: str | None = Field(None, description="commit of a hub model")
    backend: Literal["auto", "transformers", "llama.cpp"] = Field(
        "auto",
        description="what runs it for the signal; auto: transformers; for text, llama.cpp where the teacher is an "
        "unfitted GGUF on a CPU",
    )
    dequantize: Annotated[bool, LATER] = Field(
        True,
        description="of a GGUF; false: llama.cpp runs the file itself, for what is too large otherwise: no copy of the "
        "weights is written, and it is not measured beside the student",
    )
    load: Annotated[Load | None, LATER] = Field(
        None,
        description="of one that no single device holds: layers over several devices, four bits; null: whole, on one "
        "device. student.init: {from: teacher} reads its weights in memory whatever stands here",
    )
    workers: Annotated[Workers | None, LATER] = Field(
        None,
        description="of a Ray cluster, which share its work shard by shard (docs/scale.md); null: this process does it",
    )
    licence: str | None = Field(None, description="SPDX or table name, when the model does not say it")
    accept_licence: str | None = Field(
        None, min_length=12, description="written reason to go on where the gate says deny or unknown"
    )
    pooling: Annotated[Mode | None, LATER] = Field(
        None,
        description="of task embedding: how it makes one vector of a text; null: as its sentence-transformers files "
        "say, else the mean of its tokens",
    )
    fit: Fit | None = Field(None, description="fit the teacher to the task first; null uses it as it is")
    ask: Annotated[Ask | None, LATER] = Field(
        None,
        description="of a language model that teaches a classifier: how it is asked; null: it has a head, or "
        "teacher.fit puts one on it",
    )

    @property
    def url(self) -> str | None:
        """The address of an endpoint; None for a model that runs here."""
        named = isinstance(self.model, str) and self.model.startswith(PREFIX)
        return str(self.model).removeprefix(PREFIX).strip() if named else None

    @property
    def placement(self) -> Placement:
        """Where its weights lie while it runs, and in how many bits."""
        return WHOLE if self.load is None else self.load.placement

    def problems(self) -> Iterator[Problem]:
        """What an endpoint's model, or one randomly initialised, does not have."""
        if (self.url is None) != (self.endpoint is None):
            what = "model: endpoint:URL and the section teacher.endpoint belong together"
            yield Problem(("model" if self.url is None else "endpoint",), what, "give both, or neither")
        if self.url is not None:
            if self.fit is not None:
                yield Problem(("fit",), "an endpoint's model cannot be fitted", "take teacher.fit out")
            for name in ("backend", "revision", "dequantize"):
                if getattr(self, name) not in ("auto", None, True):
                    yield Problem((name,), "an endpoint runs its model itself", f"leave teacher.{name} out")
            if self.workers is not None:
                what = "an endpoint is asked by one process, which keeps each answer that is paid for"
                yield Problem(("workers",), what, "leave it out; teacher.endpoint.concurrency asks for more at once")
        elif not self.dequantize:
            if self.backend != "llama.cpp":
                what = "a GGUF that is not dequantized runs in llama.cpp"
                yield Problem(("backend",), what, "set teacher.backend: llama.cpp")
            if self.fit is not None:
                what = "a GGUF that is not dequantized cannot be fitted"
                yield Problem(("fit",), what, "take teacher.fit out, or set teacher.dequantize: true")
        if self.workers is not None and self.workers.gpus and self.backend == "llama.cpp":
            what = "llama.cpp runs the teacher on a CPU"
            yield Problem(("workers", "gpus"), what, "set it to 0, or teacher.backend: transformers")
        if self.ask is not None and self.ask.shots and self.fit is not None:
            what = "a fitted teacher has seen the rows that its examples would be taken of"
            yield Problem(("ask", "shots"), what, "set it to 0, or take teacher.fit out")
        if isinstance(self.model, Scratch):
            if self.fit is None:
                yield Problem(("model",), "a randomly initialised teacher knows nothing", "add teacher.fit")
            elif self.fit.lora is not None:
                yield Problem(
                    ("fit", "lora"), "a randomly initialised teacher is trained whole", "set teacher.fit.lora: null"
                )
            if self.backend == "llama.cpp":
                what = "a randomly initialised teacher has no GGUF file"
                yield Problem(("backend",), what, "set teacher.backend: transformers")
            if self.revision is not None:
                what = "a randomly initialised teacher has no revision"
                yield Problem(("revision",), what, "leave teacher.revision out")
