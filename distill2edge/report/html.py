"""Pages: no script, no network, every string of a model or a data set escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from distill2edge.report import claims
from distill2edge.report.blocks import Block, Section
from distill2edge.report.schema_version import check_version
from distill2edge.report.section_list import SECTIONS, shown

Document = dict[str, Any]
_LONGEST = 24
"""Characters that a column is always wide enough for, on a phone too, or may scroll."""


def render_html(report: Document, sections: Sequence[Section] = SECTIONS) -> str:
    """report.json as a self-contained page.

    Raises:
        UserError: the schema version is not ours.
    """
    return render_page("report.html.j2", **report_parts(report, sections))


def report_parts(report: Document, sections: Sequence[Section] = SECTIONS) -> dict[str, Any]:
    """What the template `report_body.html.j2` shows of a report.json.

    Raises:
        UserError: the schema version is not ours.
    """
    check_version(report)
    return {
        "report": report,
        "failed": report["verdict"]["result"] != "pass",
        "lead": claims.lead(report),
        "warnings": claims.warnings(report),
        "tiles": claims.tiles(report),
        "sections": shown(report, sections),
    }


def render_page(template: str, **parts: Any) -> str:
    """A template of this package, filled; it escapes always."""
    return environment().get_template(template).render(parts)


def environment(*packages: str) -> Environment:
    """Templates of this package, after those of others; they escape always.

    Args:
        packages: whose own templates come first.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name, ".") for name in (*packages, "distill2edge.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def html(block: Block) -> Markup:
        """By the macro of the block's kind."""
        return Markup(getattr(made.get_template("blocks.html.j2").module, type(block).__name__.lower())(block))

    made.filters |= {"breakable": breakable, "html": html}
    return made


def breakable(name: str) -> Markup:
    """An id that a column may break between its parts (`student/`, `onnx:int8`, `@cpu`, `model.`), not within one."""
    parts = re.split(r"(?<=[/.])(?!$)|(?=@)(?<!^)", name)
    pieces = (part[n : n + _LONGEST] for part in parts for n in range(0, len(part), _LONGEST))
    return Markup("<wbr>").join(pieces)
