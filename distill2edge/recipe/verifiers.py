"""The verifiers of a text signal: frozen sections, told apart by `kind`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import Problem, Section

_EXTRACT = (
    "final: \\boxed{...}, else after ####, else after 'answer is', else the last line; last-number; last-line; whole"
)
Extract = Literal["final", "last-number", "last-line", "whole"]


class Limited(Section):
    """What a check may use. It runs in processes of its own, cut off from files, network, environment and others."""

    seconds: float = Field(5.0, ge=0.1, le=600, description="wall time of one check; past it the row is dropped")
    memory_mb: int = Field(512, ge=64, le=2**20, description="address space of each of its processes")
    file_mb: int = Field(16, ge=1, le=2**20, description="what one check may write")


class ExactVerifier(Section):
    """The final answer equals that of the data's own response."""

    kind: Literal["exact"] = "exact"
    extract: Extract = Field("final", description=_EXTRACT)
    ignore_case: bool = True


class NumericVerifier(Section):
    """The final number equals that of the data's own response."""

    kind: Literal["numeric"] = "numeric"
    extract: Extract = Field("final", description=_EXTRACT)
    absolute: float = Field(0.0, ge=0, description="difference that is allowed")
    relative: float = Field(0.0, ge=0, le=1, description="difference that is allowed, as a share of the reference")


_CODE = (
    "the code itself. It has the standard library, no files, no network. What it gives to `exec` or `eval` runs in "
    "another process and comes back as plain data, or as functions that are called over there; tests behind a "
    "response, and text of the reference, run beside the check. Needs Linux with namespaces, or `--accept-weak-sandbox`"
)


class PythonVerifier(Limited):
    """Python code that defines `check(prompt, response, reference)`; it returns a bool, or a bool and a reason.

    What it passes to `exec` or `eval` runs in another process, and comes back as plain data or as functions that are
    called over there, so that a response can't decide its verdict. Text that stands in the reference, the check's own,
    and what it puts behind a response run beside the check.
    """

    kind: Literal["python"] = "python"
    code: str | None = Field(None, description=_CODE)
    file: PathText | None = Field(None, description="path of a file with the code, in place of `code`")
    share: int = Field(
        1,
        ge=1,
        le=1024,
        description="checks that one process may do, one after the other: faster, but where the check runs the "
        "response's own code, keep 1: the process that executes it is shared too",
    )

    def problems(self) -> Iterator[Problem]:
        """One source."""
        if (self.code is None) == (self.file is None):
            yield Problem((), "its code has one source", "give exactly one of code and file")


class JsonSchemaVerifier(Limited):
    """The response is JSON (or holds one fenced block of it) and fits a JSON Schema (draft 2020-12 unless it says)."""

    kind: Literal["json-schema"] = "json-schema"
    document: dict[str, Any] | None = Field(None, alias="schema", description="the schema itself")
    file: PathText | None = Field(None, description="path of a file with the schema, in place of `schema`")
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    def problems(self) -> Iterator[Problem]:
        """One source."""
        if (self.document is None) == (self.file is None):
            yield Problem((), "its schema has one source", "give exactly one of schema and file")


class RegexVerifier(Limited):
    """A regular expression (Python's `re`) over the response."""

    kind: Literal["regex"] = "regex"
    pattern: str
    match: Literal["full", "search"] = Field("full", description="the whole response, or some part of it")
    refuse: bool = Field(False, description="drop the responses that match, in place of those that don't")

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return pattern


class MajorityVerifier(Section):
    """Self-consistency (Wang 2022): of n samples of a prompt, those with the most frequent final answer."""

    kind: Literal["majority"] = "majority"
    extract: Extract = Field("final", description=_EXTRACT)
    min_share: float = Field(0.5, gt=0, le=1, description="of the samples, that must agree")


class LikelihoodVerifier(Section):
    """The teacher itself finds the response likely enough."""

    kind: Literal["likelihood"] = "likelihood"
    min_mean_logprob: float = Field(ge=-100, le=0, description="mean log-probability of a response token, in nats")


class JudgeVerifier(Section):
    """A model reads prompt and response, and says whether it is right."""

    kind: Literal["judge"] = "judge"
    model: PathText | None = Field(None, description="as teacher.model; null: the teacher itself")
    revision: str | None = Field(None, description="commit of a hub model")
    prompt: str = Field(
        "Question:\n{{ prompt }}\n\nAnswer:\n{{ response }}\n\nIs the answer correct? Reply with yes or no.",
        description="Jinja template over prompt, response and reference",
    )
    template: Literal["chat", "plain"] = Field("chat", description="as data.template")
    accept: str = Field(r"(?i)\W*(yes|correct|true)\b", description="regular expression that its reply begins with")
    max_new_tokens: int = Field(8, ge=1, le=2**20)

    @field_validator("accept")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        return RegexVerifier._compiles(pattern)


VerifierSpec = Annotated[
    ExactVerifier
    | NumericVerifier
    | PythonVerifier
    | JsonSchemaVerifier
    | RegexVerifier
    | MajorityVerifier
    | LikelihoodVerifier
    | JudgeVerifier,
    Field(discriminator="kind"),
]
