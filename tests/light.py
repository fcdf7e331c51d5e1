"""Commands that must not load what they do not need: told by a fresh process's modules, where a clock would lie."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "llama_cpp", "datasets", "pandas", "scipy", "peft", "ray")
"""Libraries that take a good part of a second, or several, to import."""


def loads(*arguments: str | Path) -> list[str]:
    """Which of HEAVY a command loads.

    Args:
        arguments: of `distill2edge`; files that it reads may be new.

    Returns:
        their names.
    """
    code = (
        "import atexit, sys\n"
        f"atexit.register(lambda: print(*[n for n in {HEAVY!r} if n in sys.modules], file=sys.__stdout__))\n"
        "from distill2edge.util import remembered\n"
        "remembered.SETTLED_S = 0.0\n"
        "from distill2edge.cli.main import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1].split()
