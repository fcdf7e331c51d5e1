"""The checks that need no code of a user: a regular expression, a JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Check = Callable[[str, str, str], Any]
"""prompt, response, reference -> bool | (bool, reason) | {outcome, reason, answer}."""


def checker(settings: dict[str, Any]) -> Check | None:
    """The check of one verifier; None for kind `python`, whose code no process reads that is not held.

    Args:
        settings: `kind`, and what that kind needs: `pattern`, `match` and `refuse`; `schema`.

    Raises:
        re.error, ImportError: it can't be made.
    """
    if settings["kind"] == "regex":
        return _regex(settings)
    if settings["kind"] == "json-schema":
        return _json_schema(settings["schema"])
    return None


def _regex(settings: dict[str, Any]) -> Check:
    import re

    pattern = re.compile(settings["pattern"])
    find = pattern.fullmatch if settings["match"] == "full" else pattern.search

    def check(prompt: str, response: str, reference: str) -> Any:
        found = find(response)
        if bool(found) == settings["refuse"]:
            return False, "matches" if found else "does not match"
        return {"outcome": "accepted", "reason": "", "answer": found[0][:1000] if found else None}

    return check


def schema_validator(schema: Any) -> Any:
    """A validator that looks no reference up outside the schema and the drafts of JSON Schema, and has loaded all.

    Raises:
        jsonschema.exceptions.SchemaError: it is not one.
        referencing.exceptions.Unresolvable: a reference leads outside, or nowhere.
        RecursionError: it refers to itself without end. TypeError, ValueError: it is nothing like a schema.
    """
    from jsonschema.validators import validator_for
    from jsonschema_specifications import REGISTRY

    kind = validator_for(schema)
    kind.check_schema(schema)
    validator = kind(schema, registry=REGISTRY)  # without a registry the library asks the network
    next(validator.iter_errors(None), None)
    return validator


def _json_schema(schema: Any) -> Check:
    import re

    validator = schema_validator(schema)
    fence = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n[ \t]*```", re.DOTALL)

    def check(prompt: str, response: str, reference: str) -> Any:
        blocks = fence.findall(response)
        if len(blocks) > 1:
            return False, f"{len(blocks)} fenced blocks: which one is the answer is not clear"
        try:
            value = json.loads(blocks[0] if blocks else response)
        except ValueError as error:
            return False, f"not JSON: {error}"
        fault = next(iter(sorted(validator.iter_errors(value), key=lambda fault: list(map(str, fault.path)))), None)
        if fault is not None:
            return False, f"{fault.json_path}: {fault.message}"
        return True

    return check
