"""The headers of a C++ pack: how the model was trained to read, and the reference, as constants."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_CHUNK = 512


def form_header(form: Mapping[str, Any], model: str) -> str:
    """`form.h`: what stands around a text, in tokens and in words.

    Args:
        form: input.json.
        model: its id in the report.
    """
    frame = form["frame"]
    lines = [
        "#pragma once",
        "#include <string>",
        "#include <vector>",
        f"static const char *const MODEL_ID = {_text(model)};",
        'static const char *const FILE_NAME = "model.gguf";',
        f"static const int CONTEXT = {int(form['context'])}, CHUNK = {_CHUNK};",
        f"static const bool STRIP = {'true' if frame['strip'] else 'false'};",
        f"static const std::string BEFORE = {_text(''.join(frame['before']))};",
        f"static const std::string AFTER = {_text(''.join(frame['after']))};",
        f"static const std::vector<int> HEAD = {_numbers(form['head'])};",
        f"static const std::vector<int> STOP = {_numbers(form['stop'])};",
    ]
    return "\n".join(lines) + "\n"


def reference_header(reference: Mapping[str, Any]) -> str:
    """`reference.h`: probes, outcomes and their log-probabilities, tolerance and bytes of the cache.

    Args:
        reference: what `pack.record` tells.
    """
    ids = np.frombuffer(base64.b64decode(reference["ids"]), dtype="<u4").tolist()
    known = np.frombuffer(base64.b64decode(reference["logprobs"]), dtype="<f4")
    probes = ",\n".join(
        f"    {{{_text(probe['texts'][0])}, {_numbers(probe['ids'])}, {probe['prompt']}, {probe['start']}}}"
        for probe in reference["probes"]
    )
    lines = [
        "#pragma once",
        "#include <string>",
        "#include <vector>",
        "struct Probe { std::string text; std::vector<int> ids; int prompt, start; };",
        f"static const std::vector<Probe> PROBES = {{\n{probes}}};",
        f"static const int OUTCOMES = {int(reference['outcomes'])};",
        f"static const std::vector<unsigned> IDS = {_numbers(ids)};",
        f"static const std::vector<float> LOGPROBS = {{{','.join(map(_float, known))}}};",
        f"static const double TOLERANCE = {float(reference['tolerance'])!r};",
        f"static const long long CACHE_BYTES = {int(reference['cache_bytes'])};",
    ]
    return "\n".join(lines) + "\n"


def _numbers(values: Sequence[int]) -> str:
    return "{" + ",".join(str(int(value)) for value in values) + "}"


def _float(value: float) -> str:
    said = f"{float(value):.9e}"  # as many digits as tell every float apart
    return f"{said}f"


def _text(said: str) -> str:
    """A string literal of C++: what is no plain ASCII as octal escapes of its UTF-8, three digits each."""
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and chr(byte) not in '"\\?' else f"\\{byte:03o}"
        for byte in said.encode("utf-8", "replace")
    )
    return f'"{plain}"'
