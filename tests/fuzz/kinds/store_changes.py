"""A store and run directories that were damaged: cut, emptied, swapped, linked, of other types; fields that lie."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from random import Random
from typing import Any

COUNT = 300
_KEYS = tuple(f"{letter}" * 64 for letter in "abcde")
_VALUES = (
    None, True, -1, 0, 10**22, 10**400, 1e308, float("nan"), float("inf"), "", "x", "\x1b]0;owned\x07", "\u202e",
    "../../x", "/etc/passwd", "a\0b", "9" * 5000, "x" * 100_000, [], {}, [None], [[]], {"path": 5}, {"value": "x"},
    "2026-13-45T99:99:99Z", ["student"] * 3,
)  # fmt: skip


def prepare(work: Path) -> Any:
    """A store of five artifacts and two runs of it."""
    import report_fixtures

    from distill2edge.cli import browse, chat, main  # noqa: F401
    from distill2edge.data import ledger
    from distill2edge.pipeline.store import Store
    from distill2edge.util.progress import SilentProgress

    store = Store(work / "store")
    row = ledger.LedgerRow.make(
        "p", "r", ledger.Origin("t"), id="1f", method="text", settings={"seed": 0}, verdicts=[ledger.Verdict("v", True)]
    )

    def write(directory: Path) -> dict[str, Any]:
        (directory / "model").mkdir()
        (directory / "model" / "model.safetensors").write_bytes(bytes(2000))
        (directory / "train.json").write_text('{"schema_version": 1}')
        ledger.write(directory, [row] * 3)
        return {"parameters": 5}

    for number, key in enumerate(_KEYS):
        store.build(("data", "signal")[number % 2], key, {}, {"a": 1}, 0, write, SilentProgress())
    (store.root / "partial" / "export-cc").mkdir(parents=True)
    (store.root / "partial" / "export-cc" / "base.gguf").write_bytes(bytes(100))
    for name in ("one", "two"):
        out = work / "runs" / name
        (out / "exports" / f"{name}-onnx-int8").mkdir(parents=True)
        (out / "exports" / f"{name}-onnx-int8" / "model.onnx").write_bytes(bytes(50))
        (out / "exports" / f"{name}-Q8_0.gguf").write_bytes(b"GGUF" + bytes(50))
        report = report_fixtures.report()
        report["name"] = name
        (out / "report.json").write_text(json.dumps(report))
        (out / "report.md").write_text("# report\n")
        stages = [{"stage": "data", "key": key, "wall_s": 1.0} for key in _KEYS[:2]]
        (out / "run.json").write_text(json.dumps({"schema_version": 1, "name": name, "stages": stages}))
        (out / "exports.json").write_text(json.dumps({"schema_version": 1, "files": []}))
        ledger.write(out, [row])
        (out / ledger.FILE).rename(out / "ledger-signal.parquet")
    return work


def attempt(random: Random, prepared: Any, work: Path) -> None:
    """Damage a copy, then look at it in every way that the command line has."""
    from distill2edge.errors import UserError

    for name in ("store", "runs"):
        shutil.copytree(prepared / name, work / name, symlinks=True)
    for _ in range(random.randint(1, 3)):
        _damage(random, work)
    refused: list[UserError] = []
    looks = _looks(work)
    random.shuffle(looks)
    for look in looks:
        try:
            look()
        except UserError as error:
            refused.append(error)
    if refused:
        assert all(str(error).strip() for error in refused)
        raise refused[0]


def _looks(work: Path) -> list[Any]:
    from distill2edge.cli import browse
    from distill2edge.pipeline.store import Store
    from distill2edge.running import housekeeping, reading
    from distill2edge.running.comparison import compare
    from distill2edge.running.finished import open_run
    from distill2edge.util.progress import SilentProgress

    root, runs = work / "store", [work / "runs" / name for name in ("one", "two")]
    store = Store(root)

    def get() -> None:
        for number, key in enumerate(_KEYS):
            found = store.get(("data", "signal")[number % 2], key)
            if found is not None:
                assert found.key == key
                assert (found.size, found.facts) is not None

    def build() -> None:
        def write(directory: Path) -> dict[str, Any]:
            (directory / "x").write_text("x")
            return {}

        store.prepare()
        made = store.build("data", _KEYS[0], {}, {}, 0, write, SilentProgress())
        assert made.key == _KEYS[0]

    def report(run: Path) -> None:
        directory = reading.find_run(run)
        reading.load_report(run)
        for name in ("report.md", "report.json"):
            reading.read_page(directory / name)

    def opened(run: Path) -> None:
        found = open_run(run, store=root)
        assert all(artifact.size >= 0 for artifact in found.artifacts.values())
        assert (found.exports, found.report.gates, found.report.models) is not None

    def browsed(target: Path) -> None:
        browse.show(browse.select(target, dropped=None, reason=None, method=None), 5, as_json=False)
        browse.stats(target, as_json=False)
        browse.why("1f", target, root, as_json=True)

    return [
        get,
        build,
        lambda: housekeeping.render_store(housekeeping.list_store(root)),
        lambda: housekeeping.collect_garbage(root, runs, 0, delete=False),
        lambda: housekeeping.collect_garbage(root, runs[:1], 0, delete=True),
        lambda: compare(runs, allow_different=True).write_html(work / "page.html"),
        lambda: str(compare(runs)),
        *(lambda run=run: opened(run) for run in runs),
        *(lambda run=run: report(run) for run in runs),
        *(lambda run=run: reading.choose_export(run, None) for run in runs),
        *(lambda run=run: browsed(run) for run in runs),
        lambda: browse.why("1f", None, root, as_json=False),
    ]


def _damage(random: Random, work: Path) -> None:
    places = sorted(path for name in ("store", "runs") for path in (work / name, *(work / name).rglob("*")))
    named = [path for path in places if path.suffix in (".json", ".parquet", ".md") and not path.is_symlink()]
    path = random.choice(named if named and random.random() < 0.7 else places)
    if path.suffix == ".json" and path.is_file() and path.stat().st_size < 1 << 20 and random.random() < 0.6:
        _lie(random, path)
        return
    way = random.randrange(9)
    if way < 4 and path.is_file() and path.stat().st_size < 1 << 20:
        data = path.read_bytes()
        cut = random.randint(0, len(data))
        path.write_bytes((b"", data[:cut], data[:cut] + random.randbytes(9) + data[cut:], random.randbytes(200))[way])
        return
    other = random.choice(places)
    _remove(path)
    if way == 4:
        return  # it is gone
    path.parent.mkdir(parents=True, exist_ok=True)
    if way == 5:
        path.symlink_to(random.choice(("/nowhere", path.name, "/etc", "/dev/zero", str(other), "..")))
    elif way == 6:
        path.mkdir()
        (path / "x").write_text("x")
    elif way == 7:
        os.mkfifo(path)
    elif other.is_file():
        shutil.copyfile(other, path)
    else:
        with path.open("wb") as file:  # takes no room on the disk, but would in memory
            file.truncate(5 << 30)


def _lie(random: Random, path: Path) -> None:
    """Another value, or none, at a random place of a JSON document."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError:
        return
    value = random.choice(_VALUES)
    spot, parent, key = document, None, None
    while isinstance(spot, (dict, list)) and spot and (parent is None or random.random() < 0.75):
        parent = spot
        key = random.choice(sorted(spot)) if isinstance(spot, dict) else random.randrange(len(spot))
        spot = spot[key]
    if parent is None:
        document = value
    elif random.random() < 0.2:
        del parent[key]
    else:
        parent[key] = value
    text = json.dumps(document)
    if random.random() < 0.05:
        text = '{"schema_version": 1, "files": ' + "[" * 50_000
    path.write_text(text)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):
        path.unlink()
