"""`data show`, `data stats` and `data why`: looking into the ledgers of a run, an artifact or the store."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill2edge.data import ledger
from distill2edge.data.conversation import plain_answer, plain_prompt
from distill2edge.data.ledger import LedgerRow
from distill2edge.errors import UserError
from distill2edge.pipeline.store_at import store_at
from distill2edge.util.quantities import readable_usd
from distill2edge.util.terminal import coloured, one_line, printable

if TYPE_CHECKING:
    from rich.console import RenderableType

_ID = 12  # digits of an id that tables show


def ledgers(target: Path) -> list[Path]:
    """The ledger files that a run directory, an artifact's directory, a recipe or a file stands for.

    Raises:
        UserError: there is none.
    """
    if target.suffix == ".parquet" and target.is_file():
        return [target]
    directory = target
    if target.is_file() and target.suffix in (".yaml", ".yml"):
        from distill2edge.recipe.load import load_recipe

        directory = Path("runs") / load_recipe(target).name
    if ledger.has_ledger(directory) and not (directory / "run.json").is_file():
        return [directory]
    found = sorted(directory.glob("ledger-*.parquet"))
    if not found:
        ledger.read(directory)  # says what is missing
    return found


def select(target: Path, *, dropped: bool | None, reason: str | None, method: str | None) -> list[LedgerRow]:
    """Rows of a target's ledgers.

    Args:
        dropped: True for dropped rows alone, False for kept ones alone, None for both.
        reason: words that `dropped_because` begins with.
    """
    rows = [row for path in ledgers(target) for row in ledger.read(path)]
    return [
        row
        for row in rows
        if (dropped is None or row.kept != dropped)
        and (reason is None or (not row.kept and row.dropped_because.startswith(reason)))
        and (method is None or row.method == method)
    ]


def show(rows: Sequence[LedgerRow], limit: int, *, as_json: bool) -> str:
    """A line per row: id, method, kept or why not, prompt and response cut short; or JSON lines of the whole rows."""
    if as_json:
        return "".join(printable(json.dumps(row.to_json(), ensure_ascii=False)) + "\n" for row in rows[:limit])
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("row", no_wrap=True, min_width=_ID)
    for name in ("method", "kept"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, min_width=9, max_width=28)
    for name in ("prompt", "response"):
        table.add_column(name, overflow="ellipsis", no_wrap=True, ratio=1)
    for row in rows[:limit]:
        state = "[green]yes[/]" if row.kept else f"[yellow]{_safe(row.dropped_because)}[/]"
        said = _line(plain_prompt(row.prompt)), _line(plain_answer(row.response))
        table.add_row(row.id[:_ID], row.method, state, *said)
    left = len(rows) - min(limit, len(rows))
    tail = f"{left:,} more: --limit {len(rows)}, or --json\n" if left else ""
    return (
        _render(table) + tail + f"one row in full: distill2edge data why {rows[0].id[:_ID]} TARGET\n"
        if rows
        else ("no such row\n")
    )


def stats(target: Path, *, as_json: bool) -> str:
    """The summary of every ledger of a target."""
    found = {path.stem if path.is_file() else path.name: ledger.summary(ledger.read(path)) for path in ledgers(target)}
    if as_json:
        return printable(json.dumps(found, indent=2, ensure_ascii=False)) + "\n"
    return "\n".join(_stats(name, facts) for name, facts in found.items())


def why(row: str, target: Path | None, root: Path | str | None, *, as_json: bool) -> str:
    """Everything about the rows whose id begins so: the first ledger that has one.

    Args:
        row: an id, or its beginning.
        target: where to look; None looks through every ledger of the store.

    Raises:
        UserError: no such row, or a beginning that fits more than one id.
    """
    places = ledgers(target) if target else list(_store_ledgers(root))
    for place in places:
        found = [entry for entry in ledger.read(place) if entry.id.startswith(row)]
        if len({entry.id for entry in found}) > 1:
            raise UserError(
                f"{len({e.id for e in found})} ids begin with {row}", where="ROW", fix="give more of its digits"
            )
        if found:
            whole = json.dumps(found[0].to_json(), indent=2, ensure_ascii=False)
            return printable(whole) + "\n" if as_json else _why(found[0])
    looked = str(target) if target else f"the {len(places)} ledgers of the store"
    raise UserError(f"no row {row!r} in {looked}", where="ROW", fix="distill2edge data show RUN lists the ids")


def _store_ledgers(root: Path | str | None) -> Iterator[Path]:
    store = store_at(root)
    newest = sorted(store.artifacts(), key=lambda artifact: str(artifact.manifest["created"]), reverse=True)
    return (artifact.path for artifact in newest if (artifact.path / ledger.FILE).is_file())


# --- how it looks ---------------------------------------------------------------


def _why(row: LedgerRow) -> str:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    overlap = "not checked" if row.overlap is None else f"{row.overlap:.3f} with the nearest row of the test split"
    facts = [
        ("row", row.id),
        ("decision", "[green]kept[/]" if row.kept else f"[yellow]dropped: {_safe(row.dropped_because)}[/]"),
        *((f"  {v.verifier}", _safe(f"{'accepted' if v.accepted else 'refused'} {v.reason}")) for v in row.verdicts),
        ("method", row.method + ("" if row.distillation else "  (not distillation: a human wrote the response)")),
        ("teacher", _safe(" ".join(filter(None, (row.teacher, row.teacher_revision[:12]))))),
        ("licence", _safe(f"{row.licence or 'unknown'}: {row.licence_verdict or 'not checked'}")),
        ("settings", _safe(", ".join(f"{name} {value}" for name, value in row.settings.items()))),
        ("overlap", overlap),
        ("tokens", f"{row.prompt_tokens:,} in, {row.response_tokens:,} out"),
        ("cost", f"{readable_usd(row.cost_usd)}"),
        ("made from", row.parent or "no other row"),
        ("written", row.created),
        ("prompt", _safe(plain_prompt(row.prompt))),
        *((("thinking", _safe(row.thinking)),) if row.thinking else ()),
        ("response", _safe(plain_answer(row.response))),
    ]
    for name, value in facts:
        table.add_row(name, value)
    return _render(table)


def _stats(name: str, facts: dict[str, Any]) -> str:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    total = facts["rows"]

    def line(label: str, count: int, note: str = "") -> None:
        table.add_row(label, f"{count:,}", note or (f"{count / total:.1%}" if total else ""))

    line("rows", total, _safe(name))
    line("kept", facts["kept"])
    for reason, count in facts["dropped"].items():
        line(f"  dropped: {_safe(reason)}", count)
    for method, count in facts["methods"].items():
        line(f"method {_safe(method)}", count)
    if facts["not_distillation"]:
        line("not distillation", facts["not_distillation"], "kept rows whose response a human wrote")
    for verifier, counts in facts["verifiers"].items():
        line(f"verifier {_safe(verifier)}", counts["accepted"], f"accepted, {counts['refused']:,} refused")
    for teacher in facts["teachers"]:
        terms = f"{teacher['licence'] or 'unknown'}: {teacher['licence_verdict'] or 'not checked'}"
        line("teacher", teacher["rows"], _safe(f"{teacher['teacher']} ({terms})"))
    overlap = facts["overlap"]
    if overlap["checked"]:
        line("overlap checked", overlap["checked"], f"highest similarity with a test row {overlap['highest']:.3f}")
    line("prompt tokens", facts["prompt_tokens"], " ")
    line("response tokens", facts["response_tokens"], " ")
    each = facts["cost_per_kept_usd"]
    table.add_row("cost", readable_usd(facts["cost_usd"]), "" if each is None else f"{readable_usd(each)} per kept row")
    return _render(table)


def _line(text: str) -> str:
    """One line without control characters: a model may write anything."""
    return _safe(one_line(text))


def _safe(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def _render(table: RenderableType) -> str:
    from io import StringIO

    from rich.console import Console

    out = StringIO()
    width = shutil.get_terminal_size((110, 24)).columns
    Console(file=out, width=width, highlight=False, force_terminal=coloured(sys.stdout), soft_wrap=False).print(table)
    return "".join(line.rstrip() + "\n" for line in out.getvalue().splitlines())
