"""Data files, mutated: values, shapes, syntax, bytes, encodings, endings, links; with templates and filters as odd."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

COUNT = 500

_WORDS = "the a film was very slow good bad long story end music actor town river night cold warm old new".split()  # noqa: SIM905
_TEXTS = (
    "", " ", "\t", "nan", "NaN", "null", "None", "true", "0", "1e999", "-", "\x00", "a\x00b", "\ud800", "\udfff\ud800",
    "\u202e", "\u2028x\u2029", "\x85", "\x1b[2J", "\ufeff", "e\u0301", "\U0001f600" * 50, "\u4e2d\u6587", "x" * 5000,
    "word " * 30000, '"', '""', '"a" b', "a,b;c\td|e", "line\nline", "a\r\nb\rc", "{{ text }}", "{% for %}", "{}",
    "[1]",
    "=1+1", "'", "\\", "\\n", "\\ud800", "%s%n", "../../etc/passwd", "<a" * 2000, "thank you " * 40, "9" * 5000, "#",
    "",
)  # fmt: skip
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 2**63, 10**30, 0.0, -0.0, 1e308, float("nan"), float("inf"), [], {}, [[]], [None],
    {"a": None},
    [1, "a", None, {"b": [2]}], {"items": "x", "keys": 1}, [{"role": "user", "content": "q"}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": None}],
    [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
    [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], [{"role": "user", "content": [{"text": "q"}]}],
)  # fmt: skip
_NAMES = (
    "", " ", "text", "label", "my col", "a.b", "c-d", "1", "row", "self", "range", "dict", "loop", "items", "class",
    "\x1b[31m",
    "\u00e9", "x" * 3000, "text ", "TEXT", "namespace", "caller", "None", "messages", '"', "{{", "\ud800", "a,b",
    "sep=,",
)  # fmt: skip
_TEMPLATES = (
    "{{ text }}", "{{ text }}", "{{ label }}", "{{ text }} {{ label }}", "Review: {{ text }}\nSentiment:",
    "{{ row['my col'] }}",
    "{{ row }}", "{{ row | tojson }}", "{{ text | trim | upper }}", "{{ text | int }}",
    "{{ label | float | round(2) }}",
    "{{ messages[0].content }}", "{{ messages[-1]['content'] }}", "{{ messages | tojson }}", "{{ text.items }}",
    "{{ text.x.y }}",
    "{{ text ~ label }}", "{{ text + label }}", "{{ text * 3 }}", "{{ text * 10**10 }}", "{{ text * label }}",
    "{{ label ** 9 }}",
    "{{ text[1:] }}", "{{ text[::-1] }}", "{{ text[0] }}", "{{ text | list | join('-') }}",
    "{{ text | replace('a', text) }}",
    "{% for c in text %}{{ c }}{% endfor %}", "{% for i in range(99999) %}{{ text }}{% endfor %}",
    "{{ text | wordwrap(1) }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "{{ text | center(10**9) }}",
    "{{ '%s' % text }}", "{{ text % label }}", "{{ text | format(label) }}", "{{ text.format(label) }}",
    "{{ '{:{}}'.format(1, label) }}",
    "{{ text.split(label) }}", "{{ text.split() | map('length') | sum }}", "{{ text | striptags }}",
    "{{ text | truncate(9) }}",
    "{{ text.join([label, label]) }}", "{{ text is defined }}", "{{ text if label == '1' else label }}",
    "{{ text if label }}",
    "{{ text | map('upper') | join }}", "{{ text | selectattr('a') | list }}", "{{ text | groupby(0) }}",
    "{{ text | sort | first }}",
    "{{ text | tojson | indent(4) }}", "{{ text.__class__ }}", "{{ text | attr('__class__') }}", "{{ self }}",
    "{{ loop }}",
    "{{ range }}", "{{ namespace(a=text).a }}", "{% set x = text %}{{ x }}",
    "{% macro m(a) %}{{ a }}{{ m(a) }}{% endmacro %}{{ m(1) }}",
    "{% if text > label %}a{% else %}b{% endif %}", "{{ text > 0.5 }}", "{{ not text }}", "{{ (text, label) }}",
    "{{ {'a': text} }}",
    "{% include text %}", "{% import text as x %}", "{{ dict(a=text) | items | list }}",
    "{{ cycler(text, label).next() }}",
    "{{ text | xmlattr }}", "{{ text | urlize }}", "{{ text | batch(2, label) | list }}", "{{ joiner(text)() }}",
    "{{ 1 / label | int }}",
    "", " ", "{{", "{{ }}", "{% raw %}{{ text }}", "{{ text", "{{ my col }}", "{{ a.b }}", "{{ c-d }}",
    "{{ 'x' * 99 }}", "constant",
    "{{ text | " + "upper | " * 300 + "lower }}", "{{ " + "(" * 300 + "text" + ")" * 300 + " }}",
    "{{ " + "-" * 3000 + "1 }}",
)  # fmt: skip
_FILTERS = (
    None, None, None, "true", "text", "text != ''", "label == label", "score | float > 0.5", "score > 0",
    "text is string",
    "text | length > 3", "label in ['0', '1']", "row['my col'] is defined", "messages | length > 1", "not text",
    "text is defined",
    "text * 10**10 == 'x'", "10 ** 10 ** 10", "range(10**12) | list", "text.__class__", "}} {{ text", "1; 2",
    "text if", "loop",
    "text | random", "(text)", "text and text.x", "text ~ text > text", "false", "0", "none", "'%999999999d' % 1", "",
)  # fmt: skip
_CHOICES: tuple[Any, ...] = (
    None, None, None, ["0", "1"], [" 0", " 1"], ["no", "yes"], [0, 1], [True, False], ["nan", "None"], ["", " "],
    ["a", "a"], [None, "x"],
)  # fmt: skip
_ENDINGS = ("csv", "tsv", "json", "jsonl", "ndjson", "txt", "parquet", "csv.gz", "jsonl.gz", "json.gz", "xlsx", "")
_ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "utf-7", "cp037", "shift_jis")
_BYTES = (
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b'"',
    b"\r",
    b"\n",
    b",",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\\",
    b"\\u",
    b"PAR1",
    b"\x1f\x8b",
)


def prepare(work: Path) -> Any:
    """What reads data files, imported once."""
    import pyarrow.parquet  # noqa: F401

    from distill2edge.data.prepare import prepare as data_stage
    from distill2edge.data.row_sources import fingerprint
    from distill2edge.preflight.data import problems
    from distill2edge.recipe.load import parse_recipe

    return data_stage, fingerprint, problems, parse_recipe


def attempt(random: Random, prepared: Any, work: Path) -> None:
    """Look at one source as `recipe check` does, then make the data stage's splits of it."""
    from distill2edge.util.progress import SilentProgress

    data_stage, fingerprint, problems, parse_recipe = prepared
    recipe = parse_recipe(json.dumps({
        "name": "fuzz",
        "teacher": {"model": "owner/teacher"},
        "student": {"init": {"from": "teacher", "layers": 1}},
        "data": _section(random, _source(random, work)),
    }), "fuzz.yaml")  # fmt: skip
    list(problems(recipe, []))
    fingerprint(recipe.data.source)
    data_stage(recipe.data, 0, work / "out", _Quiet(SilentProgress()))


