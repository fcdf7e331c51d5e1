"""Specs of a recipe -> verifiers that can be asked. The one place that knows every kind."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import singledispatch
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.models.placement import WHOLE, Placement
from distill2edge.recipe import verifiers as specs
from distill2edge.recipe.paths import locate, tried
from distill2edge.recipe.schema import Recipe
from distill2edge.util.files import check_path
from distill2edge.util.progress import Progress
from distill2edge.verifiers import sandbox
from distill2edge.verifiers.verifier import Each, Verdict, Verifier, accepted, rejected

WHERE = "signal.verify"
_SANDBOX = 2  # raised when the same code may give another verdict


@dataclass(frozen=True)
class Tools:
    """What verifiers that ask a model need.

    Attributes:
        teacher: its Hugging Face directory.
        template, system: as the recipe's data has them.
        work: where a judge's model may be put.
        placement: of the teacher's weights.
    """

    teacher: Path
    template: str
    system: str | None
    work: Path
    progress: Progress
    placement: Placement = WHOLE


@contextmanager
def opened(chosen: Sequence[specs.VerifierSpec], tools: Tools) -> Iterator[list[Verifier]]:
    """The verifiers of a recipe, in its order; two of one kind are called `regex` and `regex-2`. Closed at the end.

    Raises:
        UserError: code that does not compile, a file that does not exist, a schema that is not one.
        EnvironmentFault: a process for checks can't be started.
    """
    with ExitStack() as stack:
        found: list[Verifier] = []
        kinds: Counter[str] = Counter()
        for spec in chosen:
            verifier = _open(spec, tools)
            stack.callback(verifier.close)
            kinds[spec.kind] += 1
            if kinds[spec.kind] > 1:
                verifier.name = f"{spec.kind}-{kinds[spec.kind]}"
            found.append(verifier)
        yield found


def require_walls(recipe: Recipe) -> None:
    """For before hours and money: the `python` checks of a recipe, if it has any, can be held on this machine.

    Raises:
        EnvironmentFault: they can't, and the user's command line does not accept that.
    """
    if any(isinstance(spec, specs.PythonVerifier) for spec in getattr(recipe.signal, "verify", ())):
        sandbox.require_walls()


def contents(chosen: Sequence[specs.VerifierSpec], progress: Progress) -> list[Any]:
    """What verdicts depend on beside the recipe, for stage keys: files, the user's own code, a judge's weights, the
    sandbox.

    Raises:
        UserError: a file or model that does not exist.
        EnvironmentFault: a model that can't be looked up.
    """
    from distill2edge.intake.obtain import fingerprint

    found: list[Any] = []
    for spec in chosen:
        text = content_of(spec)
        if isinstance(spec, specs.PythonVerifier):
            found.append({"sandbox": _SANDBOX})
        if isinstance(spec, specs.OwnVerifier):
            found.append({"verifier": spec.kind, "sha256": spec.own.source.sha256})
        elif text is not None:
            found.append(hashlib.sha256(text.encode()).hexdigest())
        elif isinstance(spec, specs.JudgeVerifier) and spec.model is not None:
            found.append(fingerprint(spec.model, spec.revision, progress, f"{WHERE}.model"))
    return found


def content_of(spec: specs.VerifierSpec) -> str | None:
    """The text of a file that a spec names, for keys and for the process that reads it; None where it names none.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    name = getattr(spec, "file", None)
    if name is None:
        return None
    path = locate(name)
    check_path(str(path), f"{WHERE} ({spec.kind})")
    if not path.is_file():
        raise UserError(f"no file {name}", where=f"{WHERE} ({spec.kind})", fix=tried(name))
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise UserError(
            f"{name} cannot be read: {reason}", where=f"{WHERE} ({spec.kind})", fix="make it a readable UTF-8 text"
        ) from None


