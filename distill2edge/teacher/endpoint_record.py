"""The `teacher` stage of an endpoint: the licence gate, and what is known of a model that is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from distill2edge.generation.endpoint.client import address
from distill2edge.generation.endpoint.spending_limit import Prices
from distill2edge.intake import licence as gate
from distill2edge.util.files import write_json
from distill2edge.util.progress import Progress

if TYPE_CHECKING:
    from distill2edge.recipe.endpoint import Endpoint
    from distill2edge.recipe.schema import Teacher

# Services whose own terms hold whatever model they run. Others serve open models: there the model's licence counts.
HOSTS = {
    "api.openai.com": "openai-api",
    "api.anthropic.com": "anthropic-api",
    "generativelanguage.googleapis.com": "google-gemini-api",
}


def record_teacher(teacher: Teacher, work: Path, progress: Progress) -> dict[str, Any]:
    """Write `teacher.json` after the licence gate; nothing is asked and nothing is paid.

    Returns:
        its content; `parameters` is null.

    Raises:
        UserError: an address that is not one, terms that deny or that nobody states.
    """
    assert teacher.endpoint is not None
    url = address(teacher.url or "")
    host = urlsplit(url).hostname or ""
    known = HOSTS.get(host)
    declared = [gate.Declared(known, f"the service at {host}")] if known else []
    name = f"{teacher.endpoint.model} at {host}"
    record = gate.check(name, declared, recipe=teacher.licence, accept=teacher.accept_licence)
    gate.announce(record, progress)
    facts = {
        "schema_version": 1,
        "name": teacher.endpoint.model,
        "source": str(teacher.model),
        "kind": "endpoint",
        "revision": None,
        "sha256": None,
        "home": None,
        "licence": record.to_json(),
        "gguf": None,
        "parameters": None,
    }
    write_json(work / "teacher.json", facts)
    return facts


def prices_of(endpoint: Endpoint) -> Prices | None:
    """What the endpoint charges: as the recipe says, or by the price catalogue; None where it says neither.

    Raises:
        UserError: the catalogue has no such entry.
    """
    if endpoint.input_usd is not None and endpoint.output_usd is not None:
        return Prices(endpoint.input_usd, endpoint.output_usd)
    if endpoint.price is None:
        return None
    from distill2edge.cost.catalogue import load_catalogue

    entry = load_catalogue().api_model(endpoint.price, "teacher.endpoint.price")
    # The upper bounds: a budget must not be overspent by a batch discount that does not apply.
    return Prices(entry.input.high, entry.output.high)