class _Quiet:
    """Warnings are made and not printed."""

    def __init__(self, progress: Any) -> None:
        self.task = progress.task

    def say(self, line: str) -> None:
        str(line)

    def warn(self, line: str) -> None:
        str(line)


def _section(random: Random, source: str) -> dict[str, Any]:
    calm = random.random() < 0.4  # few odd things at a time, so that cases get far

    def sane(usual: Any, odd: Any, share: float = 0.2) -> Any:
        return random.choice(odd) if not calm and random.random() < share else usual

    text = random.random() < 0.2
    section: dict[str, Any] = {
        "source": source,
        "template": "text" if text else random.choice(("chat", "plain")),
        "prompt": sane("{{ text }}", _TEMPLATES, 0.35),
        "response": "{{ text }}" if text else sane("{{ label }}", _TEMPLATES, 0.35),
        "filter": sane(None, _FILTERS),
        "choices": sane(None, _CHOICES),
        "splits": {
            "validation": sane(2, (0, 1, 5)),
            "calibration": sane(2, (0, 1, 5)),
            "train": sane(5, (None, 1, 10**9)),
        }
        | {"test": sane(4, (1, 2, 500))},
        "leakage": {"max_fraction": sane(1.0, (0.0, 0.01)), "action": random.choice(("drop", "keep"))},
        "split": sane(None, ("train", "all", "x"), 0.05),
    }
    return {name: value for name, value in section.items() if value is not None}


