"""What a change costs here: questions that are asked outside their one home, loose files, long functions, moved keys.

Read from the source with `ast` and `git`; the start of the command line is timed, interleaved with a bare Python.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from common import ROOT, bar, interleave, write_result

PACKAGE = ROOT / "distill2edge"
MOST = {
    "a loss": 2,
    "a quantization type": 2,
    "a scheme": 2,
    "a signal": 3,
    "a stage": 2,
    "a runtime": 2,
    "a task": 3,
    "a section of the report": 1,
    "a model family": 2,
}
"""Addition -> the most existing files that it may change, its own folder aside."""

_ASKS = r"\s*(==|!=|in|not in)\s*[(]*['\"]"
_TASK = re.compile(rf"recipe\.task\b\s*(==|!=|in|not in)|\.task{_ASKS}")
_KIND = re.compile(
    rf"is_encoder_decoder|is_classifier|\.is_decoder\b|endswith\(['\"]For|\barchitecture{_ASKS}(t5|bert)"
    rf"|\b(kind|role){_ASKS}(decoder|encoder-decoder|seq2seq|classifier|encoder)['\"]"
)


def sources() -> Iterator[Path]:
    """The package's Python files; the programs that ship alone are no part of it."""
    yield from (path for path in sorted(PACKAGE.rglob("*.py")) if not path.name.startswith("predict_"))


def code_of(path: Path) -> str:
    """A file without its docstrings and comments."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            body[0].value.value = ""
    return ast.unparse(tree)


def lines_with(pattern: re.Pattern[str], outside: tuple[str, ...]) -> list[str]:
    """`file: line` of each line of code with the pattern, outside some folders."""
    return [
        f"{path.relative_to(PACKAGE)}: {line.strip()}"
        for path in sources()
        if path.relative_to(PACKAGE).parts[0] not in outside
        for line in code_of(path).splitlines()
        if pattern.search(line)
    ]


def stage_names(outside: tuple[str, ...]) -> list[str]:
    """Look-ups of a stage by its name as a string: `x.kind == "merge"`, `found["distill"]` of a mapping of stages."""
    from distill2edge.stages import KINDS

    kinds = sorted(KINDS)
    names = "|".join(map(re.escape, kinds))
    asked = re.compile(rf"(?<!spec\.)\bkind{_ASKS}({names})['\"]|of_kind\(['\"]({names})|stages?\[['\"]({names})")
    return lines_with(asked, outside)


def functions() -> Iterator[tuple[int, str]]:
    """Lines and place of every function."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                yield lines, f"{path.relative_to(PACKAGE)}: {node.name}"


def moved_keys() -> list[str]:
    """Stages of the golden graphs whose keys are others than the committed ones."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT)]
    from golden import stages as golden

    held, found = json.loads(golden.FILE.read_text(encoding="utf-8")), golden.graphs()
    names = {(graph, stage) for graphs in (held, found) for graph, stages in graphs.items() for stage in stages}
    return [
        f"{graph}: {stage}"
        for graph, stage in sorted(names)
        if held.get(graph, {}).get(stage) != found.get(graph, {}).get(stage)
    ]


def additions() -> dict[str, int]:
    """What CONTRIBUTING.md adds -> existing files that it changes for it; a test applies every one of them."""
    from walk import additions as written

    return {each.title: len(each.changes) for each in written()}


def seconds_of(*command: str) -> float:
    """Wall time of a command."""
    began = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Count, time, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times = interleave(
        {
            "--help": lambda: seconds_of("-m", "distill2edge", "--help"),
            "a bare Python": lambda: seconds_of("-c", ""),
        },
        rounds,
    )
    tasks = lines_with(_TASK, ("tasks",))
    kinds = lines_with(_KIND, ("tasks", "models"))
    stages = stage_names(("stages",))
    loose = sorted(path.name for path in PACKAGE.glob("*.py"))
    longest = sorted(functions(), reverse=True)
    moved = moved_keys()
    help_s = statistics.median(times["--help"])
    bars = [bar(f"existing files to change: {title}", count, "<=", MOST[title]) for title, count in additions().items()]
    bars += [
        bar("questions of the task outside tasks/", len(tasks), "<=", 0, note="; ".join(tasks[:3])),
        bar("questions of a model's kind outside tasks/, models/", len(kinds), "<=", 0, note="; ".join(kinds[:3])),
        bar("stage names as strings outside stages/", len(stages), "<=", 0, note="; ".join(stages[:3])),
        bar("files in the package's own folder", len(loose), "<=", 4, note=", ".join(loose)),
        bar("longest function [lines]", longest[0][0], "<=", 60, note=longest[0][1]),
        bar("golden stage keys moved", len(moved), "<=", 0, note="; ".join(moved[:3])),
        bar("distill2edge --help [s]", round(help_s, 3), "<", 0.3, unit="s",
            note=f"a bare Python takes {statistics.median(times['a bare Python']):.3f} s"),
    ]  # fmt: skip
    path = write_result(
        "structure",
        "python benchmarks/structure.py",
        description="What a change costs: files to change for an addition, questions asked outside their home, "
        "loose files, long functions, moved keys, and the start of the command line",
        bars=bars,
        samples=times,
        metrics={
            "task questions": tasks,
            "kind questions": kinds,
            "stage names": stages,
            "functions over 60 lines": [f"{lines} {name}" for lines, name in longest if lines > 60],
            "package files": len(list(sources())),
            "package lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in sources()),
        },
        seeds=[],
    )
    print(f"written: {path}")


if __name__ == "__main__":
    main()
