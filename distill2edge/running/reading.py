"""What stands in a run directory: its documents, and the files to ship."""

from __future__ import annotations

import json
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from distill2edge.errors import UserError
from distill2edge.quantize.schemes import meant_scheme, parse_scheme, schemes_in
from distill2edge.report.check import check_report
from distill2edge.util.files import read_regular
from distill2edge.util.nearest import nearest

Document = dict[str, Any]


def exported(run: Path) -> list[Path]:
    """The files and directories in `exports` of a run; nothing hidden (a copy that was killed), no links.

    Raises:
        UserError: `exports` is a link, or one is in it.
    """
    exports = run / "exports"
    found = [exports, *sorted(path for path in exports.rglob("*") if not path.name.startswith("."))]
    if links := [str(path) for path in found if path.is_symlink()]:
        raise UserError("a link, which may lead out of the run", where=links[0], fix="put the file itself there")
    return [path for path in found[1:] if not any(part.startswith(".") for part in path.relative_to(exports).parts)]


def near_run(target: Path) -> str:
    """`did you mean X? ` for a run beside a directory that is none, or in runs/."""
    for folder in (target.parent, Path("runs")):
        with suppress(OSError):
            names = [each.name for each in islice(folder.iterdir(), 2000) if (each / "report.json").is_file()]
            if near := nearest(target.name, names):
                return f"did you mean {folder / near}? "
    return ""


def find_run(target: Path) -> Path:
    """The run directory that a directory, or a recipe file, stands for.

    Raises:
        UserError: nothing was run there.
    """
    directory = target
    if target.is_file() and target.suffix in (".yaml", ".yml"):
        from distill2edge.recipe.load import load_recipe

        directory = Path("runs") / load_recipe(target).name
    if not (directory / "report.json").is_file():
        if directory == target and not (directory / "run.log").is_file():
            what = "no report here" if target.exists() else "nothing there"
            fix = f"{near_run(target)}give a run directory, such as runs/NAME, or its recipe"
            raise UserError(what, where=str(target), fix=fix)
        raise UserError(
            "no report here", where=str(directory),
            fix=f"run its recipe to the end: distill2edge run {target if directory != target else 'RECIPE'}",
        )  # fmt: skip
    return directory


def refuse_seeds(run: Path, command: str = "") -> None:
    """See that a run directory, if it is one, has files of its own: those of several seeds lie in `seed-N`.

    Args:
        command: that reads files, for the message (`distill2edge chat`).

    Raises:
        UserError: the report is one over several seeds.
    """
    if not (run / "report.json").is_file():
        return
    seeds = (load_report(run).get("seeds") or {}).get("seeds")
    if seeds:
        listed = ", ".join(f"seed-{seed}" for seed in seeds)
        raise UserError(
            f"a run over several seeds: each has files of its own ({listed})", where=str(run),
            fix=f"name one: {command} {run / f'seed-{seeds[0]}'}".replace("  ", " "),
        )  # fmt: skip


def load_report(target: Path) -> Document:
    """report.json of a run.

    Raises:
        UserError: nothing was run there, or it is not readable.
    """
    path = find_run(target) / "report.json"
    return check_report(read_document(path), str(path))


def read_page(path: Path) -> str:
    """The text of a document of a run directory.

    Raises:
        UserError: it is missing, or cannot be read.
    """
    fix = "run its recipe again"
    try:
        return read_regular(path).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError("no such file", where=str(path), fix=fix) from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path), fix=fix) from error
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8", where=str(path), fix=fix) from error


def read_document(path: Path) -> Document:
    """A JSON object of a run directory.

    Raises:
        UserError: it is missing, or no JSON object.
    """
    fix = "run its recipe again"
    try:
        document = json.loads(read_page(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"not JSON: {error}", where=str(path), fix=fix) from error
    if not isinstance(document, dict):
        raise UserError("not a JSON object", where=str(path), fix=fix)
    return document


def stages_of(run: Path) -> list[tuple[str, str]]:
    """Name and key of every stage that a run directory was made of; of several seeds, those of each.

    Raises:
        UserError: no run directory, or one whose run.json is damaged.
    """
    file = run / "run.json"
    if not file.is_file():
        fix = "name a directory such as runs/quickstart"
        raise UserError("not a run directory: no run.json", where=str(run), fix=fix)
    stages = read_document(file).get("stages")
    if not isinstance(stages, list) or not all(isinstance(one, dict) and "key" in one for one in stages):
        raise UserError("damaged: it names no stages", where=str(file), fix="run its recipe again")
    return [(str(one.get("stage", "")), str(one["key"])) for one in stages]


def choose_export(target: Path, scheme: str | None) -> Path:
    """The model file or directory that `target` stands for; of a run (its directory or recipe), one of its exports.

    Raises:
        UserError: nothing there, no such scheme (names what is there), or a run over several seeds.
    """
    if target.is_file() and target.suffix in (".yaml", ".yml"):
        target = find_run(target)
    refuse_seeds(target, "distill2edge chat")
    exports = target / "exports"
    if not exports.is_dir():
        if not target.exists():
            fix = f"{near_run(target)}give a run directory, a .gguf file or a model directory"
            raise UserError("nothing there", where=str(target), fix=fix)
        return target
    found = sorted((path for path in exported(target) if path.parent == exports), key=weight_of)
    if scheme is None:
        return _smallest_passed(target, found)
    with suppress(ValueError):  # names what is there, below
        scheme = str(parse_scheme(scheme))
    name = scheme.partition(":")[2]
    slug = scheme.replace(":", "-")
    for path in found:
        if path.name.endswith(f"-{name}.gguf") or path.name.endswith(f"-{slug}"):
            return path
    there = schemes_in(path.name for path in found)
    fix = f"{meant_scheme(scheme, there)}there are: {', '.join(there)}"
    raise UserError(f"no {scheme} in this run", where=str(exports), fix=fix)


def weight_of(path: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    files = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _smallest_passed(run: Path, found: list[Path]) -> Path:
    if not found:
        raise UserError("this run has no exports", where=str(run), fix="run its recipe again")
    failed: set[str] = set()
    if (run / "report.json").is_file():
        gates = load_report(run)["gates"]
        failed = {gate["model"].partition("/")[2] for gate in gates if not gate["passed"]}
    for path in found:
        if not any(
            path.name.endswith((f"-{s.partition(':')[2]}.gguf", f"-{s.replace(':', '-')}")) for s in failed if s
        ):
            return path
    return found[0]
