"""Is a file that says it is a report.json one? Its skeleton, before anything reads it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from distill2edge.errors import UserError
from distill2edge.report.schema_version import check_version

Document = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=True)


class _Metric(_Part):
    name: str


class _Warning(_Part):
    text: str
    headline: bool


class _Verdict(_Part):
    result: str
    warnings: list[_Warning] | None = None


class _Figure(_Part):
    value: float | None = None


class _Timed(_Part):
    id: str
    latency_ms: Document | None = None


class _Model(_Part):
    id: str
    role: str | None = None
    retained: _Figure | None = None
    cells: list[_Timed] | None = None


class _Gate(_Part):
    name: str
    model: str
    passed: bool
    op: str
    target: float


class _Headline(_Part):
    model: str | None = None
    speedup: Document | None = None


class _Machine(_Part):
    memory_bytes: int | float | None = None
    gpu: list[Any] | str | None = None


class _Workload(_Part):
    name: str


class _Bench(_Part):
    machine: _Machine | None = None
    workloads: list[_Workload] = []
    cells: list[Document] = []
    speedups: list[Document] = []


class _Splits(_Part):
    test: Document | None = None


class _Data(_Part):
    splits: _Splits | None = None


class _Brief(_Part):
    place: str | None = None


class _Cost(_Part):
    prices: Document | None = None
    cells: list[Document] | None = None
    four_cells: dict[str, _Brief | None] | None = None


class _Pareto(_Part):
    workload: str | None = None


class _Reproduce(_Part):
    recipe: Document | None = None


class _Seeds(_Part):
    seeds: list[int] | None = None


class _Report(_Part):
    name: str
    metric: _Metric
    verdict: _Verdict
    headline: _Headline | None
    gates: list[_Gate]
    models: list[_Model]
    bench: _Bench
    data: _Data
    cost: _Cost | None
    pareto: _Pareto
    reproduce: _Reproduce
    seeds: _Seeds | None = None


def check_report(report: Document, where: str) -> Document:
    """The report, with the parts that every one has.

    Raises:
        UserError: of another schema version, or not a report of this program.
    """
    try:
        check_version(report)
    except UserError as error:
        raise UserError(error.what, where=where, fix=error.fix) from error
    try:
        _Report.model_validate(report)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise UserError(
            f"not a report of this program, or a damaged one: {place}: {first['msg']}{more}",
            where=where,
            fix="write it again with this version: distill2edge run RECIPE",
        ) from error
    return report
