"""The ledger: one row per synthetic example, kept or dropped, with its teacher, terms, verdicts, overlap and cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.util.files import replacing

FILE = "ledger.parquet"
_SHARD = "ledger-{:05d}.parquet"
_SHARDS = "ledger-[0-9]*.parquet"


@dataclass(frozen=True)
class Verdict:
    """What one verifier or filter said of a row."""

    verifier: str
    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class Origin:
    """The teacher of a row, and the terms under which its outputs may train a model.

    Attributes:
        teacher: its source as the recipe names it.
        revision: commit or content hash of the weights; empty where nobody says it (an endpoint).
        licence, licence_verdict: the licence gate's entry and decision.
    """

    teacher: str
    revision: str = ""
    licence: str = ""
    licence_verdict: str = ""

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Origin:
        """From `teacher.json`."""
        licence = facts.get("licence") or {}
        return cls(
            str(facts["source"]),
            str(facts.get("revision") or facts.get("sha256") or ""),
            str(licence.get("licence") or ""),
            str(licence.get("verdict") or ""),
        )


@dataclass(frozen=True)
class LedgerRow:
    """One synthetic example.

    Attributes:
        id: content hash of prompt and response, as a data row's (`data.encode.row_id`).
        prompt_hash: content hash of the prompt.
        method: `text` (answers to the data's prompts), `self-instruct`, `evolve`, `reverse`, `self-improve`, ...
        distillation: whether the teacher wrote the response; False for human texts with instructions written for them.
        settings: how it was generated (temperature, top_p, seed, ...).
        kept, dropped_because: whether it trains a student; the first reason against it, else empty.
        overlap: highest similarity in [0, 1] with a row of the test split (`data.leakage.overlaps`); None: not checked.
        prompt_tokens, response_tokens: in the teacher's tokens.
        cost_usd: what an endpoint charged; 0 for a model that runs here.
        parent: id of the row it was made from, where there is one.
        created: UTC time, ISO 8601.
        thinking: what a reasoning teacher thought aloud before the response; it trains nothing.
    """

    id: str
    prompt: str
    prompt_hash: str
    response: str
    teacher: str
    teacher_revision: str
    licence: str
    licence_verdict: str
    method: str
    distillation: bool
    settings: Mapping[str, Any]
    verdicts: tuple[Verdict, ...]
    kept: bool
    dropped_because: str
    overlap: float | None
    prompt_tokens: int
    response_tokens: int
    cost_usd: float
    parent: str
    created: str
    thinking: str = ""

    @classmethod
    def make(
        cls,
        prompt: str,
        response: str,
        origin: Origin,
        *,
        id: str,
        method: str,
        settings: Mapping[str, Any],
        verdicts: Sequence[Verdict] = (),
        dropped_because: str = "",
        distillation: bool = True,
        overlap: float | None = None,
        prompt_tokens: int = 0,
        response_tokens: int = 0,
        cost_usd: float = 0.0,
        parent: str = "",
        created: str | None = None,
        thinking: str = "",
    ) -> LedgerRow:
        """A row; it is kept unless it was refused: no `dropped_because`, and no verdict that refuses."""
        refused = next((verdict for verdict in verdicts if not verdict.accepted), None)
        reason = dropped_because or (f"{refused.verifier}: {refused.reason}".rstrip(": ") if refused else "")
        return cls(
            id=id,
            prompt=prompt,
            prompt_hash=text_hash(prompt),
            response=response,
            teacher=origin.teacher,
            teacher_revision=origin.revision,
            licence=origin.licence,
            licence_verdict=origin.licence_verdict,
            method=method,
            distillation=distillation,
            settings=dict(settings),
            verdicts=tuple(verdicts),
            kept=not reason,
            dropped_because=reason,
            overlap=overlap,
            prompt_tokens=prompt_tokens,
            response_tokens=response_tokens,
            cost_usd=cost_usd,
            parent=parent,
            created=created or now(),
            thinking=thinking,
        )

    def to_json(self) -> dict[str, Any]:
        """For scripts."""
        return {**asdict(self), "verdicts": [asdict(verdict) for verdict in self.verdicts]}


COLUMNS = tuple(field.name for field in fields(LedgerRow))
_LATER = {"thinking"}  # columns that a ledger of an earlier version lacks


def now() -> str:
    """UTC, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def text_hash(text: str) -> str:
    """32 hexadecimal digits of SHA-256."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


# --- files --------------------------------------------------------------------


def append(directory: Path, rows: Sequence[LedgerRow]) -> Path | None:
    """Add rows as the next shard, `ledger-00000.parquet`, ...; whole or not at all. No rows, no shard."""
    if not rows:
        return None
    path = directory / _SHARD.format(len(list(directory.glob(_SHARDS))))
    _write(path, rows)
    return path


def write(directory: Path, rows: Sequence[LedgerRow]) -> Path:
    """Write the finished ledger, `ledger.parquet`, in place of the shards."""
    _write(directory / FILE, rows)
    for shard in directory.glob(_SHARDS):
        shard.unlink()
    return directory / FILE


def has_ledger(directory: Path) -> bool:
    """Whether a directory holds a ledger or shards of one."""
    return (directory / FILE).is_file() or any(directory.glob(_SHARDS))


def read(path: Path) -> list[LedgerRow]:
    """The rows of a ledger file, or of a directory with `ledger.parquet` or its shards, in the order written.

    Raises:
        UserError: there is none, or it is not a ledger.
    """
    whole = path / FILE
    found = [path] if path.is_file() else [whole] if whole.is_file() else sorted(path.glob(_SHARDS))
    if not found:
        raise UserError(
            "no ledger here",
            where=str(path),
            fix="only runs whose teacher writes text have one (signal: {kind: text}, or synthesis)",
        )
    return [row for file in found for row in _read(file)]


def _write(path: Path, rows: Sequence[LedgerRow]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"kept": pa.bool_(), "distillation": pa.bool_(), "overlap": pa.float64(), "cost_usd": pa.float64()}
    kinds |= {"prompt_tokens": pa.int64(), "response_tokens": pa.int64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in COLUMNS])
    values = {name: [_plain(name, getattr(row, name)) for row in rows] for name in COLUMNS}
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pydict(values, schema=schema), temporary, compression="zstd")


def _plain(name: str, value: Any) -> Any:
    if name == "settings":
        return json.dumps(value, sort_keys=True)
    if name == "verdicts":
        return json.dumps([asdict(verdict) for verdict in value], ensure_ascii=True)
    if isinstance(value, str):  # a lone surrogate has no UTF-8 form
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _read(path: Path) -> list[LedgerRow]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise UserError("not a ledger: not a regular file", where=str(path), fix="run the recipe again")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"not a ledger: {error}", where=str(path), fix="run the recipe again") from error
    if missing := sorted(set(COLUMNS) - _LATER - set(table.column_names)):
        raise UserError(f"not a ledger: no column {', '.join(missing)}", where=str(path), fix="give ledger.parquet")
    rows = []
    try:
        for record in table.select([name for name in COLUMNS if name in table.column_names]).to_pylist():
            record["settings"] = json.loads(record["settings"])
            record["verdicts"] = tuple(Verdict(**item) for item in json.loads(record["verdicts"]))
            rows.append(LedgerRow(**record))
    except (ValueError, TypeError, pa.ArrowException) as error:
        raise UserError(
            f"not a ledger: {error}", where=f"{path}: row {len(rows) + 1}", fix="run the recipe again"
        ) from error
    return rows


# --- summary ------------------------------------------------------------------


def summary(rows: Iterable[LedgerRow]) -> dict[str, Any]:
    """Counts, reasons, teachers and cost: what report, model card and GGUF metadata carry.

    Returns:
        rows, kept, dropped {reason: count}, methods {name: rows}, not_distillation (kept rows), teachers [{teacher,
        revision, licence, licence_verdict, rows}], verifiers {name: {accepted, refused}}, overlap {checked, highest},
        prompt_tokens, response_tokens, cost_usd, cost_per_kept_usd.
    """
    rows = list(rows)
    kept = [row for row in rows if row.kept]
    dropped = Counter(reason_kind(row.dropped_because) for row in rows if not row.kept)
    teachers = Counter((row.teacher, row.teacher_revision, row.licence, row.licence_verdict) for row in rows)
    verifiers: dict[str, dict[str, int]] = {}
    for row in rows:
        for verdict in row.verdicts:
            counts = verifiers.setdefault(verdict.verifier, {"accepted": 0, "refused": 0})
            counts["accepted" if verdict.accepted else "refused"] += 1
    checked = [row.overlap for row in kept if row.overlap is not None]
    cost = sum(row.cost_usd for row in rows)
    names = ("teacher", "revision", "licence", "licence_verdict")
    return {
        "rows": len(rows),
        "kept": len(kept),
        "dropped": dict(dropped.most_common()),
        "methods": dict(Counter(row.method for row in rows).most_common()),
        "not_distillation": sum(not row.distillation for row in kept),
        "teachers": [
            {**dict(zip(names, key, strict=True)), "rows": count} for key, count in teachers.most_common()
        ],
        "verifiers": verifiers,
        "overlap": {"checked": len(checked), "highest": max(checked, default=None)},
        "prompt_tokens": sum(row.prompt_tokens for row in rows),
        "response_tokens": sum(row.response_tokens for row in rows),
        "cost_usd": round(cost, 6),
        "cost_per_kept_usd": round(cost / len(kept), 8) if kept else None,
    }  # fmt: skip


def reason_kind(reason: str) -> str:
    """`near-duplicate of 1f3a...` -> `near-duplicate`: what is counted."""
    return reason.split(":", 1)[0].split(" of ", 1)[0].strip()