def check_spec(spec: specs.VerifierSpec) -> None:
    """Refuse what `opened` would, without a process or a model.

    Raises:
        UserError: as `opened`.
    """
    text = content_of(spec)
    if isinstance(spec, specs.PythonVerifier):
        sandbox.check_code(text if text is not None else str(spec.code), spec.file or "check.py", f"{WHERE} (python)")
    elif isinstance(spec, specs.JsonSchemaVerifier):
        _schema(spec)
    elif isinstance(spec, specs.JudgeVerifier):
        from distill2edge.data.templates import Template

        Template(spec.prompt, f"{WHERE}.prompt")


@singledispatch
def _open(spec: Any, tools: Tools) -> Verifier:
    raise TypeError(f"no verifier is made of {type(spec).__name__}")


@_open.register
def _(spec: specs.ExactVerifier, tools: Tools) -> Verifier:
    from distill2edge.verifiers.final_answer import exact

    return exact(spec)


@_open.register
def _(spec: specs.NumericVerifier, tools: Tools) -> Verifier:
    from distill2edge.verifiers.final_answer import numeric

    return numeric(spec)


@_open.register
def _(spec: specs.MajorityVerifier, tools: Tools) -> Verifier:
    from distill2edge.verifiers.majority import Majority

    return Majority(spec)


@_open.register
def _(spec: specs.LikelihoodVerifier, tools: Tools) -> Verifier:
    from distill2edge.verifiers.likelihood import Likelihood

    return Likelihood(spec, tools.teacher, tools.template, tools.system, tools.placement)


@_open.register
def _(spec: specs.JudgeVerifier, tools: Tools) -> Verifier:
    from distill2edge.verifiers.by_judge import Judge, judge_from

    return Judge(spec, judge_from(spec, tools.teacher, tools.work, tools.progress, tools.placement))


@_open.register
def _(spec: specs.OwnVerifier, tools: Tools) -> Verifier:
    def check(prompt: str, response: str, reference: str) -> Verdict:
        said: Any = spec.own.function(prompt, response, reference)
        passes, reason = said if isinstance(said, tuple) and len(said) == 2 else (said, "")
        if not isinstance(passes, bool):
            raise TypeError(f"{spec.kind} returns {type(said).__name__}, and a bool, or a bool and a reason, is wanted")
        return accepted(str(reason)) if passes else rejected(str(reason))

    return Each(spec.kind, check)


@_open.register
def _(spec: specs.PythonVerifier, tools: Tools) -> Verifier:
    code = spec.code if spec.code is not None else content_of(spec)
    assert code is not None
    limits = {**_limits(spec), "share": spec.share}
    return sandbox.python_check(spec.kind, code, spec.file or "check.py", limits, f"{WHERE} (python)")


@_open.register
def _(spec: specs.RegexVerifier, tools: Tools) -> Verifier:
    own = {"pattern": spec.pattern, "match": spec.match, "refuse": spec.refuse}
    return sandbox.Sandboxed(spec.kind, {"kind": spec.kind, **own, **_limits(spec)})


@_open.register
def _(spec: specs.JsonSchemaVerifier, tools: Tools) -> Verifier:
    return sandbox.Sandboxed(spec.kind, {"kind": spec.kind, "schema": _schema(spec), **_limits(spec)})


def _limits(spec: specs.Limited) -> dict[str, Any]:
    # Where nothing that a response says is run, one process may do many checks.
    return {"seconds": spec.seconds, "memory_mb": spec.memory_mb, "file_mb": spec.file_mb, "share": 64}


def _schema(spec: specs.JsonSchemaVerifier) -> Any:
    from jsonschema.exceptions import SchemaError
    from referencing.exceptions import Unresolvable

    from distill2edge.verifiers.jail.kinds import schema_validator

    text = content_of(spec)
    try:
        schema = spec.document if text is None else json.loads(text)
        schema_validator(schema)
    except Unresolvable as error:
        what = f"its $ref leads nowhere within it: {error.ref!r}"
        raise UserError(what, where=f"{WHERE} (json-schema)", fix="put what it refers to into $defs") from error
    except (SchemaError, ValueError, TypeError, RecursionError) as error:
        said = error.message if isinstance(error, SchemaError) else str(error)
        raise UserError(
            f"not a JSON Schema: {said}", where=f"{WHERE} (json-schema)", fix="correct the schema"
        ) from error
    return schema
