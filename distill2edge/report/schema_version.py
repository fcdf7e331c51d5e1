"""The schema of report.json that this program writes and reads."""

from __future__ import annotations

from typing import Any

from distill2edge.errors import UserError

SCHEMA_VERSION = 1


def check_version(report: dict[str, Any]) -> None:
    """Refuse a report of another schema.

    Raises:
        UserError: the schema version is not ours.
    """
    version = report.get("schema_version")
    if version != SCHEMA_VERSION:
        raise UserError(
            f"the report has schema version {str(version)[:40]!r}, this program reads {SCHEMA_VERSION}",
            fix="write it again with this version: distill2edge run RECIPE",
        )