# --- a source -------------------------------------------------------------------


def _source(random: Random, work: Path) -> str:
    way = random.random()
    if way < 0.04:
        return random.choice((
            "", " ", ".", "..", "/dev/zero", "/dev/null", "/proc/self/mem", "~", "~nobody-here/x.csv",
            "x" * 5000 + ".csv", "a\x00b.csv",
            "package:", "package:json/__init__.py", "package:json/../x", "package:os//etc/passwd",
            "package:no.such/x", "*", "**/*",
            "[", "bundled:", "bundled:nothing", "./no.csv", "file:///etc/passwd", "\ud800.csv",
        ))  # fmt: skip
    if way < 0.08:
        path = work / "odd.csv"
        random.choice((lambda: path.symlink_to(path), lambda: path.symlink_to("nothing"), path.mkdir))()
        return str(path)
    if way < 0.18:
        folder = work / "splits"
        folder.mkdir()
        for name in random.sample(("train", "test", "validation", "dev", "train-2", "x"), random.choice((1, 2, 3))):
            _file(random, folder, name)
        return str(folder)
    return str(_file(random, work, "rows"))


def _file(random: Random, folder: Path, name: str) -> Path:
    ending = random.choice(_ENDINGS if random.random() < 0.1 else _ENDINGS[:-2])
    raw = _written(random, _rows(random), ending if random.random() < 0.9 else random.choice(_ENDINGS))
    if random.random() < 0.35:
        raw = _damaged(random, raw)
    if ending.endswith(".gz") and random.random() < 0.9:
        raw = gzip.compress(raw)
        if random.random() < 0.3:
            raw = _damaged(random, raw)
    path = folder / (f"{name}.{ending}" if ending else name)
    path.write_bytes(raw)
    return path


def _rows(random: Random) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [
        {
            "text": " ".join(random.choices(_WORDS, k=random.randint(1, 12))) + f" {n}",
            "label": str(n % 2),
            "score": n / 7,
        }
        for n in range(random.choice((0, 5, 30, 30, 60, 60)))
    ]
    if random.random() < 0.2:
        for row in rows:
            row["messages"] = [{"role": "user", "content": row["text"]}, {"role": "assistant", "content": row["label"]}]
    for _ in range(random.choice((0, 0, 1, 1, 3, 20))):
        if not rows:
            break
        row = random.choice(rows)
        what = random.randrange(6)
        if what < 3 and row:
            row[random.choice(list(row))] = random.choice(_TEXTS) if random.random() < 0.5 else random.choice(_VALUES)
        elif what == 3:
            row[random.choice(_NAMES)] = random.choice(_TEXTS)
        elif what == 4 and row:
            row.pop(random.choice(list(row)))
        else:
            rows.append(dict(row))
    if rows and random.random() < 0.1:
        old, new = random.choice(list(rows[0])) if rows[0] else "text", random.choice(_NAMES)
        rows = [{(new if name == old else name): value for name, value in row.items()} for row in rows]
    return rows


