"""What a report says, as objects: verdict, gates, models with their figures, rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distill2edge.errors import UserError
from distill2edge.util.nearest import meant

Document = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """A value with its 95% interval."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Gate:
    """A condition of the verdict.

    Attributes:
        model: that it is asked of, `student/gguf:Q4_0` for instance.
        op: `>=` or `<=`.
        value: that was measured; null where there is none, and then the gate failed.
    """

    name: str
    model: str
    op: str
    target: float
    value: float | None
    passed: bool


@dataclass(frozen=True)
class ModelFindings:
    """A model of the report. What was not measured is null.

    Attributes:
        id: `teacher`, `student`, `student/gguf:Q4_0`, ...
        role: `teacher`, `student` or `control`.
        size_bytes: of its files.
        score: on the held-out rows, by the report's metric.
        retained: its score over the teacher's.
        kl_student, kl_teacher: mean KL divergence from the merged student, and from the teacher, in nats per token.
        top1_student: share of tokens on which it agrees with the merged student.
        passed: whether it kept every gate; null where none is asked of it.
        error: why it could not be measured.
        document: all else that the report says of it.
    """

    id: str
    role: str
    size_bytes: int | None
    parameters: int | None
    score: Figure | None
    retained: Figure | None
    kl_student: Figure | None
    kl_teacher: Figure | None
    top1_student: Figure | None
    passed: bool | None
    error: str | None
    document: Document = field(repr=False)


@dataclass(frozen=True)
class Report:
    """The report of a run.

        report = d2e.open_run("runs/tickets").report
        report.verdict, report.headline
        report.model("student/gguf:Q4_0").retained

    Attributes:
        document: report.json.
    """

    document: Document = field(repr=False)

    @property
    def verdict(self) -> str:
        """`pass` or `fail`."""
        return str(self.document["verdict"]["result"])

    @property
    def passed(self) -> bool:
        """Whether every gate of the recipe held."""
        return self.verdict == "pass"

    @property
    def headline(self) -> str:
        """One sentence: what the best file keeps of the teacher and saves, or why nothing is claimed."""
        from distill2edge.report.claims import lead

        return lead(self.document)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to be careful about."""
        from distill2edge.report.claims import warnings

        return tuple(str(warning["text"]) for warning in warnings(self.document))

    @property
    def metric(self) -> str:
        """What scores are: `accuracy`, `exact_match`, ..."""
        return str(self.document["metric"]["name"])

    @cached_property
    def gates(self) -> tuple[Gate, ...]:
        """Every condition of the verdict."""
        names = ("name", "model", "op", "target", "value", "passed")
        return tuple(Gate(**{name: gate.get(name) for name in names}) for gate in self.document["gates"])

    @cached_property
    def models(self) -> tuple[ModelFindings, ...]:
        """Every model and file that was measured."""
        return tuple(map(_model, self.document["models"]))

    def model(self, name: str) -> ModelFindings:
        """The model of an id.

        Raises:
            UserError: there is none.
        """
        names = [model.id for model in self.models]
        if name not in names:
            fix = f"{meant(name, names)}there are: {', '.join(names)}"
            raise UserError(f"no model {name} in this report", where=str(self.document.get("name")), fix=fix)
        return self.models[names.index(name)]

    @property
    def rows(self) -> list[dict[str, float]]:
        """Every held-out row: its score by each model, and `tokens`. `pandas.DataFrame(report.rows)` is a table."""
        scored = self.document["row_scores"]
        columns = {"tokens": scored["units"], **scored["scores"]}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from distill2edge.report.markdown import render_markdown

        return render_markdown(self.document)


def _model(entry: Document) -> ModelFindings:
    figures = ("score", "retained", "kl_student", "kl_teacher", "top1_student")
    return ModelFindings(
        id=str(entry["id"]),
        role=str(entry.get("role")),
        size_bytes=entry.get("size_bytes"),
        parameters=entry.get("parameters"),
        **{name: _figure(entry.get(name)) for name in figures},
        passed=entry.get("passed"),
        error=entry.get("error"),
        document=entry,
    )


def _figure(figure: Document | None) -> Figure | None:
    if figure is None or figure.get("value") is None:
        return None
    return Figure(figure["value"], figure.get("low"), figure.get("high"))
