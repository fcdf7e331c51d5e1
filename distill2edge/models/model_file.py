"""What verify and bench are given: model files, and the held-out rows in a vocabulary's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill2edge.errors import UserError
from distill2edge.models.kv_cache import MARK, PLAIN
from distill2edge.models.placement import WHOLE, Placement

if TYPE_CHECKING:
    from distill2edge.data.examples import Encoded
    from distill2edge.models.id_map import IdMap


def slug_of(name: str) -> str:
    """A model's id as a file name."""
    return name.replace("/", "-").replace(":", "-")


@dataclass(frozen=True)
class ModelFile:
    """One model as it ships, or the dense model it was made of.

    Attributes:
        id: `teacher`, `student`, `control`, or `student/gguf:Q4_0`.
        role: whose model it is.
        scheme: `torch:fp32`, `torch:nf4`, `onnx:int8`, `gguf:Q4_0`, ...
        runtime: `torch`, `onnxruntime` or `llama.cpp`.
        path: what `open_runtime` opens.
        parameters: count of the model's weights, before quantization.
        size_bytes: what a device must store: weights and graph.
        cache: type of keys and values, of a GGUF (`models.kv_cache`).
        file: id of the file, where this is one of several ways to run it.
        placement: of the weights of a dense one.
    """

    id: str
    role: Literal["teacher", "student", "control"]
    scheme: str
    runtime: str
    path: Path
    parameters: int
    size_bytes: int
    placement: Placement = WHOLE
    cache: str = PLAIN
    file: str | None = None

    @property
    def is_reference(self) -> bool:
        """Whether this is the dense teacher, student or control, which its files are compared with."""
        return self.scheme.startswith("torch:")

    @property
    def spec(self) -> dict[str, Any]:
        """For a worker that opens it (`runtimes.open_for`)."""
        found = {"runtime": self.runtime, "path": str(self.path.resolve()), "size_bytes": self.size_bytes}
        return found | self.placement.spec

    @property
    def slug(self) -> str:
        """The id as a file name."""
        return slug_of(self.id)

    def with_cache(self, cache: str) -> ModelFile:
        """The same file, with keys and values in another type."""
        return replace(self, id=f"{self.id}{MARK}{cache}", cache=cache, file=self.id)


def dense(
    role: Literal["teacher", "student", "control"], model_dir: Path, parameters: int, placement: Placement = WHOLE
) -> ModelFile:
    """A Hugging Face directory, which PyTorch runs in float32."""
    size = sum(file.stat().st_size for file in model_dir.glob("*.safetensors"))
    return ModelFile(role, role, placement.scheme, "torch", model_dir, parameters, size, placement)


@dataclass(frozen=True)
class Encodings:
    """Held-out rows in the tokens of one vocabulary.

    Attributes:
        rows: in the order of the test split.
        choices: for each row, the token ids of every choice, continuing the row's prompt; None for open responses.
        vocabulary: a hash of token -> id: two encodings with the same one speak the same tokens.
        stop: ids that end a response.
        full: of a trimmed vocabulary: which tokens it has of the full one.
        pairs: first and second text of each pair that has a gold score (the first's `number`), one after the other.
        output: tokens of every answer, where it is one of the choices and nothing else; None: those of each row's own.
    """

    rows: Sequence[Encoded]
    choices: Sequence[Sequence[Sequence[int]]] | None
    vocabulary: str
    stop: tuple[int, ...] = ()
    full: IdMap | None = None
    output: int | None = None
    pairs: Sequence[Encoded] = ()

    def head(self, count: int) -> Encodings:
        """The first `count` rows."""
        choices = None if self.choices is None else self.choices[:count]
        return replace(self, rows=self.rows[:count], choices=choices)


def check_models(models: Sequence[ModelFile]) -> None:
    """Refuse lists that could not be compared. A teacher behind an endpoint is in none: its files are not here either.

    Raises:
        UserError: two models of one id, files of a teacher without the dense teacher, or nothing dense at all.
    """
    ids = [model.id for model in models]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UserError(f"two models are called {', '.join(twice)}")
    dense = {model.role for model in models if model.is_reference}
    if "teacher" not in dense and ("student" not in dense or any(model.role == "teacher" for model in models)):
        raise UserError("there is no dense teacher to compare with", fix="give the teacher's Hugging Face directory")


def encoding_of(role: str, encodings: dict[str, Encodings]) -> Encodings:
    """The rows a role reads: `student` and `control` share theirs; without one, everybody reads the teacher's (those
    of an endpoint's student are under `teacher`)."""
    return encodings["teacher"] if role == "teacher" else encodings.get("student", encodings["teacher"])


def check_encodings(encodings: dict[str, Encodings]) -> None:
    """Refuse rows that don't pair up.

    Raises:
        UserError: no rows, or teacher and student read different numbers of rows or rows of other content.
    """
    teacher, student = encodings["teacher"], encoding_of("student", encodings)
    if not teacher.rows:
        raise UserError("there are no held-out rows", fix="give data.splits.test at least one row")
    names = [[row.row for row in side.rows] for side in (teacher, student)]
    if len(names[0]) != len(names[1]) or names[0] != names[1]:
        raise UserError(
            "teacher and student were given different held-out rows",
            fix="keep only rows that fit data.max_length in both vocabularies",
        )
    for side in (teacher, student):
        if side.choices is not None and len(side.choices) != len(side.rows):
            raise UserError(f"{len(side.choices)} rows of choices for {len(side.rows)} rows")
