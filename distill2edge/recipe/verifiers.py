"""The verifiers of a text signal: frozen sections, told apart by `kind`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, Tag, field_validator
from pydantic.json_schema import SkipJsonSchema

from distill2edge.errors import Problem, UserError
from distill2edge.recipe.paths import PathText
from distill2edge.recipe.section import Section
from distill2edge.util.plugins import Source, check_new, source_of

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


@dataclass(frozen=True)
class OwnCheck:
    """A check of the user's own.

    Attributes:
        function: prompt, response, reference -> bool, or bool and reason.
        source: the file that registered it.
    """

    function: Callable[[str, str, str], bool | tuple[bool, str]]
    help: str
    source: Source


_registered: dict[str, OwnCheck] = {}


def register_verifier(name: str, *, check: Callable[[str, str, str], bool | tuple[bool, str]], help: str = "") -> None:
    """Let recipes name a check of one's own: `signal: {kind: text, verify: [{kind: NAME}]}`.

    Call it in a file that is named by `--plugin`. The check runs in this process, with the user's rights and without
    limits of time and memory: code that a recipe brings runs in the sandbox of `kind: python` instead. The SHA-256 of
    the file is part of the key of the signal. The same file may register a name again.

    Args:
        name: of its kind.
        check: prompt, response, reference (empty where there is none) -> bool, or bool and a reason.
        help: one line.

    Raises:
        UserError: a name that is taken or is no word, or a function that cannot be called so or has no file.
    """
    where = f"register_verifier({name!r})"
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,63}", name):
        raise UserError("a verifier is named by letters, digits, - and _", where=where, fix="choose such a name")
    if name in KINDS:
        raise UserError(f"{name!r} is a kind of verifier already", where=where, fix="choose another name")
    try:
        inspect.signature(check).bind("prompt", "response", "reference")
    except (TypeError, ValueError) as error:
        fix = "give check=a function of prompt, response and reference"
        raise UserError(f"it cannot be called: {error}", where=where, fix=fix) from None
    source, known = source_of(check, name), _registered.get(name)
    check_new(name, None if known is None else known.source, source)
    _registered[name] = OwnCheck(check, help, source)


def _registered_name(name: str) -> str:
    if name not in _registered:
        raise ValueError(f"no file has registered a verifier called {name!r}")
    return name


class OwnVerifier(Section):
    """A check of the user's own, from a file that the user names (`--plugin`), never from a recipe."""

    kind: Annotated[str, AfterValidator(_registered_name)] = Field(description="the name that it is registered by")
    hint: ClassVar[str] = "a verifier of your own comes from a file: --plugin FILE"

    def own_files(self) -> tuple[Path, ...]:
        """As `Section.own_files`."""
        return (self.own.source.path,)

    @property
    def own(self) -> OwnCheck:
        """What is registered by its name."""
        return _registered[self.kind]


_BuiltIn = Annotated[
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
KINDS = tuple(each.model_fields["kind"].default for each in get_args(get_args(_BuiltIn)[0]))
"""Of the verifiers that are built in."""


def _branch(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return OWN if kind in _registered else BUILT_IN


BUILT_IN, OWN = "built-in verifier", "registered verifier"
VerifierSpec = Annotated[
    Annotated[_BuiltIn, Tag(BUILT_IN)] | Annotated[SkipJsonSchema[OwnVerifier], Tag(OWN)], Discriminator(_branch)
]
