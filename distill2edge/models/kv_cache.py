"""The types in which llama.cpp keeps keys and values while a decoder writes; other runtimes keep them as numbers."""

from __future__ import annotations

from typing import Literal, get_args

CacheType = Literal["f16", "q8_0", "q4_0"]
TYPES: tuple[str, ...] = get_args(CacheType)
PLAIN: CacheType = "f16"
"""llama.cpp's own choice: what every file is measured with, and what runs where nothing else is asked for."""
MARK = "+kv-"
"""In the id of a file that is measured with another one: `student/gguf:Q8_0+kv-q8_0`."""
