"""Runs llama.cpp's `convert_hf_to_gguf.py` in this process: `python -m ... SCRIPT OWN ARGUMENTS...`.

Code of a model's repository is never run, whatever the converter asks of transformers. Where OWN is 1 the vocabulary is
left out: the exporter writes its own, which it compares with the model's tokenizer.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distill2edge.util.interrupts import PARENT, die_with_parent


def main(argv: list[str]) -> None:
    """Run the script as if it had been called with ARGUMENTS."""
    die_with_parent(int(os.environ[PARENT]) if PARENT in os.environ else None)
    script, own = Path(argv[0]), argv[1] == "1"
    # Its own `gguf` knows architectures that an installed one may lack.
    sys.path[:0] = [str(script.parent), str(script.parent / "gguf-py")]
    sys.argv = [str(script), *argv[2:]]
    _no_remote_code()
    if (script.parent / "conversion").is_dir():
        _adapt(own)
    runpy.run_path(str(script), run_name="__main__")


def _no_remote_code() -> None:
    from transformers import dynamic_module_utils

    def refuse(*_: Any, **__: Any) -> Any:
        raise ValueError("the model asks for code of its own repository, which is never run")

    dynamic_module_utils.get_class_from_dynamic_module = refuse


def _adapt(own: bool) -> None:
    import conversion

    known: Callable[..., Any] = conversion.get_model_class

    def adapted(*arguments: Any, **named: Any) -> Any:
        found = known(*arguments, **named)
        found.no_mtp = True  # transformers drops the heads that predict further tokens, whatever the configuration says
        if own:
            found.set_vocab = lambda self: None
        return found

    conversion.get_model_class = adapted


if __name__ == "__main__":
    main(sys.argv[1:])
