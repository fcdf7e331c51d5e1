"""How a GGUF is run with keys and values in fewer bits, where a recipe measures it so: told beside the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distill2edge.data.model_inputs import FILE
from distill2edge.models.kv_cache import PLAIN
from distill2edge.util.files import read_json, write_json, write_text

_USE = """
## Keys and values in fewer bits

The run's report says what each type costs in quality, and what it saves. Without an option they are kept in {plain}.

    python predict.py --kv-cache {first} "your text"
    distill2edge chat . --kv-cache {first}
    llama-cli -m model.gguf -fa on -ctk {first} -ctv {first}
    OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={first} ollama serve

Measured: {all}.
"""
_MODELFILE = """# Keys and values in fewer bits are the server's setting, measured with this file in {all}:
# OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={first} ollama serve
"""


def tell_of_caches(directory: Path, caches: Sequence[str]) -> None:
    """Write into USE.md, Modelfile and input.json (`kv_cache`) of an export which types are measured.

    Args:
        caches: other than llama.cpp's own.
    """
    words = {"plain": PLAIN, "first": caches[0], "all": ", ".join((PLAIN, *caches))}
    write_json(directory / FILE, {**read_json(directory / FILE), "kv_cache": [PLAIN, *caches]})
    for name, text in (("USE.md", _USE), ("Modelfile", _MODELFILE)):
        if (directory / name).is_file():
            written = (directory / name).read_text(encoding="utf-8")
            write_text(directory / name, written + text.format(**words))
