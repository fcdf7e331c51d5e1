"""Hostile checks and responses against the sandbox: as root and as a user without rights, with and without namespaces.

As root it runs all four; as another user, the two that it can. Takes some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, bar, write_result

sys.path.insert(0, str(ROOT / "tests"))

from attacks.cases import ATTACKS

_NOBODY = 65534


def main() -> None:
    """Run every attack everywhere and write results/attacks.json."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    users = [0, _NOBODY] if os.getuid() == 0 else [os.getuid()]
    found: dict[str, dict[str, Any]] = {}
    for user in users:
        for namespaces in (True, False):
            name = f"{'root' if user == 0 else 'user'}, {'namespaces' if namespaces else 'filter alone'}"
            for forge in (False, True):
                spec = {"user": user, "namespaces": namespaces, "forge": forge}
                what = "forgeries" if forge else "attacks"
                found[f"{what}, {name}"] = run = _run("attacks.world", json.dumps(spec))
                print(f"{what}, {name}: {run['attempts']} attempts, {len(run['escapes'])} escapes", flush=True)
                print("".join(f"  {escape}\n" for escape in run["escapes"]), end="")
    without = _run("attacks.bare")
    print(f"without the walls: {without['attacks out']} of {without['attacks tried']} attacks get out, "
          f"{without['forgeries believed']} of {without['forgeries tried']} forgeries are believed")  # fmt: skip
    bars = [bar("different attacks", len(ATTACKS), ">=", 60)]
    bars += [bar(f"escapes: {name}", len(run["escapes"]), "<=", 0) for name, run in found.items()]
    for what, out, tried, target in (
        ("attacks", "attacks out", "attacks tried", 0.5),
        ("forgeries", "forgeries believed", "forgeries tried", 0.3),  # a third of them only try to break something
    ):
        share = without[out] / without[tried]
        bars.append(bar(f"{what} that succeed without the walls, share", share, ">=", target))
    path = write_result(
        "attacks",
        "python benchmarks/attacks.py",
        description="hostile code against the sandbox of checks; an escape is what the world around it shows",
        bars=bars,
        samples={
            name: {
                "attempts": run["attempts"],
                "outcomes": {key: placeless(said) for key, said in run["outcomes"].items()},
            }
            for name, run in found.items()
        },
        metrics={"without the walls": without, "held": {name: run.get("held") for name, run in found.items()}},
    )
    print(f"written: {path}")


def placeless(said: str) -> str:
    """What an attempt said, with the folders of this machine by what they are."""
    for folder, name in ((str(ROOT), "REPOSITORY"), (sys.base_prefix, "PYTHON"), (tempfile.gettempdir(), "TEMPORARY")):
        said = said.replace(folder, name)
    return said.replace(f"{Path.home()}/", "HOME/")


def _run(module: str, *arguments: str) -> dict[str, Any]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


if __name__ == "__main__":
    main()