def _written(random: Random, rows: list[dict[str, Any]], ending: str) -> bytes:
    kind = ending.removesuffix(".gz")
    if kind == "parquet":
        return _parquet(random, rows)
    if kind in ("csv", "tsv"):
        text = _table(random, rows, "\t" if kind == "tsv" else random.choice(",,,;|\t"))
    elif kind == "json":
        text = random.choice(_SHAPES)(rows)
    elif kind == "txt":
        text = "\n".join(str(row.get("text")) for row in rows)
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=random.random() < 0.5) for row in rows)
    if random.random() < 0.1:
        return text.encode(random.choice(_ENCODINGS), "replace" if random.random() < 0.5 else "ignore")
    return text.encode("utf-8", "surrogatepass")


_SHAPES: tuple[Callable[[list[dict[str, Any]]], str], ...] = (
    json.dumps,
    json.dumps,
    lambda rows: json.dumps(rows, indent=1),
    lambda rows: json.dumps({"version": 1, "data": rows}),
    lambda rows: json.dumps({"a": rows, "b": rows}),
    lambda rows: json.dumps({name: [row.get(name) for row in rows] for name in ("text", "label")}),
    lambda rows: json.dumps(rows[0] if rows else None),
    lambda rows: "".join(json.dumps(row, indent=1) for row in rows),
    lambda rows: json.dumps([list(row.values()) for row in rows]),
    lambda rows: "[" * len(rows) * 5000,
    lambda rows: '{"a":' * len(rows) * 2000 + "1",
    lambda rows: f'[{{"text": {"9" * 5000}}}]',
    lambda rows: json.dumps(rows).replace("}, {", "},\n\n,{", 1),
    lambda rows: json.dumps(rows).replace('"label"', '"text"'),
    lambda rows: json.dumps(json.dumps(rows)),
)


def _table(random: Random, rows: list[dict[str, Any]], separator: str) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["text", "label"]
    out = io.StringIO()
    quoting = random.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONE))
    writer = csv.writer(
        out, delimiter=separator, quoting=quoting, escapechar="\\", lineterminator=random.choice(("\n", "\r\n", "\r"))
    )
    header = names if random.random() < 0.9 else [*names, random.choice(names)]
    writer.writerow(header)
    for row in rows:
        writer.writerow([row.get(name, "") for name in header])
    return (f"sep={separator}\n" if random.random() < 0.1 else "") + out.getvalue()


def _parquet(random: Random, rows: list[dict[str, Any]]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.BytesIO()
    try:
        table = pa.Table.from_pylist(rows)
        if random.random() < 0.2:
            odd = random.choice((
                pa.array([b"\xff\xfe"] * len(rows)), pa.array([2**62] * len(rows), pa.timestamp("s")),
                pa.array([1] * len(rows), pa.timestamp("ns")), pa.array([[1.5, None]] * len(rows)),
                pa.array([b"\xff"] * len(rows)).view(pa.string()), pa.array([2**40] * len(rows), pa.duration("ns")),
            ))  # fmt: skip
            table = table.append_column(random.choice(("label", "odd")), odd)
        pq.write_table(
            table, out, row_group_size=random.choice((1, 7, 1000)), compression=random.choice(("none", "zstd", "gzip"))
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError):  # rows that Parquet cannot hold
        return b"PAR1" + json.dumps(rows).encode("utf-8", "replace") + b"PAR1"
    return out.getvalue()


def _damaged(random: Random, raw: bytes) -> bytes:
    damaged = bytearray(raw)
    for _ in range(random.choice((1, 1, 2, 5, 40))):
        place, what = random.randrange(len(damaged) + 1), random.randrange(6)
        if what == 0:
            damaged[place:place] = random.choice(_BYTES)
        elif what == 1:
            del damaged[place : place + random.choice((1, 2, 10, 500))]
        elif what == 2 and place < len(damaged):
            damaged[place] ^= 1 << random.randrange(8)
        elif what == 3:
            damaged[place:place] = damaged[place : place + 50]
        elif what == 4:
            damaged[place:place] = random.choice(_BYTES) * random.choice((1, 100, 20_000))
        else:
            damaged = damaged[:place] if random.random() < 0.3 else damaged
    return bytes(damaged)
